"""Linear probing's setting: the backbone stays as it is, only the head trains."""

from dataclasses import dataclass
from typing import ClassVar

from dapt.methods.method import Method, register


@register("linear")
@dataclass(frozen=True)
class Linear(Method):
    """Nothing of the backbone changes."""

    packs: ClassVar[bool] = True

    def kin(self) -> "Linear":
        return self
