"""Weight files: tensors by name, each read on demand."""

import os
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import safetensors
import torch
from torch import Tensor

from dapt.errors import DaptError

State = Mapping[str, Tensor]

_REOPEN_AFTER = 2**25  # bytes read
_ZIP = b"PK\x03\x04"
_WRAPPERS = ("base_model", "state_dict", "model", "module")


def read_state(path: str | os.PathLike) -> State:
    """Open the tensors of a .pth or safetensors file, without the prefix that DDP adds to names.

    Only tensors, numbers, strings and plain containers are ever unpickled.

    Args:
        path: The file, whose kind is recognized by its first bytes rather than its name.
    """
    source = os.fspath(path)
    start = _first_bytes(source)
    if start[8:] == b"{":  # safetensors: eight bytes of length, then a JSON header
        return WeightFile(source, _open_safetensors)
    return WeightFile(source, _open_mapped_pth if start.startswith(_ZIP) else _open_pth)


class WeightFile(State):
    """Reads tensors from a memory-mapped file.

    The file is mapped again from time to time, because pages that were read stay in memory as long
    as their mapping does.

    Args:
        source: The path of the file.
        open_file: Opens the file and returns a function per name that reads the tensor.
    """

    def __init__(self, source: str, open_file: Callable[[str], dict[str, Callable[[], Tensor]]]):
        self.source = source
        self._open = open_file
        self._tensors = open_file(source)
        self._read = 0
        if not self._tensors:
            raise DaptError(
                f"{source} contains no weights: it must hold tensors by name, possibly under one "
                f"of {', '.join(_WRAPPERS)}"
            )

    def __getitem__(self, name: str) -> Tensor:
        if self._read > _REOPEN_AFTER:
            self._tensors, self._read = {}, 0  # the old mapping ends before the new one begins
            self._tensors = self._open(self.source)
        read = self._tensors[name]
        try:
            tensor = read()
        except Exception as error:
            raise DaptError(f"{self.source}: '{name}' cannot be read: {error}") from None
        self._read += tensor.nbytes
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _first_bytes(source: str) -> bytes:
    try:
        with open(source, "rb") as file:
            return file.read(9)
    except OSError as error:
        raise DaptError(f"{source} cannot be read: {error.strerror}") from None


def _open_safetensors(source: str) -> dict[str, Callable[[], Tensor]]:
    try:
        file = safetensors.safe_open(source, framework="pt")
        return {_bare(name): lambda name=name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:
        raise DaptError(f"{source} is not a complete safetensors file: {error}") from None


def _open_mapped_pth(source: str) -> dict[str, Callable[[], Tensor]]:
    return {name: tensor.clone for name, tensor in _load_pth(source, mmap=True).items()}


def _open_pth(source: str) -> dict[str, Callable[[], Tensor]]:
    return {name: tensor.detach for name, tensor in _load_pth(source).items()}


def _load_pth(source: str, mmap: bool = False) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a broken or hostile file may raise anything
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise DaptError(
                f"{source} is refused: it asks for '{wanted[1]}', and a checkpoint may hold only "
                "tensors and plain values"
            ) from None
        raise DaptError(f"{source} is not a complete torch.save checkpoint") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    entries = content.items() if isinstance(content, Mapping) else ()
    return {
        _bare(name): value
        for name, value in entries
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _bare(name: str) -> str:
    return re.sub(r"^(module\.)?(base_model\.)?", "", name)


def _numpy_scalars() -> list[Callable | tuple[Callable, str]]:
    """Numpy scalars are allowed because the published files store their accuracies as such."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    number_types = [type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8")]
    return [*((scalar, name) for name in names), np.dtype, *number_types]
