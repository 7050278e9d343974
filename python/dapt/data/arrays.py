"""Arrays in .npy, .npz and .h5 files. The size in a header is checked against the file before
memory is allocated."""

import io
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from dapt.errors import DataError

MOST_UNCHECKED = 2**28  # bytes that data may expand to in any case
MOST_EXPANSION = 100  # beyond that, the factor by which it may expand
NUMBERS = "biufUS"  # kinds of dtype without references
LONGEST_HEADER = 10_000


def check_expansion(where: object, packed: int, unpacked: int, most: int = MOST_EXPANSION) -> None:
    """Refuse data that expands to far more than its packed size, which measured data never does.

    Args:
        where: The name to use in errors.
        packed: The number of bytes in the file.
        unpacked: The number of bytes in memory.
        most: The largest ratio of the two.
    """
    if unpacked > max(MOST_UNCHECKED, most * packed):
        raise DataError(f"{where} is refused: its {packed:,} bytes expand to {unpacked:,}")


def load_npy(source: str | Path | io.BytesIO) -> np.ndarray:
    """Load the array of an .npy file, which must end where the array does.

    Args:
        source: The file, or its content.
    """
    with source if isinstance(source, io.BytesIO) else open(source, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        return _array(file, size)


def _array(file, size: int) -> np.ndarray:
    """Read an array from an open file of a given number of bytes."""
    version = np.lib.format.read_magic(file)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"its .npy version {version} is not known")
    shape, fortran, dtype = read_header(file, max_header_size=LONGEST_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are refused (allow_pickle=False)")
    wanted, found = math.prod(shape) * dtype.itemsize, size - file.tell()
    if min(shape, default=0) < 0 or wanted != found:
        raise ValueError(f"its header promises {wanted:,} bytes of numbers, but it has {found:,}")
    content = bytearray(wanted)
    view, filled = memoryview(content), 0
    while filled < wanted and (count := file.readinto(view[filled:])):
        filled += count
    file.read(1)  # a zip file compares checksums when it reaches its end
    if filled < wanted:
        raise ValueError(f"it ends after {filled:,} of {wanted:,} bytes")
    return np.ndarray(shape, dtype, content, order="F" if fortran else "C")


class Npz(Mapping):
    """The arrays of an .npz file by name, each read on access.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path):
        self._zip = zipfile.ZipFile(path)
        self._members = {
            info.filename.removesuffix(".npy"): info
            for info in self._zip.infolist()
            if not info.is_dir()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        info = self._members[name]
        check_expansion(f"its {name!r}", info.compress_size, info.file_size)
        with self._zip.open(info) as file:
            try:
                return _array(file, info.file_size)
            except ValueError as error:
                raise ValueError(f"its {name!r} is not an array: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __enter__(self) -> "Npz":
        return self

    def __exit__(self, *_) -> None:
        self._zip.close()


class H5(Mapping):
    """The top-level arrays of an .h5 file by name.

    Only arrays stored in the file itself are read: external storage, links and virtual datasets
    could expose the bytes of any other file, so they are refused.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path):
        import h5py

        self._h5 = h5py.File(path, "r")
        self._hard = h5py.HardLink
        self._dataset = h5py.Dataset

    def dataset(self, name: str):
        """Open and check an h5py.Dataset, to read rows from.

        Args:
            name: The name of the array in the file.
        """
        if not isinstance(self._h5.get(name, getlink=True), self._hard):
            raise DataError(f"its {name!r} is a link, which is refused: it may lead to any file")
        found = self._h5[name]
        if not isinstance(found, self._dataset):
            raise DataError(f"its {name!r} is not an array")
        if found.is_virtual or found.external:
            raise DataError(f"its {name!r} is stored in other files, which is refused")
        if found.shape is None or found.dtype.kind not in NUMBERS + "O" or _refers(found.dtype):
            raise DataError(f"its {name!r} holds neither numbers nor names")
        stored = found.id.get_storage_size()
        if found.chunks is None and stored < found.nbytes or found.nbytes and not stored:
            raise DataError(f"its {name!r} promises {found.nbytes:,} bytes, but has {stored:,}")
        check_expansion(f"its {name!r}", stored, found.nbytes)
        return found

    def __getitem__(self, name: str) -> np.ndarray:
        values = np.asarray(self.dataset(name)[()])
        if values.dtype.kind == "O":  # strings of any length
            values = np.array([each.decode("utf-8", "replace") for each in values.ravel()])
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._h5.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self._h5.keys())

    def __len__(self) -> int:
        return len(self._h5)

    def __enter__(self) -> "H5":
        return self

    def __exit__(self, *_) -> None:
        self._h5.close()


def _refers(dtype: np.dtype) -> bool:
    """Whether an h5 dtype of objects holds anything other than strings."""
    import h5py

    return dtype.kind == "O" and h5py.check_string_dtype(dtype) is None


def open_arrays(path: str | Path) -> AbstractContextManager[Mapping[str, np.ndarray]]:
    """Open the arrays of a file, to be read one by one.

    Args:
        path: The .npz, .h5 or .hdf5 file.
    """
    return H5(path) if Path(path).suffix.lower() in (".h5", ".hdf5") else Npz(path)
