"""Networks with an adapter, assembled at each call from tensors stored elsewhere."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dapt.methods.method import Method
from dapt.methods.replacements import Replacements
from dapt.models.tokenizer import as_weights
from dapt.models.views import sharing_copy


class Plan:
    """A network with an adapter, made of tensors that are stored elsewhere.

    They are looked up at each call, so moves, casts and replacements take effect. A copy of a plan
    makes its own network.

    Args:
        method: The method.
    """

    def __init__(self, method: Method):
        self.method = method
        self.network: nn.Module | None = None
        self._places: list[tuple[dict, str, bool, str]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"method": self.method, "network": None, "_places": []}

    def fresh(self, backbone: nn.Module) -> dict[str, Tensor]:
        """Make a new adapter's tensors, by names that a ParameterDict allows.

        Args:
            backbone: Left unchanged.
        """
        self.method.check(backbone)
        entries = tensors_of(self._wrapped(backbone)).items()
        return {_key(entry): value for entry, value in entries if self.method.owns(entry)}

    @torch.compiler.disable
    def network_of(self, backbone: nn.Module, own: nn.ParameterDict) -> nn.Module:
        """The adapted network on the tensors of backbone and adapter, cast to the backbone's dtype.

        Args:
            backbone: Left unchanged.
            own: The adapter's tensors, as `fresh` names them.
        """
        if self.network is None:
            self.network = self._wrapped(backbone)
            set_mode(self.network, backbone.training)
            self._places = self._places_in(self.network, backbone)
        pretrained = tensors_of(backbone)
        for table, name, is_own, source in self._places:
            table[name] = as_weights(own[source], backbone) if is_own else pretrained[source]
        return self.network

    def folded(self, backbone: nn.Module, own: nn.ParameterDict) -> nn.Module:
        """A frozen network with plain layers wherever they are equivalent.

        Args:
            backbone: Left unchanged.
            own: The adapter's tensors, as `fresh` names them.
        """
        plan = Plan(self.method)
        with torch.no_grad():
            network = plan.network_of(backbone, own)
        for module in network.modules():
            for name, value in module._parameters.items():
                if value is not None:
                    module._parameters[name] = nn.Parameter(value.detach(), False)
        for parent in list(network.modules()):
            for name, child in list(parent.named_children()):
                plain = self.method.folded(child)
                if plain is not None:
                    setattr(parent, name, plain)
        return network

    def _wrapped(self, backbone: nn.Module) -> nn.Module:
        network = sharing_copy(backbone)
        self.method.wrap(network, Replacements())
        return network

    def _places_in(
        self, network: nn.Module, backbone: nn.Module
    ) -> list[tuple[dict, str, bool, str]]:
        """For each tensor of the network: the table and name that hold it, and its source."""
        names = {id(value): name for name, value in tensors_of(backbone).items()}
        places = []
        for prefix, module in network.named_modules():
            for table in (module._parameters, module._buffers):
                for name, value in table.items():
                    entry = f"{prefix}.{name}" if prefix else name
                    if value is not None and self.method.owns(entry):
                        places.append((table, name, True, _key(entry)))
                    elif value is not None:
                        places.append((table, name, False, names[id(value)]))
        return places


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tensor with several names is listed under each.

    Args:
        module: Any module.
    """
    parameters = module.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(module.named_buffers(remove_duplicate=False))


def set_mode(network: nn.Module, training: bool) -> None:
    """Set training or eval mode; batch norms keep their statistics.

    Args:
        network: The adapted network.
        training: As in `nn.Module.train`.
    """
    for module in network.modules():
        module.training = training and not isinstance(module, _BatchNorm)


def _key(entry: str) -> str:
    return entry.replace(".", "/")
