"""Networks that share their tensors: what is replaced in one stays as it is in the others."""

import copy

from torch import nn

# They do the same in training and in eval, so that networks in different modes can share them.
_MODELESS = (nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity)


class View:
    """The same network once more, on the same tensors, with modules of its own to change.

    Args:
        network: What is seen; nothing of it changes when the view does.
    """

    def __init__(self, network: nn.Module):
        memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network: nn.Module = copy.deepcopy(network, memo)
        self._originals = {memo[id(module)]: module for module in network.modules()}

    def share_untouched(self) -> nn.Module:
        """The view's network, in which layers that were left alone are the seen network's own."""
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                original = self._originals.get(child)
                if type(child) in _MODELESS and original is not None and _alike(child, original):
                    setattr(parent, name, original)
        return self.network


def sharing_copy(network: nn.Module) -> nn.Module:
    """A network whose modules are new and whose tensors are the given one's; both move together,
    because modules move their parameters in place.

    Args:
        network: Left unchanged.
    """
    return View(network).network


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """That two layers hold the very same tensors."""
    state, others = one.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    return state.keys() == others.keys() and all(state[k] is others[k] for k in state)
