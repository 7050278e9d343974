"""Batches whose clouds use different adapters."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dapt.adapters.attachment import Attachment
from dapt.errors import UsageError, listed
from dapt.methods.method import METHODS, Method, is_packed
from dapt.methods.side_by_side import SideBySide
from dapt.models import Features
from dapt.tasks.heads import ClassificationHead, Pool


class Mixtures:
    """Runs batches in which each cloud has its own adapter.

    It keeps networks that run adapters side by side, each with copies of a few adapters. Every call
    uses a network exclusively, so calls may run concurrently.
    """

    def __init__(self):
        self._idle: dict[str, list[SideBySide]] = {}  # by the adapters' kin

    def __deepcopy__(self, memo: dict) -> "Mixtures":
        return Mixtures()

    @torch.no_grad()
    def run(
        self,
        backbone: nn.Module,
        adapters: Sequence[Attachment | None],
        points: Tensor,
        inputs: Sequence[Tensor],
        queries: Tensor | None,
    ) -> list[Tensor]:
        """Run each cloud through its adapter and return one output per cloud.

        Args:
            backbone: The pre-trained network, for clouds without an adapter.
            adapters: The adapter of each cloud, or None.
            points: [B, N, 3].
            inputs: Further inputs of the heads, B rows each.
            queries: The points to label [B, M, 3], or None for ``points``.
        """
        out: list[Tensor | None] = [None] * len(adapters)
        for alike in _grouped(adapters, is_packed(backbone)):
            own = [adapters[b] for b in alike]
            given = [value[alike] for value in inputs]
            labeled = None if queries is None else queries[alike]
            if own[0] is None:
                rows = Pool(backbone.head_tokens)(backbone(points[alike]))
            elif len(set(own)) == 1:
                rows = own[0](points[alike], *given, queries=labeled)
            else:
                rows = self._together(own, points[alike], given, labeled)
            for b, row in zip(alike, rows, strict=True):
                out[b] = row
        return out

    def _together(
        self,
        adapters: Sequence[Attachment],
        points: Tensor,
        inputs: Sequence[Tensor],
        queries: Tensor | None,
    ) -> list[Tensor]:
        """Like `run`, for adapters of one kind: one pass of the network, then each adapter's head
        on its clouds."""
        kinds = list(dict.fromkeys(adapters))
        rows = torch.tensor([kinds.index(adapter) for adapter in adapters], device=points.device)
        levels = sorted({level for adapter in kinds for level in adapter.head.levels})
        with self._network(kinds[0]) as side_by_side:
            side_by_side.bring([adapter.own_entries for adapter in kinds], rows)
            features = kinds[0].method.features(side_by_side.network, points, levels)
        labeled = points if queries is None else queries
        pooled = _pooled(kinds, features)
        out: list[Tensor | None] = [None] * len(adapters)
        for adapter in kinds:
            clouds = [b for b, own in enumerate(adapters) if own is adapter]
            if pooled is not None:
                logits = adapter.head.layers(pooled[clouds])
            else:
                read = [i for i, level in enumerate(levels) if level in adapter.head.levels]
                logits = adapter.head(
                    _rows_of(features, clouds, read),
                    labeled[clouds][..., :3],
                    *(value[clouds] for value in inputs),
                )
            for b, row in zip(clouds, logits, strict=True):
                out[b] = row
        return out

    @contextmanager
    def _network(self, adapter: Attachment):
        """A network that no other call uses."""
        idle = self._idle.setdefault(adapter.kin, [])
        try:
            network = idle.pop()
        except IndexError:
            network = SideBySide(adapter.method, adapter.network)
        try:
            yield network
        finally:
            network.take_away()
            idle.append(network)


def _grouped(adapters: Sequence[Attachment | None], packed: bool) -> list[list[int]]:
    """The indices of the clouds that go through the network together."""
    groups: dict[str | None, list[int]] = {}
    several = len(set(adapters)) > 1
    for b, adapter in enumerate(adapters):
        if several and adapter is not None and (adapter.kin is None or packed):
            _refuse(adapter.name, adapter.method, packed)
        groups.setdefault(None if adapter is None else repr(adapter.kin), []).append(b)
    return list(groups.values())


def _refuse(name: str, method: Method, packed: bool) -> None:
    if packed:
        raise UsageError(
            "adapters cannot share a batch on a backbone that keeps the tokens of all clouds in "
            "one row: call the model with one adapter at a time"
        )
    able = sorted(n for n, kind in METHODS.items() if kind.kin is not Method.kin and n != "peft")
    raise UsageError(
        f"adapter '{name}' cannot share a batch with others: method '{method.name}' changes more "
        f"than rows of one op; those that can are {', '.join(able)} and peft:lora"
    )


def _pooled(adapters: Sequence[Attachment], features: Features) -> Tensor | None:
    """The features that all heads read [B, ...], or None if they read different ones."""
    heads = [adapter.head for adapter in adapters]
    if any(type(head) is not ClassificationHead for head in heads):
        return None
    pool = heads[0].pool
    return pool(features) if len({head.pool.head_tokens for head in heads}) == 1 else None


def _rows_of(features: Features, rows: list[int], levels: Sequence[int]) -> Features:
    """The features of some clouds, with the levels that their head reads."""
    picked = {
        name: value[rows] for name, value in features._asdict().items() if isinstance(value, Tensor)
    }
    picked["levels"] = tuple(features.levels[i][rows] for i in levels)
    return features._replace(**picked)


def chosen(
    table: Mapping[str, Attachment], names: Sequence[str | Attachment | None], points: Tensor
) -> list[Attachment | None]:
    """Look up the adapter of each cloud.

    Args:
        table: All adapters of a model, by name.
        names: One name per cloud; adapters and None are returned unchanged.
        points: [B, N, 3].
    """
    if isinstance(names, str) or len(names) != len(points):
        got = repr(names) if isinstance(names, str) else len(names)
        raise UsageError(f"adapters must name one for each of {len(points)} clouds, got {got}")
    return [named(table, name) if isinstance(name, str) else name for name in names]


def named(table: Mapping[str, Attachment], name: str) -> Attachment:
    """Look up an adapter by name; an unknown name is an error.

    Args:
        table: All adapters of a model, by name.
        name: The name of the adapter.
    """
    if name not in table:
        raise UsageError(f"the model carries no adapter named '{name}'; it carries {listed(table)}")
    return table[name]
