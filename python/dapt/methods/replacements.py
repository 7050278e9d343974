"""The modules and tensors that an adapter replaces in the backbone, and how to undo it."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class _Replacement:
    parent: nn.Module
    name: str
    original: nn.Module | Tensor | None  # None if there was nothing before
    substitute: nn.Module | Tensor


class Replacements:
    """The replacements of one adapter; undoing them restores the original objects."""

    def __init__(self):
        self._done: list[_Replacement] = []

    def put(self, parent: nn.Module, name: str, substitute: nn.Module | Tensor) -> None:
        """Replace ``parent.name`` with a module, parameter or buffer.

        Args:
            parent: a module of the backbone.
            name: The name of its child, parameter or buffer.
            substitute: The replacement.
        """
        original = getattr(parent, name)
        self._done.append(_Replacement(parent, name, original, substitute))
        setattr(parent, name, substitute)

    def add(self, parent: nn.Module, name: str, module: nn.Module) -> None:
        """Add a new module to ``parent``.

        Args:
            parent: a module of the backbone.
            name: Not taken yet.
            module: The new child.
        """
        if hasattr(parent, name):
            raise NameError(f"{type(parent).__name__} already has a '{name}'")
        self._done.append(_Replacement(parent, name, None, module))
        setattr(parent, name, module)

    def note(self, parent: nn.Module, name: str, original: nn.Module) -> None:
        """Record a replacement that another library has already made.

        Args:
            parent: a module of the backbone.
            name: The name of the child that was replaced.
            original: The object that was there before.
        """
        self._done.append(_Replacement(parent, name, original, getattr(parent, name)))

    def own(self, parent: nn.Module, name: str) -> None:
        """Replace a parameter or buffer with a copy that the adapter may change.

        Args:
            parent: a module of the backbone.
            name: The name of its parameter or buffer.
        """
        original = getattr(parent, name)
        copy = original.detach().clone()
        self.put(parent, name, nn.Parameter(copy) if isinstance(original, nn.Parameter) else copy)

    def own_parameters(self, network: nn.Module) -> None:
        """Replace all parameters of a network with copies.

        Args:
            network: a part of the backbone.
        """
        for module in network.modules():
            for name, _ in list(module.named_parameters(recurse=False)):
                self.own(module, name)

    def own_batch_norm_statistics(self, network: nn.Module) -> None:
        """Replace the statistics of all batch norms in a network with copies.

        Args:
            network: a part of the backbone.
        """
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name in BATCH_NORM_STATISTICS:
                    self.own(module, name)

    def undo(self, device: torch.device) -> None:
        """Restore the originals.

        Args:
            device: To which the originals move, should the network have moved meanwhile.
        """
        for step in reversed(self._done):
            if step.original is None:
                delattr(step.parent, step.name)
            else:
                setattr(step.parent, step.name, _on(step.original, device))

    def redo(self, device: torch.device) -> None:
        """Apply all replacements again.

        Args:
            device: To which the substitutes move, should the network have moved meanwhile.
        """
        for step in self._done:
            setattr(step.parent, step.name, _on(step.substitute, device))


def place_of(network: nn.Module, module: nn.Module) -> tuple[nn.Module, str]:
    """(parent, name) of a module in a network.

    Args:
        network: Where to look.
        module: a child of the network or of a module in it.
    """
    return next(
        (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
        if child is module
    )


def own_class_token(backbone: nn.Module, replacements: Replacements) -> None:
    """Let the class token and its position train, where the backbone has them.

    Args:
        backbone: Whose token it is.
        replacements: Where the copies are recorded.
    """
    for name in ("cls_token", "cls_pos"):
        if getattr(backbone, name, None) is not None:
            replacements.own(backbone, name)


def own_embeddings(backbone: nn.Module, replacements: Replacements) -> None:
    """Let the first half of the patch encoder and the position embedding train.

    Args:
        backbone: Whose they are.
        replacements: Where the copies are recorded.
    """
    replacements.own_parameters(backbone.tokenizer.encoder.first)
    replacements.own_parameters(backbone.pos_embed)


def _on(value: nn.Module | Tensor, device: torch.device) -> nn.Module | Tensor:
    """Move a module or parameter to the device that the network has moved to."""
    if isinstance(value, nn.Parameter):
        value.data = value.data.to(device)
        return value
    return value.to(device)
