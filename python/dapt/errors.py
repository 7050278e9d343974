"""What goes wrong outside the program, said in one sentence.

The command line prints the sentence and ends with `exit_code`, without a traceback.
"""

import dataclasses
import difflib
import errno
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TypeVar

Entry = TypeVar("Entry")
PACKAGE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # modules that are named otherwise


class DaptError(Exception):
    """The files, the machine or the weights are not as they have to be."""

    exit_code = 1


class UsageError(DaptError):
    """What was asked for cannot be: an unknown name, a wrong option."""

    exit_code = 2


class Interrupted(DaptError):
    """The user stopped what was under way; it is saved."""

    exit_code = 130


class DataError(DaptError):
    """A dataset or a file of points is missing, unreadable or holds something impossible."""


@contextmanager
def reading(path: str | Path):
    """Name the file in whatever a library says about it.

    Args:
        path: of the file.
    """
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{path} needs {missing_package(error)}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # each library of formats has its own exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def listed(names: Iterable[object], most: int = 20) -> str:
    """The names, separated by commas; of many only the first and how many more there are.

    Args:
        names: Of whatever an error is about.
        most: So many are named.
    """
    names = list(map(str, names))
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def shown(text: object) -> str:
    """Text of a file as it is shown on a terminal: on one line, and without what the terminal
    would obey.

    Args:
        text: A name of a class or file, or a sentence that holds one.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def extras() -> dict[str, list[str]]:
    """The packages of each extra, `pip install 'dapt[extra]'`; none if dapt is not installed."""
    packages: dict[str, list[str]] = {}
    try:
        requirements = requires("dapt") or []
    except PackageNotFoundError:  # used from its source folder
        return {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0].replace("_", "-")
        if extra := re.search(r"extra == ['\"]([\w-]+)", requirement):
            packages.setdefault(extra[1], []).append(name)
    return packages


def missing_package(error: ImportError) -> str:
    """The package that an import lacks, and how to install it: "the package h5py: pip install ..."

    Args:
        error: What the import raised.
    """
    module = (error.name or str(error)).partition(".")[0]
    package = PACKAGE_OF.get(module, module.replace("_", "-"))
    extra = next((extra for extra, packages in extras().items() if package in packages), None)
    wanted = f"'dapt[{extra}]'" if extra else package
    return f"the package {package}: pip install {wanted}"


_OF_THE_MACHINE = {
    "there is not enough memory: a smaller batch_size or fewer num_workers may help": (
        r"out of memory|not enough memory|(can't|cannot) allocate memory|unable to allocate"
        r"|bad_alloc|OutOfMemory|MemoryError|Cannot allocate"
    ),
    "a process that loads data was killed, most often because memory is short: fewer num_workers "
    "may help": r"DataLoader worker .*(killed|exited)",
    "another process of the run ended, or cannot be reached": (
        r"Connection (closed|reset) by|Connection refused|gloo|NCCL|TCPStore|DistBackendError"
        r"|DistNetworkError|DistStoreError|Broken pipe"
    ),
}


def said_of_the_machine(error: BaseException) -> str | None:
    """A sentence for what a library reports of the machine; None where it is something else.

    Args:
        error: What the library raised.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {error.filename or 'a file'}: the disk is full"
    text = f"{type(error).__name__}: {error}"
    for sentence, signs in _OF_THE_MACHINE.items():
        if re.search(signs, text, re.IGNORECASE):
            return sentence
    return None


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """The entry of a table; an unknown name is answered with the known ones.

    Args:
        kind: What the table holds, in the singular: "method".
        name: The entry that is wanted.
        table: All entries by name.
    """
    if name not in table:
        close = difflib.get_close_matches(name, table, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UsageError(
            f"unknown {kind} {name!r}: choose one of {listed(sorted(table), 100)}{hint}"
        )
    return table[name]


def check_at_least(settings: object, **bounds: float) -> None:
    """Refuse a field below its bound.

    Args:
        settings: a dataclass.
        bounds: least values by the names of fields.
    """
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if not value >= bound:
            raise UsageError(f"{name} must be at least {bound}, got {value}")


def check_choice(settings: object, **choices: Sequence[str]) -> None:
    """Refuse a field that is not one of its choices.

    Args:
        settings: a dataclass.
        choices: the values that each named field may have.
    """
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            wanted = " or ".join(map(repr, known))
            raise UsageError(f"{name} must be {wanted}, got {value!r}")


def check_sizes(settings: object, smallest: int = 1, largest: int = 2**20) -> None:
    """That whole numbers, and tuples of them, count something, and that others are finite.

    Args:
        settings: A dataclass of sizes.
        smallest: Below it a number is no size.
        largest: Above it a number is no size.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in getattr(settings, "PLACES", ()):  # numbers that tell where
            continue
        for each in value if isinstance(value, tuple | list) else (value,):
            whole = isinstance(each, int) and not isinstance(each, bool)
            if whole and not smallest <= each <= largest:
                bound = f"least {smallest}" if each < smallest else f"most {largest:,}"
                raise UsageError(f"{field.name} must be at {bound}, got {value}")
            if isinstance(each, float) and not math.isfinite(each):
                raise UsageError(f"{field.name} must be finite, got {value}")


def check_rates(settings: object, *names: str) -> None:
    """Refuse a field outside [0, 1).

    Args:
        settings: a dataclass.
        names: of fields.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise UsageError(f"{name} must be at least 0 and below 1, got {value}")
