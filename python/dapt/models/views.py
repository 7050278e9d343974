"""Copies of a network that share its tensors, but whose modules can be replaced independently."""

import copy

from torch import nn

# These behave the same in training and eval mode, so networks in different modes can share them.
_MODELESS = (nn.Linear, nn.LayerNorm, nn.GELU, nn.ReLU, nn.Identity)


class View:
    """A copy of a network on the same tensors, with modules of its own that may be replaced.

    Args:
        network: The original, which stays unchanged when modules of the view are replaced.
    """

    def __init__(self, network: nn.Module):
        memo = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self.network: nn.Module = copy.deepcopy(network, memo)
        self._originals = {memo[id(module)]: module for module in network.modules()}

    def share_untouched(self) -> nn.Module:
        """Replace untouched layers of the view by those of the original, and return its network."""
        for parent in list(self.network.modules()):
            for name, child in list(parent.named_children()):
                original = self._originals.get(child)
                if type(child) in _MODELESS and original is not None and _alike(child, original):
                    setattr(parent, name, original)
        return self.network


def sharing_copy(network: nn.Module) -> nn.Module:
    """Copy the modules of a network but share its tensors.

    Both move between devices together, because modules move their parameters in place.

    Args:
        network: The network to copy, which stays unchanged.
    """
    return View(network).network


def _alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two layers hold the very same tensors."""
    state, others = one.state_dict(keep_vars=True), other.state_dict(keep_vars=True)
    return state.keys() == others.keys() and all(state[k] is others[k] for k in state)
