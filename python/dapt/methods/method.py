"""What an adaptation method is, and the table of all methods."""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from dapt.errors import UsageError
from dapt.methods.replacements import Replacements
from dapt.models.transformer import Features
from dapt.plugins import entry, installed


class Method:
    """The settings of a method, and how it changes a frozen backbone.

    A subclass is a frozen dataclass in a file of its own, registered under the file's name. By
    default, a method changes nothing and owns nothing.
    """

    name: ClassVar[str]
    builds_on: ClassVar[Sequence[str]] = ()  # names that may follow this one and a colon
    packs: ClassVar[bool] = False  # supports backbones that keep all clouds' tokens in one row
    mixes: ClassVar[bool] = False  # clouds of one batch affect each other, if only by rounding

    def __post_init__(self):
        pass

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        """Replace the modules that the method changes.

        Args:
            backbone: A copy that the method may change.
            replacements: Records each replacement.
        """

    def owns(self, entry: str) -> bool:
        """Whether an entry of the wrapped backbone's state belongs to the method.

        This decides everything: owned entries train, are saved and are counted, and the rest is
        the pre-trained network, untouched.

        Args:
            entry: Its name in the wrapped backbone's `state_dict`.
        """
        return False

    def check(self, backbone: nn.Module) -> None:
        """Refuse a backbone on which the method does not work.

        Args:
            backbone: The backbone before it is wrapped.
        """
        if is_packed(backbone) and not self.packs:
            able = ", ".join(sorted(name for name, kind in METHODS.items() if kind.packs))
            raise UsageError(
                f"method '{self.name}' needs a row of tokens for each cloud, and "
                f"{type(backbone).__name__} keeps those of all clouds in one: choose from {able}"
            )

    @classmethod
    def over(cls, inner: str) -> type["Method"]:
        """Return the class named `<this method>:<inner>`.

        Args:
            inner: The name of the method underneath.
        """
        raise UsageError(
            f"method '{cls.name}' cannot be combined: there is no '{cls.name}:{inner}'"
        )

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        """The tokens that a head for whole clouds reads.

        Args:
            backbone: The wrapped backbone.
        """
        return backbone.head_tokens

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        """Run the wrapped backbone on a batch of clouds.

        Args:
            backbone: The wrapped backbone.
            points: [B, N, 3], or as many channels as the backbone reads.
            levels: Blocks whose tokens the head also reads.
        """
        return backbone(points, levels)

    def prepare(self, backbone: nn.Module, clouds: Iterable[Tensor]) -> None:
        """Collect what the method needs from batches of training clouds, each [B, N, 3].

        Args:
            backbone: The wrapped backbone.
            clouds: The batches.
        """

    def make_room(self, backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Resize data-dependent entries of the backbone to match a saved state of it.

        Args:
            backbone: The wrapped backbone.
            state: The method's own tensors, by their names in the backbone's state.
        """

    def extra_loss(self, backbone: nn.Module) -> Tensor | None:
        """A term to add to the task's loss, for the latest forward pass.

        Args:
            backbone: The wrapped backbone.
        """
        return None

    def meters(self, backbone: nn.Module) -> dict[str, float]:
        """The method's own measurements since the last reading, logged for each split.

        Args:
            backbone: The wrapped backbone.
        """
        return {}

    def kin(self) -> "Method | None":
        """What adapters must have in common to run side by side, each on its own clouds of a batch:
        their kin must be equal. None if the method's adapters cannot run side by side."""
        return None

    def folded(self, module: nn.Module) -> nn.Module | None:
        """A plain module equivalent in evaluation to one of the method's modules.

        Args:
            module: Any part of the wrapped backbone.

        Returns:
            None if there is nothing to fold.
        """
        return module.folded() if hasattr(module, "folded") else None

    def __reduce__(self):  # pickles by name, because the classes of `over` are made on the fly
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _rebuild, (self.name, fields)


METHODS: dict[str, type[Method]] = {}


def is_packed(backbone: nn.Module) -> bool:
    """Whether a backbone keeps the tokens of all clouds in one row, so none can be inserted.

    Args:
        backbone: A backbone from `dapt.models` or another package.
    """
    return getattr(backbone, "packed", False)


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Register a method's class; a name that differs from its file's fails at import.

    In a notebook, which has no file, the name is free and a cell may run again.

    Args:
        name: The name for `method.name`.
    """

    def enter(cls: type[Method]) -> type[Method]:
        is_of_notebook = cls.__module__ == "__main__"
        file = None if is_of_notebook else Path(sys.modules[cls.__module__].__file__).stem
        if name != file and not is_of_notebook:
            raise NameError(f"method '{name}' must have the name of its file, '{file}'")
        known = METHODS.get(name)
        if known is not None and not (is_of_notebook and known.__module__ == "__main__"):
            raise NameError(f"method '{name}' is registered twice")
        if not (issubclass(cls, Method) and dataclasses.is_dataclass(cls)):
            raise TypeError(f"method '{name}' must be a dataclass derived from Method")
        cls.name = name
        METHODS[name] = cls
        return cls

    return enter


def _rebuild(name: str, fields: dict) -> Method:
    return method_class(name)(**fields)


def names() -> list[str]:
    """The names of all methods, with an example for those that build on another's name."""
    known = {*METHODS, *installed("method")} - {"peft", "density"}
    return sorted({"density:dapt", "peft:lora", "reversible:dapt"} | known)


def method_class(name: str) -> type[Method]:
    """Look up a method's class by its name, or by two names joined with a colon.

    Args:
        name: For example `dapt`, `density:dapt` or `peft:lora`.
    """
    first, colon, rest = name.partition(":")
    if first not in METHODS:
        for outer, kind in METHODS.items():
            if first in kind.builds_on:
                raise UsageError(f"unknown method {name!r}: did you mean {outer}:{first}?")
    kind = entry("method", first, METHODS)
    return kind.over(rest) if colon else kind
