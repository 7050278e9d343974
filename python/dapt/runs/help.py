"""Help on settings: docstrings and readable types for `--help`, suggestions for wrong flags."""

import difflib
import re
from argparse import SUPPRESS, Action
from collections.abc import Iterable, Sequence

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from dapt.plugins import OPTION

_WORDS = {"bool": "{true,false}", "int": "N", "float": "X", "Path": "PATH", "str": "TEXT"}


class SettingsHelp(DefaultHelpFormatter):
    """Shows a flag's values where argparse prints its name in capitals, without types."""

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if action.required:
            return f"{text} (required)"
        has_default = action.option_strings and action.default not in (None, SUPPRESS)
        return f"{text} (default: {_plain(action.default)})" if has_default else text

    def _get_default_metavar_for_optional(self, action: Action) -> str:
        kind = self._get_type_str(action) or ""
        if choices := re.search(r"Literal\[(.*?)\]", kind):  # besides other types
            return "{" + re.sub("[' ]", "", choices[1]) + "}"
        words = [re.sub(r"^<class '(.*)'>$", r"\1", word) for word in kind.split(" | ")]
        return next((_WORDS[word] for word in words if word in _WORDS), "VALUE")

    def _format_action_invocation(self, action: Action) -> str:
        if action.dest == "imports":
            return f"{OPTION} MODULE"
        text = super()._format_action_invocation(action)
        return text.replace(".name", "", 1) if action.dest.endswith(".name") else text


def _plain(value: object) -> str:
    """A default as the user would type it."""
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.lower() if isinstance(value, bool) else text.replace("%", "%%")


def describe(parser: ArgumentParser, section: str, name: str, kind: type) -> None:
    """Give the group of a section's options a heading that names their owner.

    Args:
        parser: A parser that already has the group.
        section: data, backbone, method or task.
        name: The chosen name.
        kind: Its settings class, whose docstring becomes the description of the group.
    """
    group = parser.groups[section]
    group.title = f"options of {section} {name}"
    group.description = parse_docstring(kind.__doc__ or "").short_description
    for action in group._group_actions:
        if action.dest == section:  # jsonargparse's own `--data FILE`; here it takes a name
            action.help = SUPPRESS


def hint(message: str, known: Iterable[str]) -> str:
    """Improve the parser's message; an unknown flag is answered with the nearest known one.

    Args:
        message: The parser's message.
        known: All flags.
    """
    found = re.search(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
    if not found:
        return message
    known = [flag for flag in known if flag.startswith("--") and not flag.endswith("!")]
    words = [word.partition("=")[0] for word in found[1].split() if word.startswith("-")]
    for word in (word for word in words if word not in known):
        near = _nearest(word, known)
        also = f"did you mean {near}?" if near else "see --help for all options"
        return f"there is no option {word}: {also}"
    return message


def _nearest(word: str, known: Sequence[str]) -> str | None:
    """--batch-size -> --batch_size, --rank -> --method.rank, --epcohs -> --epochs"""
    asked = "--" + word.lstrip("-").replace("-", "_").lower()
    inner = [flag for flag in known if flag.endswith(f".{asked[2:]}")]
    if asked in known or inner:
        return asked if asked in known else inner[0]
    close = difflib.get_close_matches(asked, known, n=1, cutoff=0.7)
    if close:
        return close[0]
    last = {flag.rpartition(".")[2].lstrip("-"): flag for flag in known}
    close = difflib.get_close_matches(asked.rpartition(".")[2].lstrip("-"), last, n=1, cutoff=0.75)
    return last[close[0]] if close else None
