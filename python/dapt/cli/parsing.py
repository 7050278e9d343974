"""How commands read their arguments; a wrong one gets a one-sentence error."""

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
    """A parser that raises its errors, so that the command line reports them like all others.

    Args:
        command: The command's name, after `dapt`.
        description: The first lines of `--help`.
    """

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"dapt {command}", description=description)

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does, with two differences: `--out=--` has no value, and the word after
        an unknown option is its value rather than the run folder.

        Args:
            args: The words; those of the process by default.
            namespace: Where to store the values.
        """
        if is_asked():
            complete(self)
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if word.startswith("--") and word.endswith("=--"):
                self.error(f"{word[:-3]} has no value")
            if words and self._lacks_value(words[-1]) and not word.startswith("--"):
                words[-1] += f"={word}"
            else:
                words.append(word)
        return super().parse_known_args(words, namespace)

    def _lacks_value(self, word: str) -> bool:
        """Whether a word is an option that this parser does not know, without a value."""
        known = any(option.startswith(word) for option in self._option_string_actions)
        return word.startswith("--") and "=" not in word and not known

    def error(self, message: str) -> NoReturn:
        """Raise the error as one sentence, without the usage before it.

        Args:
            message: The message from argparse.
        """
        raise UsageError(message)


def add_votes(parser: ArgumentParser) -> None:
    """Add the option `--votes`, which several commands have.

    Args:
        parser: The parser of a command.
    """
    parser.add_argument("--votes", type=votes, default=1, help="views per cloud to average over")


def votes(text: str) -> int:
    """The argument type of --votes.

    Args:
        text: The value as typed.
    """
    count = at_least_one(text)
    if count > MOST_VOTES:
        raise ArgumentTypeError(f"must be at most {MOST_VOTES}, got {count}")
    return count


def a_path(text: str) -> Path:
    """The argument type of a file or folder; an empty value would mean the current folder.

    Args:
        text: The value as typed.
    """
    if not text.strip():
        raise ArgumentTypeError("has an empty value")
    return Path(text)


def length(text: str) -> float:
    """The argument type of a length.

    Args:
        text: The value as typed.
    """
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"must be above 0 and finite, got {text}")
    return value


def at_least_one(text: str) -> int:
    """The argument type of a count.

    Args:
        text: The value as typed.
    """
    count = int(text)
    if count < 1:
        raise ArgumentTypeError(f"must be at least 1, got {count}")
    if count > LARGEST_COUNT:
        raise ArgumentTypeError(f"must be at most {LARGEST_COUNT}, got {count}")
    return count
