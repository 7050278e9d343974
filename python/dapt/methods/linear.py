"""Linear probing's setting: the backbone stays as it is, only the head trains."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements


@register("linear")
@dataclass(frozen=True)
class Linear(Method):
    packs: ClassVar[bool] = True

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        pass

    def owns(self, entry: str) -> bool:
        return False
