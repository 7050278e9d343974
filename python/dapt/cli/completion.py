"""What the shell completes: `eval "$(register-python-argcomplete dapt)"` in its start file.

The shell starts `dapt` with the line as it stands; each command's own parser then says what fits.
"""

import os
from argparse import ArgumentParser
from collections.abc import Iterable

ASKS = "_ARGCOMPLETE"  # set by the shell; from which word on the parser's own words stand


def is_asked() -> bool:
    """Whether the shell wants to know what could stand here."""
    return ASKS in os.environ


def words_so_far(commands: Iterable[str]) -> list[str]:
    """The command and its words before the one that is completed.

    Args:
        commands: Names of all; while one of them is being typed it is completed here, and the
            process ends.
    """
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    words = argcomplete.split_line(line, point)[3]
    start = int(os.environ[ASKS])
    if len(words) <= start:
        parser = ArgumentParser(prog="dapt")
        parser.add_argument("command", choices=list(commands))
        argcomplete.autocomplete(parser)
    os.environ[ASKS] = str(start + 1)  # the command's parser knows its own options alone
    return words[start:]


def complete(parser: ArgumentParser) -> None:
    """Tell the shell what could stand next; the process ends.

    Args:
        parser: Of the command.
    """
    import argcomplete

    plain = ArgumentParser(prog=parser.prog, add_help=False)
    for action in parser._actions:
        if action.option_strings:
            choices = action.choices and list(map(str, action.choices))
            plain.add_argument(*action.option_strings, nargs="?", choices=choices)
    plain.add_argument("files", nargs="*")
    argcomplete.autocomplete(plain)
