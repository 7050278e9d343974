"""Tuners of Hugging Face PEFT that wrap Linear layers: peft:lora, peft:ia3 and so on.

Settings may come from adapter files that anyone wrote. Only listed tuners are allowed, therefore,
and a setting is a number, a switch or a name that cannot refer to a file, a hub or a pattern.
"""

import copy
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from torch import nn

from dapt.errors import UsageError, look_up, missing_package
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token
from dapt.models.compression import QuantizedLinear

ADAPTER = "adapted"  # PEFT's name for the adapter, part of the name of everything it owns
LINEARS = ["qkv", "proj", "fc1", "fc2"]  # of every block
DEFAULTS = {
    "dora": {"use_dora": True},
    "ia3": {"feedforward_modules": ["fc2"]},
    "vera": {"save_projection": False},  # shared by all layers, and drawn again from its seed
}
SAME_AS = {"dora": "lora"}
SUPPORTED = (
    *("adamss", "beft", "boft", "c3a", "deft", "delora", "dora", "fourierft", "frod", "glora"),
    *("gralora", "hira", "hra", "ia3", "ln_tuning", "loha", "lokr", "lora", "miss", "oft", "osf"),
    *("peanut", "psoft", "road", "shira", "supertuning", "vera", "waveft"),
)
_LANGUAGE = "it is for language models; here are vpt and prefix"
_SHARED = "its tensors are shared by layers, or some of them do not train"
REFUSED = {
    **dict.fromkeys(("adaption_prompt", "cartridge", "cpt", "multitask_prompt_tuning"), _LANGUAGE),
    **dict.fromkeys(("p_tuning", "prefix_tuning", "prompt_tuning"), _LANGUAGE),
    **dict.fromkeys(("adalora", "lily", "pvera", "randlora", "tinylora"), _SHARED),
    **dict.fromkeys(("unilora", "vblora"), _SHARED),
    "poly": "it needs a task number for each cloud",
    "shadow": "it loads a second model, from a file or a hub",
    "trainable_tokens": "it is for tables of words",
    "xlora": "it combines other adapters, from files",
}
LAYER_LISTS = ("target_modules", "exclude_modules", "feedforward_modules", "layers_to_transform")
_REFUSALS = (AttributeError, ImportError, RuntimeError, TypeError, ValueError)  # raised by PEFT


@register("peft")
@dataclass(frozen=True)
class Peft(Method):
    """A tuner from Hugging Face PEFT, such as peft:lora. The class token trains as well.

    Args:
        settings: Fields of PEFT's config class: {r: 16, lora_alpha: 32}.
    """

    builds_on: ClassVar[Sequence[str]] = SUPPORTED
    packs: ClassVar[bool] = True
    kind: ClassVar[str | None] = None

    settings: dict[str, Any] | None = None

    @classmethod
    @cache
    def over(cls, inner: str) -> type[Method]:
        if inner in REFUSED:
            raise UsageError(f"peft:{inner} is not supported: {REFUSED[inner]}")
        if inner not in SUPPORTED:
            look_up("method", f"peft:{inner}", {f"peft:{name}": None for name in SUPPORTED})
        if SAME_AS.get(inner, inner).upper() not in _library().tuners:
            raise UsageError(f"peft:{inner} needs a newer version of the package peft")

        @dataclass(frozen=True)
        class Tuner(cls):
            __doc__ = cls.__doc__
            name = f"{cls.name}:{inner}"
            kind = inner

        Tuner.__name__ = Tuner.__qualname__ = f"{cls.__name__}{inner.title()}"
        return Tuner

    @classmethod
    def of(cls, kind: str, **settings) -> "Peft":
        """Create a tuner, `Peft.of("lora", r=8)`, as `peft:lora` does on the command line.

        Args:
            kind: PEFT's name for the tuner, such as `lora`.
        """
        return cls.over(kind)(settings=settings or None)

    def __post_init__(self):
        if self.kind is None:
            raise UsageError("peft needs a tuner: peft:lora, or dapt.Peft.of('lora')")
        self.config()  # checks the settings

    def config(self) -> Any:
        """PEFT's config object."""
        fields = {"target_modules": LINEARS} | DEFAULTS.get(self.kind, {}) | (self.settings or {})
        config = _library().configs[SAME_AS.get(self.kind, self.kind).upper()]
        _check(self.name, fields, config)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Specified to not save vera_A")
                return config(**fields)
        except _REFUSALS as error:
            raise UsageError(f"settings of {self.name}: {error}") from None

    def kin(self) -> "Peft | None":
        return self if self.kind == "lora" else None

    def owns(self, entry: str) -> bool:
        return not {ADAPTER, "cls_token", "cls_pos"}.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        config, before = self.config(), set(backbone.state_dict())
        try:
            _library().tuners[config.peft_type](backbone, config, ADAPTER)
            del backbone.peft_config
        except _REFUSALS as error:
            raise UsageError(f"{self.name} does not fit this backbone: {error}") from None
        self._check_what_is_new(backbone, before)
        own_class_token(backbone, replacements)

    def folded(self, module: nn.Module) -> nn.Module | None:
        """Run PEFT's own merge on a copy of the original layer."""
        if not isinstance(module, _library().layer):
            return super().folded(module)
        module = copy.deepcopy(module)
        if isinstance(module.get_base_layer(), QuantizedLinear):
            module.base_layer = module.get_base_layer().in_float()
        try:
            module.merge(safe_merge=True)
        except ValueError:  # beft raises it for a layer without a bias
            return None
        return module.get_base_layer()

    def _check_what_is_new(self, backbone: nn.Module, before: set[str]) -> None:
        """Check that each new tensor is the adapter's alone, and trains if it is a parameter."""
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


def _check(name: str, fields: Mapping[str, Any], config: type) -> None:
    """Refuse what would train or change the pre-trained weights, and what could stand for a file,
    a hub, code or a pattern."""
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
    hints = typing.get_type_hints(config)
    for field, value in fields.items():
        if field not in hints:
            raise UsageError(f"settings of {name}: there is no field '{field}'")
        if not _is_harmless(field, value, hints[field]):
            raise UsageError(
                f"settings of {name}: {field} must be a number, a switch, one of the words that "
                f"PEFT lists for it or, where it names layers, a list of them, got {value!r:.40}"
            )


def _is_harmless(field: str, value: Any, hint: Any) -> bool:
    if value is None or isinstance(value, bool | int | float):
        return True
    if isinstance(value, str):
        return value in _words(hint) or (field, value) == ("bias", "none")
    if isinstance(value, list | tuple) and field in LAYER_LISTS:
        return all(isinstance(item, int) or _is_name(item) for item in value)
    return False


def _is_name(item: Any) -> bool:
    """Whether an item is part of a layer's dotted name rather than a pattern."""
    return isinstance(item, str) and item.replace("_", "").replace(".", "").isalnum()


def _words(hint: Any) -> tuple[Any, ...]:
    """The values that an annotation lists, at any depth."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return tuple(word for part in typing.get_args(hint) for word in _words(part))


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
