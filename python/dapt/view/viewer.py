"""The page of `dapt view`."""

from collections.abc import Mapping, Sequence

from dapt.view.clouds import Cloud
from dapt.view.page import VIEWER, self_contained
from dapt.view.style import MAPS

Names = Mapping[str, Sequence[tuple[str, str]]]  # tables of (name, color)


def content_of(clouds: Sequence[Cloud], names: Names) -> tuple[dict, list[str]]:
    """The input of the viewer's scripts: the page's JSON, and the packed blocks of the clouds.

    Args:
        clouds: The clouds to show.
        names: The tables of names and colors that channels refer to.
    """
    packed = [cloud.pack() for cloud in clouds]
    tables = {
        table: [{"name": name, "color": color} for name, color in entries]
        for table, entries in names.items()
    }
    headers = [header for header, _ in packed]
    return {"clouds": headers, "names": tables, "maps": MAPS}, [block for _, block in packed]


def viewer_page(clouds: Sequence[Cloud], names: Names) -> str:
    """Assemble the page that shows clouds.

    Args:
        clouds: The clouds to show, at least one.
        names: The tables of names and colors that channels refer to.
    """
    content, blocks = content_of(clouds, names)
    title = f"{clouds[0].name} – dapt view"
    body = '<body class="whole"><div id="here"></div>'
    styles = ("base.css", "viewer.css")
    return self_contained(title, body, styles, (*VIEWER, "view.js"), content, blocks)
