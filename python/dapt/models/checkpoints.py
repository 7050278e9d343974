"""Load published weights, with a full account of what happened to each tensor."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import DaptError
from dapt.models.layouts import LAYOUTS, Layout
from dapt.models.weight_files import State, read_state

FIRST_LAYER = "tokenizer.encoder.first.0.weight"  # of networks that may read extra channels

_log = logging.getLogger("dapt")


@dataclass(frozen=True)
class LoadReport:
    """What happened to the tensors of a checkpoint.

    Args:
        source: The checkpoint file.
        layout: The title of its key layout.
        loaded: Entries of the network that were loaded.
        left_over: Maps each unused key of the file to the reason.
        fresh: Maps each network entry that such files never contain to the reason.
        license: The license of the published weights, if it is restrictive.
    """

    source: str
    layout: str
    loaded: tuple[str, ...]
    left_over: dict[str, str]
    fresh: dict[str, str]
    license: str | None = None

    def __str__(self) -> str:
        lines = [f"{self.source}: {self.layout}, {len(self.loaded)} tensors loaded"]
        for title, entries in (("left over", self.left_over), ("not in the file", self.fresh)):
            counts = Counter(entries.values())
            lines += [f"  {title}: {count} ({reason})" for reason, count in counts.items()]
        return "\n".join(lines)


def load_weights(
    network: nn.Module,
    path: str | os.PathLike,
    layouts: tuple[Layout, ...] = LAYOUTS,
    take: Callable[[str, Tensor], bool] = lambda entry, weight: False,
) -> LoadReport:
    """Fill ``network`` from a checkpoint of any known layout, or change nothing and say why.

    A network on the device "meta" adopts the tensors as they are read, so a large network is in
    memory only once.

    Args:
        network: The network to fill.
        path: The checkpoint.
        layouts: The layouts that the file may have.
        take: Called with each entry and its weight; may install the weight into a network on
            "meta" itself, and returns whether it did.
    """
    source = os.fspath(path)
    state = read_state(path)
    layout = find_layout(state, layouts, source)
    weights, taken, left_over, fresh = {}, [], dict.fromkeys(state), {}
    wide = getattr(getattr(network, "config", None), "in_channels", 3) > 3
    for entry, target in network.state_dict().items():
        keys = layout.keys(entry, state)
        missing = next((key for key in keys if key is not None and key not in state), None)
        if missing is None:
            narrow = entry == FIRST_LAYER and wide and state[keys[0]].shape[1] == 3
            weight = _read(state, keys, target[:, :3] if narrow else target, layout, source)
            if narrow:
                weight = F.pad(weight, (0, target.shape[1] - 3))
                fresh[f"{entry}[:, 3:]"] = "further channels, zero until they train"
            if take(entry, weight):
                taken.append(entry)
            else:
                weights[entry] = weight
            for key in keys:
                left_over.pop(key, None)
        elif entry in layout.fresh:
            weights[entry] = target
            fresh[entry] = layout.fresh[entry]
        else:
            raise DaptError(f"{source}: '{missing}' is missing{_made_for(layout)}")

    used = [key for key in state if key not in left_over]
    for key in left_over:
        left_over[key] = layout.reason(key)
        if left_over[key] is None and (layout.closed or _is_within(key, used)):
            raise DaptError(f"{source}: the network has no place for '{key}'{_made_for(layout)}")
    planned = any(target.is_meta for target in network.state_dict().values())
    network.load_state_dict(weights, strict=not taken, assign=planned)
    if layout.license is not None:
        _say_license(layout.title, layout.license)
    return LoadReport(
        source=source,
        layout=layout.title,
        loaded=tuple(entry for entry in (*weights, *taken) if entry not in fresh),
        left_over={key: why or "not a part of the network" for key, why in left_over.items()},
        fresh=fresh,
        license=layout.license,
    )


@cache
def _say_license(title: str, license: str) -> None:
    """Log the license once per process, at a level that shows without any logging set up."""
    _log.warning("%s weights: %s", title, license)


def _is_within(key: str, used: Iterable[str]) -> bool:
    """Whether a key belongs to a part of the network: whether it shares a prefix with a used key
    that is longer than the prefix common to all used keys. Block numbers are ignored."""
    used = [_path(name) for name in used]
    shared = len(os.path.commonprefix(used))
    parts = {path[:length] for path in used for length in range(shared + 1, len(path))}
    path = _path(key)
    return any(path[:length] in parts for length in range(shared + 1, len(path)))


def _path(key: str) -> tuple[str, ...]:
    return tuple("#" if part.isdigit() else part for part in key.split("."))


def find_layout(state: State, layouts: tuple[Layout, ...], source: str) -> Layout:
    """Return the first layout that a file matches.

    Args:
        state: The tensors of the file by their keys.
        layouts: The candidates, in order of preference.
        source: The file's name, for the error message.
    """
    for layout in layouts:
        if layout.matches(state):
            return layout
    known = ", ".join(dict.fromkeys(layout.title for layout in layouts))
    first = next(iter(state))
    raise DaptError(f"{source}: no known layout has keys like '{first}'; known are: {known}")


def _read(
    state: State, keys: tuple[str | None, ...], target: Tensor, layout: Layout, source: str
) -> Tensor:
    """Read an entry's weight from the file, in the entry's shape and dtype."""
    parts = [None if key is None else state[key] for key in keys]
    like = next(part for part in parts if part is not None)
    parts = [torch.zeros_like(like) if part is None else part for part in parts]
    named = " + ".join(key for key in keys if key is not None)
    try:
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
    except RuntimeError:
        shapes = " + ".join(str(list(part.shape)) for part in parts)
        raise DaptError(
            f"{source}: '{named}' are {shapes} and the network needs "
            f"{list(target.shape)}{_made_for(layout)}"
        ) from None
    if [n for n in tensor.shape if n != 1] != [n for n in target.shape if n != 1]:
        raise DaptError(
            f"{source}: '{named}' is {list(tensor.shape)} and the network needs "
            f"{list(target.shape)}{_made_for(layout)}"
        )
    if not tensor.isfinite().all():
        raise DaptError(f"{source}: '{named}' holds NaN or infinite values")
    return tensor.to(target.dtype).reshape(target.shape)  # a 1x1 convolution is a linear layer


def _made_for(layout: Layout) -> str:
    return f" (the file looks like {layout.title}, for the network '{layout.network}')"
