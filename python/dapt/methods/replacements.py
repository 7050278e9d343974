"""The modules and tensors that an adapter replaces in its network."""

from torch import Tensor, nn

BATCH_NORM_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Replacements:
    """Puts the modules and tensors of a method into the network of its adapter."""

    def put(self, parent: nn.Module, name: str, substitute: nn.Module | Tensor) -> None:
        """Replace ``parent.name`` with a module, parameter or buffer.

        Args:
            parent: A module of the backbone.
            name: The name of its child, parameter or buffer.
            substitute: The replacement.
        """
        getattr(parent, name)  # raises if there is none
        setattr(parent, name, substitute)

    def add(self, parent: nn.Module, name: str, module: nn.Module) -> None:
        """Add a new module to ``parent``.

        Args:
            parent: A module of the backbone.
            name: Not taken yet.
            module: The new child.
        """
        if hasattr(parent, name):
            raise NameError(f"{type(parent).__name__} already has a '{name}'")
        setattr(parent, name, module)

    def own(self, parent: nn.Module, name: str) -> None:
        """Replace a parameter or buffer with a copy that the adapter may change.

        Args:
            parent: A module of the backbone.
            name: The name of its parameter or buffer.
        """
        original = getattr(parent, name)
        copy = original.detach().clone()
        self.put(parent, name, nn.Parameter(copy) if isinstance(original, nn.Parameter) else copy)

    def own_parameters(self, network: nn.Module) -> None:
        """Replace all parameters of a network with copies.

        Args:
            network: A part of the backbone.
        """
        for module in network.modules():
            for name, _ in list(module.named_parameters(recurse=False)):
                self.own(module, name)

    def own_batch_norm_statistics(self, network: nn.Module) -> None:
        """Replace the statistics of all batch norms in a network with copies.

        Args:
            network: A part of the backbone.
        """
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for name in BATCH_NORM_STATISTICS:
                    self.own(module, name)


def place_of(network: nn.Module, module: nn.Module) -> tuple[nn.Module, str]:
    """(parent, name) of a module in a network.

    Args:
        network: Where to look.
        module: A child of the network or of a module in it.
    """
    return next(
        (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
        if child is module
    )


def own_class_token(backbone: nn.Module, replacements: Replacements) -> None:
    """Let the class token and its position train, if the backbone has them.

    Args:
        backbone: The backbone that the method adapts.
        replacements: Records the replacements.
    """
    for name in ("cls_token", "cls_pos"):
        if getattr(backbone, name, None) is not None:
            replacements.own(backbone, name)


def own_embeddings(backbone: nn.Module, replacements: Replacements) -> None:
    """Let the first half of the patch encoder and the position embedding train.

    Args:
        backbone: The backbone that the method adapts.
        replacements: Records the replacements.
    """
    replacements.own_parameters(backbone.tokenizer.encoder.first)
    replacements.own_parameters(backbone.pos_embed)
