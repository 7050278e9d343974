"""Adapters of one kind side by side: a network that uses different adapter weights for each cloud.

The frozen layers run once for all clouds. Each call provides the adapters' weights, which are
stacked; the stacked copies of a few adapters are kept for the next call.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.methods.bottleneck import Bottleneck
from dapt.methods.dapt import DynamicAdapter
from dapt.methods.method import Method
from dapt.methods.prefix import PrefixBlock
from dapt.methods.scale_shift import ScaleShift, ScaleShiftLinear, ScaleShiftNorm
from dapt.methods.vpt import PromptedBlock
from dapt.models.views import sharing_copy

MOST_KEPT = 16  # adapters whose stacked copies are kept between calls
_FRONT = ("cls_token", "cls_pos")  # [1, 1, C] in one adapter, [B, 1, C] side by side


@dataclass
class _Place:
    """The module attribute that receives one entry of the adapters' state."""

    entry: str
    module: nn.Module
    name: str
    shaped: Callable[[Tensor], Tensor] | None  # shapes the clouds' rows; None passes the stack
    stack: Tensor | None = None  # [A, ...]

    def with_more(self, states: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The stack with more adapters appended."""
        more = torch.stack([state[self.entry] for state in states])
        return more if self.stack is None else torch.cat([self.stack, more])

    def fill(self, rows: Tensor, in_order: bool) -> None:
        """Set the module's attribute to the row of each cloud's adapter."""
        stack = self.stack
        if self.shaped is not None:
            stack = self.shaped(stack if in_order else stack[rows])
        setattr(self.module, self.name, stack)

    def empty(self) -> None:
        """Return to the state before the first call."""
        self.stack = None
        setattr(self.module, self.name, None)


class _Kept(NamedTuple):
    """The adapter, and the versions of its tensors, that a row of the stacks was copied from."""

    witness: weakref.ref  # to a tensor of the adapter, whose tensors are never replaced
    versions: tuple[int, ...]  # of all tensors; changes in place increment them

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> "_Kept":
        """Record a row that has just been filled."""
        return cls(weakref.ref(next(iter(state.values()))), _versions(state))

    def holds(self, state: Mapping[str, Tensor], versions: tuple[int, ...]) -> bool:
        """Whether the row still equals the adapter's tensors."""
        same = self.witness() is next(iter(state.values()))
        return same and self.versions == versions != ()


def _versions(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """How often each tensor was changed in place; empty for tensors made in inference mode, which
    do not count it."""
    try:
        return tuple([tensor._version for tensor in state.values()])
    except RuntimeError:
        return ()


class SideBySide:
    """A copy of an adapted network that shares its frozen tensors and takes all others per cloud.

    Args:
        method: The method of the adapters to run.
        network: The network of one of them, which stays unchanged.
    """

    def __init__(self, method: Method, network: nn.Module):
        self.network = sharing_copy(network).eval()
        self._places: list[_Place] = []
        self._adapters: list[_PerCloud] = []
        self._kept: list[_Kept | None] = []  # one per row of the stacks
        self._rows: list[int] | None = None  # the clouds' rows that the places currently hold
        self._fit(method, self.network, "")
        left = [e for e in self.network.state_dict() if method.owns(e)]
        if left:
            raise UsageError(
                f"adapters of method '{method.name}' with these settings cannot share a batch: "
                f"their '{left[0]}' is in no op that supports one per cloud"
            )

    def bring(self, states: Sequence[Mapping[str, Tensor]], rows: Tensor) -> None:
        """Install the weights of each cloud's adapter.

        Args:
            states: The own entries of each of A adapters.
            rows: The index of each cloud's adapter, int64 [B].
        """
        if not self._places:
            return
        numbers = self._stack(states)
        of_clouds = [numbers[row] for row in rows.tolist()]
        if of_clouds == self._rows:
            return
        self._rows = None
        stacked = torch.tensor(of_clouds, device=rows.device)
        in_order = of_clouds == list(range(len(self._kept)))
        for place in self._places:
            place.fill(stacked, in_order)
        for adapter in self._adapters:
            adapter.rows = stacked
        self._rows = of_clouds

    def take_away(self) -> None:
        """Drop the copies if they are of more than `MOST_KEPT` adapters."""
        if len(self._kept) > MOST_KEPT:
            self._clear()

    def _stack(self, states: Sequence[Mapping[str, Tensor]]) -> list[int]:
        """Return the row of each state in the stacks, adding the states that are not there yet."""
        numbers = [self._number(state) for state in states]
        if len(self._kept) + numbers.count(None) > MOST_KEPT:
            self._clear()
            numbers = [None] * len(states)
        lacking = [state for state, number in zip(states, numbers, strict=True) if number is None]
        if lacking:
            kept = [_Kept.of(state) for state in lacking]
            stacks = [place.with_more(lacking) for place in self._places]
            for place, stack in zip(self._places, stacks, strict=True):
                place.stack = stack
            new = iter(range(len(self._kept), len(self._kept) + len(lacking)))
            numbers = [next(new) if number is None else number for number in numbers]
            self._kept += kept
            self._rows = None
        return numbers

    def _number(self, state: Mapping[str, Tensor]) -> int | None:
        versions = _versions(state)
        found = (row for row, kept in enumerate(self._kept) if kept.holds(state, versions))
        return next(found, None)

    def _clear(self) -> None:
        for place in self._places:
            place.empty()
        self._kept, self._rows = [], None

    def _fit(self, method: Method, module: nn.Module, path: str) -> None:
        """Replace the adapter's parts in a module and its children by twins, and record where
        their weights go."""
        for name, child in list(module.named_children()):
            twin = _twin(child, method, f"{path}{name}.")
            if twin is None:
                self._fit(method, child, f"{path}{name}.")
                continue
            setattr(module, name, twin)
            if isinstance(twin, _PerCloud):
                self._adapters.append(twin)
            for own, shaped in twin.wanted(child):
                place = _Place(f"{path}{name}.{own}", twin, own.replace(".", "_"), shaped)
                self._places.append(place)
        shaped = {name: lambda t: t.squeeze(1) for name in _FRONT}
        if isinstance(module, PromptedBlock | PrefixBlock):
            shaped |= dict.fromkeys(
                ("prompt_tokens", "prompt_token_positions", "prefix"), lambda t: t
            )
        for name in shaped:
            if module._parameters.get(name) is not None and method.owns(f"{path}{name}"):
                del module._parameters[name]
                self._places.append(_Place(f"{path}{name}", module, name, shaped[name]))


class _Twin(nn.Module):
    """Does what an adapter's module does, with different weights for each cloud."""

    def wanted(self, single: nn.Module) -> Iterator[tuple[str, Callable | None]]:
        """The entries of the replaced module, and how to shape each of them."""
        for entry in single.state_dict():
            if not entry.startswith("frozen."):
                yield entry, lambda t: t


class CloudScaleShift(_Twin):
    """A different scale and shift for each cloud.

    Args:
        single: The module of one adapter.
    """

    def __init__(self, single: ScaleShift):
        super().__init__()
        self.frozen = getattr(single, "frozen", None)
        self.scale = self.shift = None  # [B, 1, C]

    def wanted(self, single: nn.Module) -> Iterator[tuple[str, Callable | None]]:
        return ((entry, lambda t: t[:, None]) for entry, _ in super().wanted(single))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C] or [B, C]
        if x.dim() == 2:
            return self.forward(x[:, None])[:, 0]
        if self.frozen is None:
            return torch.addcmul(self.shift, x, self.scale).to(x.dtype)
        x = self.frozen(x)
        if x.dtype != self.scale.dtype:
            return torch.addcmul(self.shift, x, self.scale).to(x.dtype)
        return torch.addcmul(self.shift, x, self.scale, out=x)  # nothing else uses x


class CloudLinear(_Twin):
    """A linear layer with different weights for each cloud.

    Args:
        single: The layer of one adapter.
    """

    def __init__(self, single: nn.Linear):
        super().__init__()
        self.weight = self.bias = None  # [B, out, in], [B, out]

    def forward(self, x: Tensor) -> Tensor:  # [B, T, in]
        out = x @ self.weight.transpose(1, 2).to(x.dtype)
        return out if self.bias is None else out + self.bias[:, None]


class _PerCloud(_Twin):
    """A bottleneck, computed by the op that picks each cloud's weights from the stack."""

    def __init__(self, single: DynamicAdapter | Bottleneck):
        super().__init__()
        self.rows: Tensor | None = None  # [B]
        self.eps = 1e-5 if single.norm is None else single.norm.eps
        self.norm_weight = self.norm_bias = self.scale_weight = self.scale_bias = None

    def wanted(self, single: nn.Module) -> Iterator[tuple[str, Callable | None]]:
        return ((entry, None) for entry in single.state_dict())

    def _run(self, x: Tensor, **given) -> tuple[Tensor, Tensor | None]:
        return dapt_ext.dynamic_adapters(
            x, self.rows, self.down_weight, self.down_bias, self.up_weight, self.up_bias,
            norm_weight=self.norm_weight, norm_bias=self.norm_bias,
            scale_weight=self.scale_weight, scale_bias=self.scale_bias, eps=self.eps, **given,
        )  # fmt: skip


class CloudAdapter(_PerCloud):
    """A different dynamic adapter for each cloud."""

    def forward(
        self, x: Tensor, mlp_out: Tensor, residual: Tensor, path_factor: None, prompt: bool
    ) -> tuple[Tensor, Tensor | None]:
        return self._run(x, mlp_out=mlp_out, residual=residual, prompt=prompt)


class CloudBottleneck(_PerCloud):
    """A different bottleneck for each cloud.

    Args:
        single: The bottleneck of one adapter.
    """

    def __init__(self, single: Bottleneck):
        super().__init__(single)
        self.scale = single.scale
        self.activation = single.activation

    def forward(
        self,
        x: Tensor,
        mlp_out: Tensor | None = None,
        residual: Tensor | None = None,
        path_factor: None = None,
    ) -> Tensor:
        around = {"mlp_out": mlp_out, "residual": residual, "prompt": False}
        return self._run(x, static_scale=self.scale, activation=self.activation, **around)[0]


_TWINS = {
    ScaleShift: CloudScaleShift,
    ScaleShiftLinear: CloudScaleShift,
    ScaleShiftNorm: CloudScaleShift,
    DynamicAdapter: CloudAdapter,
    Bottleneck: CloudBottleneck,
    nn.Linear: CloudLinear,
}


def _twin(module: nn.Module, method: Method, path: str) -> _Twin | None:
    twin = _TWINS.get(type(module))
    if twin is None or not any(method.owns(path + entry) for entry in module.state_dict()):
        return None
    return twin(module)
