"""How commands read their arguments: a wrong one is answered with a sentence."""

import math
import sys
from argparse import ArgumentParser, ArgumentTypeError
from pathlib import Path
from typing import NoReturn

from dapt.cli.completion import complete, is_asked
from dapt.errors import UsageError

MOST_VOTES = 1000
LARGEST_COUNT = 2**31


class Parser(ArgumentParser):
    """Raises its complaints, for the command line to say them as it says all others.

    Args:
        command: The command's name, after `dapt`.
        description: The first lines of `--help`.
    """

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"dapt {command}", description=description)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does, which takes `--out=--` for no value at all.

        Args:
            args: The words; those of the process by default.
            namespace: Where the values go.
        """
        if is_asked():
            complete(self)
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"{word[:-3]} has no value")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise the error, for one sentence without the usage before it.

        Args:
            message: argparse's.
        """
        raise UsageError(message)


def add_votes(parser: ArgumentParser) -> None:
    """The option `--votes`, which several commands have.

    Args:
        parser: of a command.
    """
    parser.add_argument("--votes", type=votes, default=1, help="views of a cloud to average")


def votes(text: str) -> int:
    """The type of --votes.

    Args:
        text: as typed.
    """
    count = at_least_one(text)
    if count > MOST_VOTES:
        raise ArgumentTypeError(f"must be at most {MOST_VOTES}, got {count}")
    return count


def a_path(text: str) -> Path:
    """The type of a file or folder; an empty value would be the current folder.

    Args:
        text: as typed.
    """
    if not text.strip():
        raise ArgumentTypeError("has an empty value")
    return Path(text)


def length(text: str) -> float:
    """The type of an argument that measures something.

    Args:
        text: as typed.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def at_least_one(text: str) -> int:
    """The type of an argument that counts something.

    Args:
        text: as typed.
    """
    count = int(text)
    if count < 1:
        raise ArgumentTypeError(f"must be at least 1, got {count}")
    if count > LARGEST_COUNT:
        raise ArgumentTypeError(f"must be at most {LARGEST_COUNT}, got {count}")
    return count
