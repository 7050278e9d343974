"""Published weights in, with a full account of what happened to each of them."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from dapt.errors import DaptError
from dapt.models.layouts import LAYOUTS, Layout

State = dict[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    source: str
    layout: str
    loaded: tuple[str, ...]  # entries of the network
    left_over: dict[str, str]  # key of the file -> why it was not used
    fresh: dict[str, str]  # entry of the network that such files never hold -> why

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.layout}, {len(self.loaded)} tensors loaded"]
        for title, entries in (("left over", self.left_over), ("not in the file", self.fresh)):
            counts = Counter(entries.values())
            lines += [f"  {title}: {count} ({reason})" for reason, count in counts.items()]
        return "\n".join(lines)


def load_weights(
    network: nn.Module, path: str | os.PathLike, layouts: tuple[Layout, ...] = LAYOUTS
) -> LoadReport:
    """Fill ``network`` from a checkpoint of any known layout, or change nothing and say why."""
    source = os.fspath(path)
    state = read_state(path)
    layout = find_layout(state, layouts, source)
    weights, left_over, fresh = {}, dict.fromkeys(state), {}
    for entry, target in network.state_dict().items():
        key = layout.key(entry)
        if key in state:
            weights[entry] = _fit(state[key], target, key, layout, source)
            del left_over[key]
        elif entry in layout.fresh:
            weights[entry] = target
            fresh[entry] = layout.fresh[entry]
        else:
            raise DaptError(f"{source}: '{key}' is missing{_made_for(layout)}")

    known_parts = {_without_numbers(layout.key(entry)) for entry in weights}
    for key in left_over:
        left_over[key] = layout.reason(key)
        if left_over[key] is None and _without_numbers(key) in known_parts:
            raise DaptError(f"{source}: the network has no place for '{key}'{_made_for(layout)}")
    network.load_state_dict(weights)
    return LoadReport(
        source=source,
        layout=layout.title,
        loaded=tuple(entry for entry in weights if entry not in fresh),
        left_over={key: why or "not a part of the network" for key, why in left_over.items()},
        fresh=fresh,
    )


def _without_numbers(key: str) -> str:
    return re.sub(r"\d+", "#", key)


def find_layout(state: State, layouts: tuple[Layout, ...], source: str) -> Layout:
    keys = list(state)
    for layout in layouts:
        if layout.matches(keys):
            return layout
    known = ", ".join(dict.fromkeys(layout.title for layout in layouts))
    raise DaptError(f"{source}: no known layout has keys like '{keys[0]}'; known are: {known}")


def _fit(tensor: Tensor, target: Tensor, key: str, layout: Layout, source: str) -> Tensor:
    if tensor.shape[target.ndim :].numel() == 1:  # a 1x1 convolution is a linear layer
        tensor = tensor.reshape(tensor.shape[: target.ndim])
    if tensor.shape != target.shape:
        raise DaptError(
            f"{source}: '{key}' is {list(tensor.shape)} and the network needs "
            f"{list(target.shape)}{_made_for(layout)}"
        )
    if not tensor.isfinite().all():
        raise DaptError(f"{source}: '{key}' holds NaN or infinite values")
    return tensor


def _made_for(layout: Layout) -> str:
    return f" (the file looks like {layout.title}, for the network '{layout.network}')"


def read_state(path: str | os.PathLike) -> State:
    """The tensors of a .pth or safetensors file, without the prefix that DDP adds to their names.

    Nothing but tensors, numbers, strings and plain containers is ever unpickled.
    """
    source = os.fspath(path)
    content = _read_safetensors(source) if _is_safetensors(source) else _read_pth(source)
    for wrapper in ("base_model", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = content.items() if isinstance(content, Mapping) else ()
    state = {
        re.sub(r"^(module\.)?(base_model\.)?", "", key): value
        for key, value in tensors
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not state:
        raise DaptError(f"{source} holds no weights: wanted tensors by name, bare or 'base_model'")
    return state


def _is_safetensors(source: str) -> bool:
    try:
        with open(source, "rb") as file:
            return file.read(9)[8:] == b"{"  # eight bytes of length, then a JSON header
    except OSError as error:
        raise DaptError(f"{source} cannot be read: {error.strerror}") from None


def _read_safetensors(source: str) -> State:
    try:
        return safetensors.torch.load_file(source)
    except Exception as error:
        raise DaptError(f"{source} is not a whole safetensors file: {error}") from None


def _read_pth(source: str) -> object:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or hostile file can fail in any way
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise DaptError(
                f"{source} is refused: it asks for '{wanted[1]}', and a checkpoint may hold only "
                "tensors and plain values"
            ) from None
        raise DaptError(f"{source} is not a whole checkpoint of torch.save") from None


def _numpy_scalars() -> list[Callable | tuple[Callable, str]]:
    """The published files keep their accuracies as numpy numbers."""
    scalar = np.float64(0).__reduce__()[0]
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    number_types = [type(np.dtype(code)) for code in ("f4", "f8", "i4", "i8")]
    return [*((scalar, name) for name in names), np.dtype, *number_types]
