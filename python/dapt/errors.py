"""Errors whose cause is outside the program, each told in one sentence.

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
PACKAGE_OF = {"sklearn": "scikit-learn", "yaml": "pyyaml"}  # import names that differ


class DaptError(Exception):
    """The files, the machine or the weights are not as required."""

    exit_code = 1


class UsageError(DaptError):
    """The request is impossible: an unknown name or a wrong option."""

    exit_code = 2


class Interrupted(DaptError):
    """The user stopped the work; its state is saved."""

    exit_code = 130


class DataError(DaptError):
    """A dataset or a file of points is missing, unreadable or invalid."""


@contextmanager
def reading(path: str | Path):
    """Add the file's name to any error that a library raises.

    Args:
        path: The file.
    """
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"{path} needs {missing_package(error)}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # every format library has its own exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def listed(names: Iterable[object], most: int = 20) -> str:
    """Join the names with commas; a long list ends with the number of names left out.

    Args:
        names: The names, or other values that an error lists.
        most: The number of names to show.
    """
    names = list(map(str, names))
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def shown(text: object) -> str:
    """Make text from a file safe to print on a terminal: one line, no control characters.

    Args:
        text: The name of a class or file, or a sentence that contains one.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode()
        for c in str(text)
    )


def extras() -> dict[str, list[str]]:
    """The packages of each extra, as in `pip install 'dapt[extra]'`; empty if not installed."""
    packages: dict[str, list[str]] = {}
    try:
        requirements = requires("dapt") or []
    except PackageNotFoundError:  # run from its source folder
        return {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)[0].replace("_", "-")
        if extra := re.search(r"extra == ['\"]([\w-]+)", requirement):
            packages.setdefault(extra[1], []).append(name)
    return packages


def missing_package(error: ImportError) -> str:
    """Name the package that an import lacks, and how to install it.

    Args:
        error: The error that the import raised.
    """
    module = (error.name or str(error)).partition(".")[0]
    package = PACKAGE_OF.get(module, module.replace("_", "-"))
    extra = next((extra for extra, packages in extras().items() if package in packages), None)
    wanted = f"'dapt[{extra}]'" if extra else package
    return f"the package {package}: pip install {wanted}"


_OF_THE_MACHINE = {
    "not enough memory: a smaller batch_size or fewer num_workers may help": (
        r"out of memory|not enough memory|(can't|cannot) allocate memory|unable to allocate"
        r"|bad_alloc|OutOfMemory|MemoryError|Cannot allocate"
    ),
    "a process that loads data was killed, probably for lack of memory: fewer num_workers "
    "may help": r"DataLoader worker .*(killed|exited)",
    "another process of the run ended or cannot be reached": (
        r"Connection (closed|reset) by|Connection refused|gloo|NCCL|TCPStore|DistBackendError"
        r"|DistNetworkError|DistStoreError|Broken pipe"
    ),
}


def said_of_the_machine(error: BaseException) -> str | None:
    """Turn a library's error about the machine into a sentence; None if it is another error.

    Args:
        error: The error that the library raised.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"cannot write {error.filename or 'a file'}: the disk is full"
    text = f"{type(error).__name__}: {error}"
    for sentence, signs in _OF_THE_MACHINE.items():
        if re.search(signs, text, re.IGNORECASE):
            return sentence
    return None


def look_up(kind: str, name: str, table: Mapping[str, Entry]) -> Entry:
    """Look up an entry in a table; an unknown name raises an error that lists the known ones.

    Args:
        kind: What the table holds, in the singular: "method".
        name: The entry to look up.
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
    """Refuse a field that is below its bound.

    Args:
        settings: A dataclass.
        bounds: The smallest allowed value of each named field.
    """
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if not value >= bound:
            raise UsageError(f"{name} must be at least {bound}, got {value}")


def check_choice(settings: object, **choices: Sequence[str]) -> None:
    """Refuse a field that is not one of its choices.

    Args:
        settings: A dataclass.
        choices: The allowed values of each named field.
    """
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            wanted = " or ".join(map(repr, known))
            raise UsageError(f"{name} must be {wanted}, got {value!r}")


def check_sizes(settings: object, smallest: int = 1, largest: int = 2**20) -> None:
    """Check that whole numbers, and tuples of them, are sizes, and that other numbers are finite.

    Args:
        settings: A dataclass of sizes.
        smallest: The smallest valid size.
        largest: The largest valid size.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in getattr(settings, "PLACES", ()):  # these numbers are positions, not sizes
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
        settings: A dataclass.
        names: The fields.
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise UsageError(f"{name} must be at least 0 and below 1, got {value}")
