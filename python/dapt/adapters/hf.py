"""DAPT as a method of Hugging Face PEFT: importing this module registers it there.

    import dapt, dapt.hf, peft
    model = peft.get_peft_model(dapt.create_backbone("point_mae"), dapt.hf.DaptConfig(rank=64))

`save_pretrained`, `from_pretrained`, `set_adapter`, `disable_adapter` and so on are PEFT's own. The
model gives features, as the backbone does; a head is the user's.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dapt.errors import UsageError
from dapt.methods.dapt import Dapt
from dapt.methods.replacements import Replacements


def _new_peft_type(name: str) -> PeftType:
    """PEFT registers methods under the members of an Enum, which has none to spare for others."""
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    setattr(PeftType, name, member)
    PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    PeftType._member_names_.append(name)
    return member


CANNOT_MERGE = (
    "an adapter whose scale depends on the token cannot be merged: use unload, "
    "or dapt.merge for what folds"
)
DAPT = _new_peft_type("DAPT")


@dataclass
class DaptConfig(PeftConfig):
    """The settings of `dapt.Dapt` that concern the backbone."""

    rank: int = field(default=64, metadata={"help": "Width of the adapters."})
    dropout: float = field(default=0.2, metadata={"help": "Inside the adapters."})
    drop_path: float = field(default=0.3, metadata={"help": "Of the last block."})
    memory: Literal["default", "low"] = field(
        default="default", metadata={"help": "low: keep inputs of blocks, recompute the rest."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = DAPT
        self.method()  # checks the settings

    def method(self) -> Dapt:
        return Dapt(
            rank=self.rank, dropout=self.dropout, drop_path=self.drop_path, memory=self.memory
        )


class DaptLayer(nn.Module, BaseTunerLayer):
    """All adapters of a backbone, of which the active one is in place.

    `dapt_own` holds what trains, by the adapter's name; what is in place are the same tensors.
    """

    adapter_layer_names = ("dapt_own",)

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.dapt_own = nn.ModuleDict()
        self.replacements: dict[str, Replacements] = {}
        self.in_place: str | None = None
        self._backbone = (backbone,)  # the layer is a part of it, so it is no part of the layer

    @property
    def backbone(self) -> nn.Module:
        return self._backbone[0]

    @property
    def weight(self) -> Tensor:
        raise AttributeError("an adapter of a whole backbone has no single weight")

    bias = weight

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise UsageError(CANNOT_MERGE)

    def unmerge(self) -> None:
        raise UsageError(CANNOT_MERGE)

    def add_adapter(self, name: str, config: DaptConfig) -> None:
        self._put(None)
        method, replacements = config.method(), Replacements()
        device = _device(self.backbone)
        try:
            method.check(self.backbone)
            method.wrap(self.backbone, replacements)
            own = {
                entry.replace(".", "/"): weight
                for entry, weight in self.backbone.named_parameters()
                if method.owns(entry) and not entry.startswith("dapt.")
            }
        finally:
            replacements.undo(device)
        self.dapt_own[name] = nn.ParameterDict(own)
        self.replacements[name] = replacements

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        if len(self.active_adapters) > 1:
            raise UsageError(f"one adapter can be active at a time, got {self.active_adapters}")
        self._put_active()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self._put_active()

    def delete_adapter(self, adapter_name: str) -> None:
        self._put(None)
        super().delete_adapter(adapter_name)
        del self.replacements[adapter_name]
        self._put_active()

    def _put_active(self) -> None:
        name = self.active_adapters[0] if self.active_adapters else None
        self._put(None if self.disable_adapters else name)

    def _put(self, name: str | None) -> None:
        """An adapter in place, or the pre-trained network."""
        device = _device(self.backbone)
        if self.in_place is not None:
            self.replacements[self.in_place].undo(device)
        self.in_place = name if name in self.replacements else None
        if self.in_place is not None:
            self.replacements[name].redo(device)
        _set_mode(self.backbone, self.training)


class DaptModel(BaseTuner):
    prefix = "dapt_"
    tuner_layer_cls = DaptLayer
    target_module_mapping = {}
    _create_and_replace = None  # whole blocks are replaced, by `inject_adapter`

    @contextmanager
    def _enable_peft_forward_hooks(self, *_, adapter_names: list[str] | None = None, **__):
        if adapter_names is not None:
            raise UsageError(
                "adapter_names: one adapter is active at a time here; set_adapter switches, and "
                "dapt's own models take an adapter for each cloud"
            )
        yield

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        if nn.Linear(1, 1).weight.is_meta:
            raise UsageError(
                "low_cpu_mem_usage is not for adapters of dapt: they are a few MB, made at once"
            )
        if not hasattr(model, "tokenizers"):
            raise UsageError(
                f"a {type(model).__name__} is no backbone of dapt: call get_peft_model on the "
                "backbone, and put what it gives into the network around it"
            )
        if not hasattr(model, "dapt"):
            model.requires_grad_(False)
            model.dapt = DaptLayer(model)
        config = self.peft_config[adapter_name]
        model.dapt.add_adapter(adapter_name, config)
        self.set_adapter(self.active_adapters, config.inference_mode)

    def _unload_and_optionally_merge(self, merge: bool = True, *_, **__) -> nn.Module:
        if merge:
            raise UsageError(CANNOT_MERGE)
        self.model.dapt.enable_adapters(False)
        del self.model.dapt, self.model.peft_config
        return self.model

    def train(self, mode: bool = True) -> "DaptModel":
        super().train(mode)
        _set_mode(self.model, mode)
        return self


def _set_mode(backbone: nn.Module, training: bool) -> None:
    """The frozen batch norms keep their statistics."""
    for module in backbone.modules():
        module.training = training and not isinstance(module, _BatchNorm)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


register_peft_method(name="dapt", config_cls=DaptConfig, model_cls=DaptModel)
