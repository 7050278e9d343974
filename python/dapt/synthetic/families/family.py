"""The class of families, and the decorator that registers them."""

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
        parts: The names of its parts.
        build: A function that yields (part, surface) for the surfaces of one object.
    """

    name: str
    parts: tuple[str, ...]
    build: Callable[[Dice], Iterator[tuple[str, np.ndarray]]]

    def surfaces(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Build one object: its triangles [T, 3, 3] and the part of each [T].

        Args:
            rng: The random generator of the object.
        """
        dice = Dice(rng)
        pieces = list(self.build(dice))
        parts = [np.full(len(surface), self.parts.index(part)) for part, surface in pieces]
        stretch = np.array([dice(0.9, 1.1), dice(0.9, 1.1), dice(0.9, 1.1)])
        return np.concatenate([s for _, s in pieces]) * stretch, np.concatenate(parts)


def family(*parts: str):
    """Decorator that registers a function as the builder of the family of its name.

    Args:
        parts: The names of the parts that it yields.
    """

    def add(build):
        name = build.__name__.rstrip("_")  # bin_ and box_ avoid names that are taken
        FAMILIES[name] = Family(name, parts, build)
        return build

    return add
