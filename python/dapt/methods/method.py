"""What an adaptation method is, and the table of those that exist."""

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

    A subclass is a frozen dataclass in a file of its own, registered under the file's name. What it
    leaves out stays as it is here: nothing is changed, nothing is owned.
    """

    name: ClassVar[str]
    builds_on: ClassVar[Sequence[str]] = ()  # names that stand after this one and a colon alone
    packs: ClassVar[bool] = False  # works on backbones that keep all clouds' tokens in one row
    mixes: ClassVar[bool] = False  # clouds of one batch change each other, be it by a rounding

    def __post_init__(self):
        pass

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        """Put the method's modules in place of those that it changes.

        Args:
            backbone: A copy that the method may change.
            replacements: Through which it does.
        """

    def owns(self, entry: str) -> bool:
        """Whether an entry of the wrapped backbone's state belongs to the method.

        The only statement of it: what is owned trains, is saved and is counted, and the rest is
        the pre-trained network, untouched.

        Args:
            entry: Its name in the wrapped backbone's `state_dict`.
        """
        return False

    def check(self, backbone: nn.Module) -> None:
        """Refuse a backbone on which the method does not work.

        Args:
            backbone: Before it is wrapped.
        """
        if is_packed(backbone) and not self.packs:
            able = ", ".join(sorted(name for name, kind in METHODS.items() if kind.packs))
            raise UsageError(
                f"method '{self.name}' needs a row of tokens for each cloud, and "
                f"{type(backbone).__name__} keeps those of all clouds in one: choose from {able}"
            )

    @classmethod
    def over(cls, inner: str) -> type["Method"]:
        """The class that is named `<this method>:<inner>`.

        Args:
            inner: Name of the method below.
        """
        raise UsageError(
            f"method '{cls.name}' cannot be combined: there is no '{cls.name}:{inner}'"
        )

    def head_tokens_for(self, backbone: nn.Module) -> tuple[str, ...]:
        """What a head of whole clouds reads.

        Args:
            backbone: The wrapped backbone.
        """
        return backbone.head_tokens

    def features(self, backbone: nn.Module, points: Tensor, levels: Sequence[int]) -> Features:
        """What the wrapped backbone makes of a batch of clouds.

        Args:
            backbone: The wrapped backbone.
            points: [B, N, 3], or as many channels as the backbone reads.
            levels: Blocks whose tokens the head reads, too.
        """
        return backbone(points, levels)

    def prepare(self, backbone: nn.Module, clouds: Iterable[Tensor]) -> None:
        """Take from batches of training clouds, each [B, N, 3], what the method needs of them.

        Args:
            backbone: The wrapped backbone.
            clouds: The batches.
        """

    def make_room(self, backbone: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Resize data-dependent entries of the backbone to match a saved state of it.

        Args:
            backbone: The wrapped backbone.
            state: The method's own tensors, by the names that the backbone's state has for them.
        """

    def extra_loss(self, backbone: nn.Module) -> Tensor | None:
        """A term that training adds to the task's loss, of the forward pass just made.

        Args:
            backbone: The wrapped backbone.
        """
        return None

    def meters(self, backbone: nn.Module) -> dict[str, float]:
        """What the method measured of itself since the last reading, logged for each split.

        Args:
            backbone: The wrapped backbone.
        """
        return {}

    def kin(self) -> "Method | None":
        """What adapters must have in common to run side by side in one batch, each cloud with its
        own: equal answers. None where the method's adapters cannot."""
        return None

    def folded(self, module: nn.Module) -> nn.Module | None:
        """A plain module that does in evaluation what one of the method's does.

        Args:
            module: Any part of the wrapped backbone.

        Returns:
            None where there is nothing to fold.
        """
        return module.folded() if hasattr(module, "folded") else None

    def __reduce__(self):  # the classes of `over` are made on the fly: pickled by their names
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _rebuild, (self.name, fields)


METHODS: dict[str, type[Method]] = {}


def is_packed(backbone: nn.Module) -> bool:
    """Whether a backbone keeps the tokens of all clouds in one row, so that none can be inserted.

    Args:
        backbone: of `dapt.models` or of someone else.
    """
    return getattr(backbone, "packed", False)


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Enter a method's class in the table; a name that is not its file's fails at import.

    A notebook has no file: there the name is free, and a cell may run again.

    Args:
        name: What `method.name` calls it.
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
    """Of all methods; of those that build on another's name an example."""
    known = {*METHODS, *installed("method")} - {"peft", "density"}
    return sorted({"density:dapt", "peft:lora", "reversible:dapt"} | known)


def method_class(name: str) -> type[Method]:
    """By its name, or by two names and a colon for a method that builds on another's name.

    Args:
        name: `dapt`, `density:dapt` or `peft:lora`, say.
    """
    first, colon, rest = name.partition(":")
    if first not in METHODS:
        for outer, kind in METHODS.items():
            if first in kind.builds_on:
                raise UsageError(f"unknown method {name!r}: did you mean {outer}:{first}?")
    kind = entry("method", first, METHODS)
    return kind.over(rest) if colon else kind
