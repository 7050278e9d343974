"""How commands read their arguments: a wrong one is answered with a sentence."""

from argparse import ArgumentParser, ArgumentTypeError
from typing import NoReturn

from dapt.errors import UsageError


class Parser(ArgumentParser):
    """Raises its complaints, for the command line to say them as it says all others.

    Args:
        command: The command's name, after `dapt`.
        description: The first lines of `--help`.
    """

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"dapt {command}", description=description)

    def error(self, message: str) -> NoReturn:
        """What argparse would print, as an error of one sentence."""
        raise UsageError(message)


def add_votes(parser: ArgumentParser) -> None:
    """The option `--votes`, which several commands have."""
    parser.add_argument("--votes", type=at_least_one, default=1, help="views of a cloud to average")


def at_least_one(text: str) -> int:
    """The type of an argument that counts something."""
    count = int(text)
    if count < 1:
        raise ArgumentTypeError(f"must be at least 1, got {count}")
    return count
