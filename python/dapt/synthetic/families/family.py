"""What a family is, and the list of them that its decorator fills."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dapt.synthetic.shapes import Dice

FAMILIES: dict[str, "Family"] = {}


@dataclass(frozen=True)
class Family:
    """Objects that share a name: their parts, and how to build one.

    Args:
        name: The name of the class.
        parts: Names of its parts.
        build: Yields the surfaces of one object, each with its part.
    """

    name: str
    parts: tuple[str, ...]
    build: Callable[[Dice], Iterator[tuple[str, np.ndarray]]]

    def surfaces(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One object: its triangles [T, 3, 3] and the part of each [T].

        Args:
            rng: What the object's shape is drawn from.
        """
        dice = Dice(rng)
        pieces = list(self.build(dice))
        parts = [np.full(len(surface), self.parts.index(part)) for part, surface in pieces]
        stretch = np.array([dice(0.9, 1.1), dice(0.9, 1.1), dice(0.9, 1.1)])
        return np.concatenate([s for _, s in pieces]) * stretch, np.concatenate(parts)


def family(*parts: str):
    """Decorator: the function builds the family of its name out of these parts."""

    def add(build):
        name = build.__name__.rstrip("_")  # bin_ and box_ are the names of others
        FAMILIES[name] = Family(name, parts, build)
        return build

    return add
