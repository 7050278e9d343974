"""Files are written whole or not at all, and errors from the system name the file."""

import ctypes
import errno
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dapt.errors import DaptError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the file if the system refuses to write it.

    Args:
        path: The file.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or error
        raise DaptError(f"cannot write {path}: {what}") from None


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write all of the content or none of it, even if the process is killed.

    Args:
        path: The file; missing folders are created.
        content: All of its bytes.
    """
    path = Path(path)
    if not path.name:  # / and .
        raise DaptError(f"cannot write {path}: it is a folder")
    temporary = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, content)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)


@contextmanager
def written_atomically(path: str | Path) -> Iterator[Path]:
    """Give a path to write to piece by piece; the file replaces `path` once it is complete.

    Args:
        path: The file; missing folders are created.
    """
    path = Path(path)
    temporary = _beside(path)
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)


def write_folder(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Write all of these files or none: a new folder replaces the old one in one step.

    A folder that also holds other files, or that is in use, gets the files one by one.

    Args:
        folder: Created if it is missing.
        files: The content of each file, by name.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not _may_be_replaced(folder, files):
        for name, content in files.items():
            write_atomically(folder / name, content)
        return
    temporary = _beside(folder)
    with writing(folder):
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                _write(temporary / name, content)
            sync_folder(temporary)
            if folder.exists():
                shutil.copymode(folder, temporary)
            put_in_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _may_be_replaced(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether replacing the folder loses nothing but earlier versions of the files."""
    others = {each.name for each in folder.iterdir()} - files.keys()
    here = Path.cwd().is_relative_to(folder) or os.path.ismount(folder)
    return not others and not here and os.access(folder.parent, os.W_OK)


def put_in_place(fresh: Path, path: Path, before: Path | None = None) -> None:
    """Replace a file or folder with another, in one step if the system can.

    Args:
        fresh: The complete replacement, on the same disk.
        path: The destination.
        before: Where to keep the previous content; deleted by default.
    """
    aside = before or fresh.with_name(f"{fresh.name}.old")
    if not path.exists():
        os.rename(fresh, path)
    elif _exchange(fresh, path):
        remove(aside)
        os.rename(fresh, aside)
    else:
        remove(aside)
        os.rename(path, aside)
        try:
            os.rename(fresh, path)
        except OSError:
            os.rename(aside, path)
            raise
    if before is None:
        remove(aside)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there.

    Args:
        path: The file or folder.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two files or folders; False if the system cannot do so in one step."""
    calls = {"linux": ("renameat2", -100), "darwin": ("renameatx_np", -2)}  # with AT_FDCWD
    name, here = calls.get(sys.platform, ("", 0))
    call = getattr(ctypes.CDLL(None), name, None) if name else None
    swap = 2  # RENAME_EXCHANGE on Linux, RENAME_SWAP on macOS
    return call is not None and call(here, os.fsencode(one), here, os.fsencode(other), swap) == 0


def sync_folder(folder: Path) -> None:
    """Make sure that a rename in a folder survives a power failure.

    Args:
        folder: The folder whose entries changed.
    """
    if os.name == "nt":  # folders cannot be opened on Windows
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # the folder may be written to but not listed
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every disk syncs folders
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove half-written files that killed processes left behind.

    Args:
        folder: A folder where no other process is writing these files.
        names: The names of the files.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and match[1] in names:
            remove(path)


_TEMPORARY = re.compile(r"\.(.+?)\.\d+(?:-\d+)?(?:\.old)?")


def _beside(path: Path) -> Path:
    """A temporary name beside the path, unique to this thread."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
