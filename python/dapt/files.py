"""Files are written whole or not at all, and what the system says about them names the file."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dapt.errors import DaptError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Names the file when the system refuses to write it."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or error
        raise DaptError(f"cannot write {path}: {what}") from None


def write_atomically(path: str | Path, content: bytes) -> None:
    """All of the content or none of it, whatever happens meanwhile.

    Args:
        path: The file; missing folders are made.
        content: All of its bytes.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)
