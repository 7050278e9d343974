"""Any tuner of Hugging Face PEFT that wraps Linear layers: peft:lora, peft:ia3 and so on."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from torch import nn

from dapt.errors import UsageError, missing_package
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token
from dapt.models.compression import QuantizedLinear

ADAPTER = "adapted"  # what PEFT calls the adapter; a word in the name of whatever belongs to it
LINEARS = ["qkv", "proj", "fc1", "fc2"]  # of every block
DEFAULTS = {
    "dora": {"use_dora": True},
    "ia3": {"feedforward_modules": ["fc2"]},
    "vera": {"save_projection": False},  # shared by all layers, and drawn again from its seed
}
SAME_AS = {"dora": "lora"}
_REFUSALS = (AttributeError, ImportError, RuntimeError, TypeError, ValueError)  # as PEFT has them


@register("peft")
@dataclass(frozen=True)
class Peft(Method):
    """Its class token trains beside what PEFT puts in place."""

    packs: ClassVar[bool] = True
    kind: ClassVar[str | None] = None

    settings: dict[str, Any] | None = None  # fields of the config class of PEFT

    @classmethod
    @cache
    def over(cls, inner: str) -> type[Method]:
        known = sorted([*(kind.lower() for kind in _library().tuners), *SAME_AS])
        if inner not in known:
            raise UsageError(f"unknown method 'peft:{inner}'; PEFT has {', '.join(known)}")
        return dataclass(frozen=True)(
            type(f"Peft{inner.title()}", (cls,), {"kind": inner, "name": f"peft:{inner}"})
        )

    @classmethod
    def of(cls, kind: str, **settings) -> "Peft":
        """`Peft.of("lora", r=8)`: what `peft:lora` is on the command line."""
        return cls.over(kind)(settings=settings or None)

    def __post_init__(self):
        if self.kind is None:
            raise UsageError("peft is named with its kind: peft:lora, or dapt.Peft.of('lora')")
        self.config()  # finds what is wrong with the settings

    def config(self) -> Any:
        """The config object of PEFT."""
        fields = {"target_modules": LINEARS} | DEFAULTS.get(self.kind, {}) | (self.settings or {})
        _check(self.name, fields)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Specified to not save vera_A")
                return _library().configs[SAME_AS.get(self.kind, self.kind).upper()](**fields)
        except _REFUSALS as error:
            raise UsageError(f"settings of {self.name}: {error}") from None

    def owns(self, entry: str) -> bool:
        return not {ADAPTER, "cls_token", "cls_pos"}.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        children = [
            (parent, name, child)
            for parent in backbone.modules()
            for name, child in parent.named_children()
        ]
        config, before = self.config(), set(backbone.state_dict())
        try:
            _library().tuners[config.peft_type](backbone, config, ADAPTER)
            del backbone.peft_config
        except _REFUSALS as error:
            raise UsageError(f"{self.name} does not fit this backbone: {error}") from None
        finally:
            for parent, name, child in children:
                if getattr(parent, name) is not child:
                    replacements.note(parent, name, child)
        self._check_what_is_new(backbone, before)
        own_class_token(backbone, replacements)

    def folded(self, module: nn.Module) -> nn.Module | None:
        """PEFT's own merge into the layer that was there."""
        if not isinstance(module, _library().layer):
            return super().folded(module)
        if isinstance(module.get_base_layer(), QuantizedLinear):
            module.base_layer = module.get_base_layer().in_float()
        module.merge(safe_merge=True)
        return module.get_base_layer()

    def _check_what_is_new(self, backbone: nn.Module, before: set[str]) -> None:
        """Every new tensor is the adapter's, in one place only, and trains if it is a parameter."""
        seen = set()
        for entry, value in backbone.state_dict(keep_vars=True).items():
            if entry in before or ".base_layer." in entry:
                continue
            idle = isinstance(value, nn.Parameter) and not value.requires_grad
            if idle or id(value) in seen or not self.owns(entry):
                raise UsageError(
                    f"{self.name} is not supported: its '{entry}' is shared by layers, "
                    "or does not train"
                )
            seen.add(id(value))


def _check(name: str, fields: Mapping[str, Any]) -> None:
    """Refuse what would train or change the pre-trained weights themselves."""
    for field, plain in {"bias": "none", "modules_to_save": None}.items():
        if fields.get(field, plain) != plain:
            raise UsageError(
                f"settings of {name}: {field} must be {plain}, got {fields[field]!r}: "
                "the pre-trained weights stay as they are"
            )
    start = fields.get("init_lora_weights", True)
    if not (isinstance(start, bool) or start == "gaussian"):
        raise UsageError(
            f"settings of {name}: init_lora_weights must be true, false or gaussian, got "
            f"{start!r}: other starts change the pre-trained weights"
        )


@dataclass(frozen=True)
class _Library:
    configs: Mapping[str, type]
    tuners: Mapping[str, type]
    layer: type  # of the modules that tuners put in place


@cache
def _library() -> _Library:
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError as error:
        raise UsageError(f"methods of PEFT need {missing_package(error)}") from None
    return _Library(PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, BaseTunerLayer)
