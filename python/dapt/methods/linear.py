"""Linear probing: the backbone stays unchanged, only the head trains."""

from dataclasses import dataclass
from typing import ClassVar

from dapt.methods.method import Method, register


@register("linear")
@dataclass(frozen=True)
class Linear(Method):
    """Leave the backbone unchanged."""

    packs: ClassVar[bool] = True

    def kin(self) -> "Linear":
        return self
