"""What a grammar is: one function that builds many kinds of object, each by traits of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dapt.synthetic.families.family import Family
from dapt.synthetic.shapes import Dice

KINDS: dict[str, Family] = {}


@dataclass(frozen=True)
class _Grown:
    """Builds one kind: the grammar with the traits of an object drawn anew."""

    grammar: Callable[..., Iterator[tuple[str, np.ndarray]]]
    traits: dict

    def __call__(self, dice: Dice):
        return self.grammar(dice, **{name: _draw(dice, of) for name, of in self.traits.items()})


def _draw(dice: Dice, trait):
    if isinstance(trait, list):
        return _draw(dice, dice.pick(*trait))
    if isinstance(trait, tuple) and isinstance(trait[0], tuple):
        return [_draw(dice, each) for each in trait]
    if isinstance(trait, tuple):
        whole = all(isinstance(bound, int) for bound in trait)
        return dice.count(*trait) if whole else dice(*trait)
    return trait


def grammar(*parts: str, **kinds: dict):
    """Decorator: the function builds objects out of these parts, of each of these kinds.

    Args:
        parts: Names of the parts that the function yields.
        kinds: The traits of each kind, which the function takes by name. Of (low, high) a number
            between is drawn for each object, a whole one of two whole numbers; of a tuple of those
            each; of a list one is picked; anything else stands as it is.
    """

    def add(build):
        for name, traits in kinds.items():
            if name in KINDS:
                raise ValueError(f"two grammars build the kind {name}")
            KINDS[name] = Family(name, parts, _Grown(build, traits))
        return build

    return add
