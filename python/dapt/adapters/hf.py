"""DAPT as a method of Hugging Face PEFT; importing this module registers it.

    import dapt, dapt.hf, peft
    model = peft.get_peft_model(dapt.create_backbone("point_mae"), dapt.hf.DaptConfig(rank=64))

The backbone may be the whole model or a part of it. PEFT handles this adapter like any other; the
user provides the head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, mapping
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from dapt.adapters.hf_layer import DaptLayer
from dapt.errors import UsageError
from dapt.methods.dapt import Dapt


class _Type(str):
    """A key for PEFT's tables of methods; like PEFT's own Enum keys, it has a value."""

    value = property(str)


DAPT = _Type("DAPT")


@dataclass
class DaptConfig(PeftConfig):
    """The settings of `dapt.Dapt` that concern the backbone.

    Args:
        rank: The number of hidden units of the adapters.
        dropout: The dropout rate inside the adapters.
        drop_path: The drop-path rate of the last block.
        positions: Where the positions are added: "once" or in "each_block".
        memory: "low" keeps only the inputs of blocks and recomputes the rest.
        target_modules: The names of the backbones to adapt; all by default.
        modules_to_save: Other modules that train and are saved, such as a head.
    """

    rank: int = field(default=64, metadata={"help": "Hidden units of the adapters."})
    dropout: float = field(default=0.2, metadata={"help": "Dropout rate inside the adapters."})
    drop_path: float = field(default=0.3, metadata={"help": "Drop-path rate of the last block."})
    positions: Literal["once", "each_block"] = field(
        default="once", metadata={"help": "Where the positions are added: once, or in each_block."}
    )
    memory: Literal["default", "low"] = field(
        default="default", metadata={"help": "low: keep only inputs of blocks, recompute the rest."}
    )
    target_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the backbones to adapt; all by default."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules that train and are saved, such as a head."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = DAPT
        self.method()  # checks the settings

    def method(self) -> Dapt:
        """The DAPT method with these settings."""
        return Dapt(
            rank=self.rank,
            dropout=self.dropout,
            drop_path=self.drop_path,
            positions=self.positions,
            memory=self.memory,
        )


class DaptModel(BaseTuner):
    """The tuner that PEFT makes from a model and a `DaptConfig`.

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
        layer.add_adapter(adapter_name, peft_config.method())

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
        module: Any module.
    """
    return hasattr(module, "tokenizers") and hasattr(module, "stacks")


def backbones_of(model: nn.Module) -> list[str]:
    """The names of the backbones in a model, adapted or not.

    Args:
        model: Any module.
    """
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in found)
        if name and not inside and is_backbone(module):
            found.append(name)
    return found


mapping.PEFT_TYPE_TO_CONFIG_MAPPING[DAPT] = DaptConfig
mapping.PEFT_TYPE_TO_TUNER_MAPPING[DAPT] = DaptModel
mapping.PEFT_TYPE_TO_PREFIX_MAPPING[DAPT] = DaptModel.prefix
