"""What goes wrong outside the program, said in one sentence.

The command line prints the sentence and ends with `exit_code`, without a traceback.
"""

from contextlib import contextmanager
from pathlib import Path


class DaptError(Exception):
    """The files, the machine or the weights are not as they have to be."""

    exit_code = 1


class UsageError(DaptError):
    """What was asked for cannot be: an unknown name, a wrong option."""

    exit_code = 2


class DataError(DaptError):
    """A dataset or a file of points is missing, unreadable or holds something impossible."""


@contextmanager
def reading(path: str | Path):
    """Names the file in whatever a library says about it."""
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"{path} needs the package {error.name}: pip install {error.name}"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # each library of formats has its own exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error
