"""Source files are converted once, to .npy files that are memory-mapped from then on.

A cache is a folder `<label>-<digest>` with one .npy file per array, a meta.json and a record.json
of checksums. The checksums of its own files are compared each time; the source files are read again
if the system has touched them since. The digest covers the sizes and times of the source files. A
cache is built in a temporary folder that is renamed when complete; its arrays never change again.
A file lock lets one process convert while others wait; the system releases it if that process dies.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path

import numpy as np
from filelock import FileLock

from dapt.data.dataset import ArrayDataset
from dapt.errors import DaptError, DataError
from dapt.files import sync_folder, write_atomically

FORMAT = 3  # 3: groups of npz files
RECORD = "record.json"
logger = logging.getLogger(__name__)


def load_converted(
    files: list[Path],
    options: dict,
    label: str,
    home: Path,
    chosen: Path | None,
    convert: Callable[[Path], None],
) -> ArrayDataset:
    """Open the converted copy of files, or make it.

    Args:
        files: The sources; if one changes, the copy is rebuilt.
        options: Everything else that the copy depends on.
        label: The readable part of its name.
        home: The copy goes to its folder `dapt_cache` if that is writable, otherwise to the user's
            cache.
        chosen: A folder for the copy, instead of these.
        convert: Fills the empty folder that it receives.
    """
    home = home.resolve()
    files = list(dict.fromkeys(files))
    label = f"{label}-{_digest(options)}"
    name = f"{label}-{_digest(_fingerprint(files))}"
    places = _places(home, chosen)
    for place in places:
        dataset = _open(place / name, files)
        if dataset is not None:
            return dataset
    place = next(place for place in places if place == places[-1] or _is_writable(place))
    if place != places[0]:
        logger.warning("%s is read-only: its converted copy goes to %s", home, place)
    return _converted(place / name, label, files, convert)


def _places(home: Path, chosen: Path | None) -> list[Path]:
    """The places for the copy, in order of preference."""
    own = f"{home.name}-{_digest(str(home))}"
    if chosen is not None:
        return [chosen / own]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [home / "dapt_cache", user / "dapt" / own]


def _is_writable(folder: Path) -> bool:
    existing = folder if folder.is_dir() else folder.parent
    # check the mode, too: it does not stop root, but it marks the folder as read-only
    return os.access(existing, os.W_OK) and bool(existing.stat().st_mode & 0o222)


def _converted(
    folder: Path, label: str, files: list[Path], convert: Callable[[Path], None]
) -> ArrayDataset:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{label}.lock")):
            dataset = _open(folder, files)  # another process may have made it in the meantime
            if dataset is None:
                logger.info("converting to %s", folder)
                _make(folder, label, files, convert)
                dataset = _open(folder, files)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        raise DataError(
            f"cannot write the converted data to {folder.parent}: {what}; "
            "the option cache names another folder"
        ) from error
    if dataset is None:
        raise DataError(f"{folder} differs from what was written: the disk may be failing")
    return dataset


def _make(folder: Path, label: str, files: list[Path], convert: Callable[[Path], None]) -> None:
    """Make all of it or nothing; first remove what old sources and killed processes left."""
    temporary = folder.with_name(f"{label}.tmp")
    for stale in [temporary, *folder.parent.glob(f"{escape(label)}-*")]:
        shutil.rmtree(stale, ignore_errors=True)
    try:
        temporary.mkdir()
        sources = [[*_state(path), _checksum(path)] for path in files]
        convert(temporary)
        for path, source in zip(files, sources, strict=True):
            if _state(path) != source[:-1]:
                raise DataError(f"{path} changed while it was read: start again")
        own = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
        _write_record(temporary, {"own": own, "sources": sources})
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _open(folder: Path, files: list[Path]) -> ArrayDataset | None:
    """The converted dataset; None if it is incomplete or its source has changed."""
    try:
        record = json.loads((folder / RECORD).read_text())
        for name, checksum in record["own"].items():
            if _checksum(folder / name) != checksum:
                raise ValueError(f"{name} differs from what was written")
        if not _is_of(files, record, folder):
            logger.warning("the source of %s changed: it will be rebuilt", folder)
            return None
        meta = json.loads((folder / "meta.json").read_text())
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in meta["arrays"]
        }
        return ArrayDataset(arrays, meta["class_names"], meta["part_names"], meta["class_parts"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s is damaged and will be rebuilt: %s", folder, error)
        return None


def _is_of(files: list[Path], record: dict, folder: Path) -> bool:
    """Whether the copy was made from these files as they are now.

    Only files that the system has touched since are read: tools such as rsync and backups restore
    sizes and times, but not the time of that change.
    """
    sources, touched = record["sources"], False
    if len(sources) != len(files):
        return False
    for path, source in zip(files, sources, strict=True):
        state = _state(path)
        if state != source[:-1]:
            if _checksum(path) != source[-1]:
                return False
            source[:], touched = [*state, source[-1]], True
    if touched and os.access(folder, os.W_OK):
        with suppress(DaptError):  # this only saves reading them again
            _write_record(folder, record)
    return True


def _state(path: Path) -> list:
    """A value that changes whenever the file does."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _write_record(folder: Path, record: dict) -> None:
    write_atomically(folder / RECORD, json.dumps(record).encode())


def _checksum(path: Path) -> str:
    """The checksum of a file's content."""
    digest = hashlib.sha256()
    if path.is_dir():  # a folder counts by the names in it
        digest.update(repr(sorted(os.listdir(path))).encode())
        return digest.hexdigest()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _digest(value) -> str:
    text = json.dumps([FORMAT, value], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _fingerprint(files: list[Path]) -> list:
    try:
        return [
            [path.name, status.st_size, status.st_mtime_ns]
            for path in files
            for status in [path.stat()]
        ]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
