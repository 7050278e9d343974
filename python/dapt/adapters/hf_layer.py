"""The layer that PEFT puts in the place of a backbone: the backbone with its DAPT adapters."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from dapt.adapters.plan import Plan, set_mode
from dapt.errors import UsageError, listed
from dapt.methods.method import Method


class DaptLayer(nn.Module, BaseTunerLayer):
    """A backbone and its adapters, of which each call uses one.

    `dapt_own` holds the trained tensors of each adapter, by its name.

    Args:
        backbone: The pre-trained network, which is never changed.
    """

    adapter_layer_names = ("dapt_own",)

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.base_layer = backbone.requires_grad_(False)
        self.dapt_own = nn.ModuleDict()
        self.plans: dict[str, Plan] = {}
        self.merged_adapters: list[str] = []
        self.folded: tuple[nn.Module, ...] = ()  # the merged network; a tuple hides it from torch
        self.names_of_batch: Sequence[str] | None = None
        self.in_features = backbone.tokenizers[0].in_channels
        self.out_features = backbone.dim

    def __getattr__(self, name: str) -> Any:
        """Give access to the backbone's attributes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)

    def add_adapter(self, name: str, method: Method) -> None:
        """Add a new adapter.

        Args:
            name: Its name in PEFT.
            method: The method with its settings.
        """
        plan = Plan(method)
        like = next(self.base_layer.parameters())
        own = {
            entry: nn.Parameter(
                value.detach().to("meta" if value.is_meta else like.device, like.dtype)
            )
            for entry, value in plan.fresh(self.base_layer).items()
        }
        self.dapt_own[name], self.plans[name] = nn.ParameterDict(own).train(self.training), plan

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone with the active adapter, or with one adapter per cloud."""
        if self.names_of_batch is not None:
            return self._mixed(self.names_of_batch, args, kwargs)
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
            return self.base_layer(*args, **kwargs)
        if self.merged:
            return self.folded[0](*args, **kwargs)
        return self._network(self._active_name())(*args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold the scales and shifts; a scale that depends on the token cannot be folded.

        Args:
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: At most one name; None for the active adapter.
        """
        names = check_adapters_to_merge(self, adapter_names)
        if not names:
            return
        if self.merged or len(names) > 1:
            raise ValueError(f"only one DAPT adapter can be merged at a time, got {names}")
        network = self.plans[names[0]].folded(self.base_layer, self.dapt_own[names[0]])
        set_mode(network, self.training)
        if safe_merge and not all(t.isfinite().all() for t in network.state_dict().values()):
            raise ValueError(
                f"NaNs detected in the merged weights. The adapter {names[0]} seems to be broken"
            )
        self.folded, self.merged_adapters = (network,), names

    def unmerge(self) -> None:
        """Undo `merge` exactly: the pre-trained weights were never changed."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        self.folded, self.merged_adapters = (), []

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return a network without PEFT's modules: the pre-trained one, or one with the adapter
        folded in.

        Args:
            merge: Whether the adapter is folded in.
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: At most one name; None for the active adapter.
        """
        if merge:
            self.merge(safe_merge, adapter_names)
        return self.folded[0] if merge and self.folded else self.base_layer

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter; if it was active, another one becomes active.

        Args:
            adapter_name: The name of the adapter.
        """
        super().delete_adapter(adapter_name)
        self.plans.pop(adapter_name, None)

    def train(self, mode: bool = True) -> "DaptLayer":
        """Set the mode; frozen batch norms keep their statistics."""
        super().train(mode)
        networks = (self.base_layer, *self.folded, *(plan.network for plan in self.plans.values()))
        for network in networks:
            if network is not None:
                set_mode(network, mode)
        return self

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "DaptLayer":
        for network in self.folded:
            network._apply(function, recurse)
        return super()._apply(function, recurse)

    def _active_name(self) -> str | None:
        if len(self.active_adapters) > 1:
            raise UsageError(f"only one DAPT adapter can be active, got {self.active_adapters}")
        return next((name for name in self.active_adapters if name in self.plans), None)

    def _network(self, name: str | None) -> nn.Module:
        if name is None:
            return self.base_layer
        return self.plans[name].network_of(self.base_layer, self.dapt_own[name])

    def _mixed(self, names: Sequence[str], args: tuple, kwargs: dict[str, Any]) -> Any:
        """Run one adapter per cloud; clouds with the same adapter run together."""
        if self.merged or self.training:
            state = "merged" if self.merged else "in training mode"
            raise ValueError(f"adapter_names cannot be used with a model that is {state}")
        points = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        if len(names) != len(points) or not set(names) <= self.plans.keys():
            raise ValueError(
                f"adapter_names must name one of {listed(self.plans)} for each of the "
                f"{len(points)} clouds, got {list(names)} (__base__ cannot be part of a batch, "
                "because it has no prompts)"
            )
        rows, outputs = [], []
        for name in dict.fromkeys(names):
            at = torch.tensor([i for i, other in enumerate(names) if other == name])
            rows.append(at)
            mine = [_rows(value, at, len(names)) for value in args]
            named = {key: _rows(value, at, len(names)) for key, value in kwargs.items()}
            outputs.append(self._network(name)(*mine, **named))
        return _joined(outputs, torch.cat(rows).argsort())


def _rows(value: Any, at: Tensor, num_clouds: int) -> Any:
    """The rows of some clouds; values that are not per cloud are returned unchanged."""
    is_of_clouds = isinstance(value, Tensor) and value.shape[:1] == (num_clouds,)
    return value[at.to(value.device)] if is_of_clouds else value


def _joined(outputs: Sequence[Any], order: Tensor) -> Any:
    """Join the rows of several outputs, in the order of the clouds."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))[order.to(first.device)]
    if isinstance(first, tuple):
        parts = (_joined(part, order) for part in zip(*outputs, strict=True))
        return type(first)(*parts) if hasattr(first, "_fields") else tuple(parts)
    return first
