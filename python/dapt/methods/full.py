"""Full fine-tuning: everything trains, on a copy of the pre-trained weights."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dapt.errors import UsageError
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements


@register("full")
@dataclass(frozen=True)
class Full(Method):
    """Train every weight of the backbone, and update every statistic."""

    packs: ClassVar[bool] = True

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        if backbone.config.compressed:
            raise UsageError(
                f"full trains the backbone's weights, and these are {backbone.config.compressed}: "
                "create it uncompressed, or choose a method that keeps the weights"
            )
        for module in backbone.modules():
            tensors = [
                *(name for name, _ in module.named_parameters(recurse=False)),
                *(name for name, _ in module.named_buffers(recurse=False)),
            ]
            for name in tensors:
                replacements.own(module, name)

    def owns(self, entry: str) -> bool:
        return True
