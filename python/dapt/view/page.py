"""A self-contained HTML file that requests nothing from the network.

Its Content-Security-Policy forbids requests of any kind and runs only the scripts written here.
Text from files and datasets reaches the page as JSON or escaped, never as markup.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files

from dapt.errors import shown

ASSETS = files("dapt.view") / "page"
VIEWER = ("three.min.js", "dom.js", "clouds.js", "colors.js", "stage.js", "viewer.js")


def asset(name: str) -> str:
    """The text of a file of the page.

    Args:
        name: The name of a file in `view/page`.
    """
    return (ASSETS / name).read_text(encoding="utf-8")


def self_contained(
    title: str,
    body: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    content: dict,
    blocks: Sequence[str] = (),
) -> str:
    """Assemble the page.

    Args:
        title: The title of the window.
        body: The markup, in which all foreign text is escaped.
        styles: The names of style sheets among the assets.
        scripts: The names of scripts among the assets, which share one scope, in this order.
        content: The content that the scripts read as JSON.
        blocks: The bytes of clouds, in base64.
    """
    style = "\n".join(map(asset, styles))
    script = '"use strict";\n' + "\n".join(map(asset, scripts))
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    carried = "\n".join(
        f'<script type="text/plain" id="cloud-{i}">{block}</script>'
        for i, block in enumerate(blocks)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
{body}
<script type="application/json" id="page">{_json(content)}</script>
{carried}
<script>{script}</script>
</html>
"""


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _json(content: dict) -> str:
    """JSON that an HTML parser cannot mistake for markup."""
    text = json.dumps(_visible(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _visible(content):
    """Make invisible characters in all strings visible."""
    if isinstance(content, str):
        return shown(content)
    if isinstance(content, Mapping):
        return {key: _visible(value) for key, value in content.items()}
    return [_visible(value) for value in content] if isinstance(content, list | tuple) else content


def text(words: object) -> str:
    """Escape anything as text, safe in an element and in an attribute.

    Args:
        words: The value to show, by `str`; long text is shortened.
    """
    return html.escape(shown(words))
