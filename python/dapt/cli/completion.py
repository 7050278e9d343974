"""Shell completion: put `eval "$(register-python-argcomplete dapt)"` in the shell's startup file.

The shell runs `dapt` with the current line; each command's own parser then offers completions.
"""

import os
from argparse import ArgumentParser
from collections.abc import Iterable

ASKS = "_ARGCOMPLETE"  # set by the shell; the index of the first word for the parser


def is_asked() -> bool:
    """Whether the shell is asking for completions."""
    return ASKS in os.environ


def words_so_far(commands: Iterable[str]) -> list[str]:
    """The command and its words before the one being completed.

    Args:
        commands: The names of all commands. If the command itself is being typed, it is
            completed here and the process ends.
    """
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = argcomplete.split_line(line, point)[3]
    start = int(os.environ[ASKS])
    if len(words) <= start:
        parser = ArgumentParser(prog="dapt")
        parser.add_argument("command", choices=list(commands))
        argcomplete.autocomplete(parser)
    os.environ[ASKS] = str(start + 1)  # the command's parser knows only its own options
    return words[start:]


def complete(parser: ArgumentParser) -> None:
    """Send the completions to the shell and end the process.

    Args:
        parser: The command's parser.
    """
    import argcomplete

    plain = ArgumentParser(prog=parser.prog, add_help=False)
    for action in parser._actions:
        if action.option_strings:
            choices = action.choices and list(map(str, action.choices))
            plain.add_argument(*action.option_strings, nargs="?", choices=choices)
    plain.add_argument("files", nargs="*")
    argcomplete.autocomplete(plain)
