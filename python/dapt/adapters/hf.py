"""DAPT as a method of Hugging Face PEFT: importing this module registers it there.

    import dapt, dapt.hf, peft
    model = peft.get_peft_model(dapt.create_backbone("point_mae"), dapt.hf.DaptConfig(rank=64))

The backbone may be the whole model or a part of it. PEFT handles this adapter like any other; the
head is up to the user.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from peft import PeftConfig, mapping
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from dapt.adapters.plan import Plan, set_mode
from dapt.errors import UsageError, listed
from dapt.methods.dapt import Dapt


class _Type(str):
    """A key for PEFT's tables of methods; like PEFT's own Enum keys, it has a value."""

    value = property(str)


DAPT = _Type("DAPT")


@dataclass
class DaptConfig(PeftConfig):
    """The settings of `dapt.Dapt` that concern the backbone.

    Args:
        rank: Hidden units of the adapters.
        dropout: Inside the adapters.
        drop_path: The drop-path rate of the last block.
        memory: "low" keeps inputs of blocks and recomputes the rest.
        target_modules: The names of the backbones among the modules; all by default.
        modules_to_save: Other modules that train and are saved, such as a head.
    """

    rank: int = field(default=64, metadata={"help": "Width of the adapters."})
    dropout: float = field(default=0.2, metadata={"help": "Inside the adapters."})
    drop_path: float = field(default=0.3, metadata={"help": "Of the last block."})
    memory: Literal["default", "low"] = field(
        default="default", metadata={"help": "low: keep inputs of blocks, recompute the rest."}
    )
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "The backbones among the modules; all by default."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules that train and are saved, as a head."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = DAPT
        self.method()  # checks the settings

    def method(self) -> Dapt:
        """The DAPT method with these settings."""
        return Dapt(
            rank=self.rank, dropout=self.dropout, drop_path=self.drop_path, memory=self.memory
        )


class DaptLayer(nn.Module, BaseTunerLayer):
    """A backbone and its adapters; each call uses one of them.

    `dapt_own` holds the trained tensors, by the adapter's name.

    Args:
        backbone: The pre-trained network, which stays unchanged.
    """

    adapter_layer_names = ("dapt_own",)

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.base_layer = backbone.requires_grad_(False)
        self.dapt_own = nn.ModuleDict()
        self.plans: dict[str, Plan] = {}
        self.merged_adapters: list[str] = []
        self.folded: tuple[nn.Module, ...] = ()  # the merged network, if any, which is no part
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

    def add_adapter(self, name: str, config: DaptConfig) -> None:
        """Add a new adapter.

        Args:
            name: Its name in PEFT.
            config: The settings of the method.
        """
        plan = Plan(config.method())
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
            adapter_names: At most one; None for the active one.
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
        """Return the pre-trained network, or one with the adapter folded in, without PEFT's
        modules.

        Args:
            merge: Whether the adapter is folded in.
            safe_merge: Whether to refuse a result that is not finite.
            adapter_names: At most one; None for the active one.
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
                f"{len(points)} clouds, got {list(names)} (without an adapter there are no "
                "prompts, so __base__ is not for a batch)"
            )
        rows, outputs = [], []
        for name in dict.fromkeys(names):
            at = torch.tensor([i for i, other in enumerate(names) if other == name])
            rows.append(at)
            mine = [_rows(value, at, len(names)) for value in args]
            named = {key: _rows(value, at, len(names)) for key, value in kwargs.items()}
            outputs.append(self._network(name)(*mine, **named))
        return _joined(outputs, torch.cat(rows).argsort())


class DaptModel(BaseTuner):
    """The tuner that PEFT builds from a model and a `DaptConfig`.

    Args:
        model: A backbone, or a model that contains backbones.
    """

    prefix = "dapt_"
    tuner_layer_cls = DaptLayer
    target_module_mapping = {}

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any):
        whole = is_backbone(model) and not isinstance(model, DaptLayer)
        super().__init__(DaptLayer(model) if whole else model, *args, **kwargs)

    def _prepare_adapter_config(self, peft_config: DaptConfig, model_config: dict) -> DaptConfig:
        return peft_config

    def _prepare_model(self, peft_config: DaptConfig, model: nn.Module) -> None:
        found = backbones_of(model)
        asked = peft_config.target_modules
        if not found:
            raise UsageError(
                f"a {type(model).__name__} contains no backbone of dapt: DAPT works on one from "
                "dapt.create_backbone, or on a network that contains one"
            )
        if asked is not None and not set(asked) <= set(found):
            raise UsageError(f"target_modules must be among the backbones {found}, got {asked}")
        self._targets = found if asked is None else list(asked)

    def _check_target_module_exists(self, peft_config: DaptConfig, key: str) -> bool:
        return key in self._targets

    def _create_and_replace(
        self,
        peft_config: DaptConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = next((m for m in (parent, target) if isinstance(m, DaptLayer)), None)
        if layer is None:
            layer = DaptLayer(target)
            setattr(parent, target_name, layer)
        layer.add_adapter(adapter_name, peft_config)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    @contextmanager
    def _enable_peft_forward_hooks(
        self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any
    ) -> Iterator[None]:
        layers = [module for module in self.model.modules() if isinstance(module, DaptLayer)]
        for layer in layers:
            layer.names_of_batch = adapter_names
        try:
            yield
        finally:
            for layer in layers:
                layer.names_of_batch = None

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if not isinstance(self.model, DaptLayer):
            return super()._unload_and_optionally_merge(
                merge, progressbar, safe_merge, adapter_names
            )
        del self.model.peft_config
        return self.model.unload_and_optionally_merge_module(merge, safe_merge, adapter_names)


def is_backbone(module: nn.Module) -> bool:
    """Whether a module is a backbone.

    Args:
        module: Any.
    """
    return hasattr(module, "tokenizers") and hasattr(module, "stacks")


def backbones_of(model: nn.Module) -> list[str]:
    """The names of the backbones among the modules of a model, adapted or not.

    Args:
        model: Any module.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if name and not inside and is_backbone(module):
            found.append(name)
    return found


def _rows(value: Any, at: Tensor, num_clouds: int) -> Any:
    """The rows of some clouds."""
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


mapping.PEFT_TYPE_TO_CONFIG_MAPPING[DAPT] = DaptConfig
mapping.PEFT_TYPE_TO_TUNER_MAPPING[DAPT] = DaptModel
mapping.PEFT_TYPE_TO_PREFIX_MAPPING[DAPT] = DaptModel.prefix
