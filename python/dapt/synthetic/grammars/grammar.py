"""The decorator for grammars: functions that each build many kinds of object by their traits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from dapt.synthetic.families.family import Family
from dapt.synthetic.shapes import Dice

KINDS: dict[str, Family] = {}


@dataclass(frozen=True)
class _Grown:
    """Builds one kind of object: calls the grammar with newly drawn traits for each object."""

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
    """Decorator that registers a function as the builder of several kinds of object.

    Args:
        parts: The names of the parts that the function yields.
        kinds: The traits of each kind, passed to the function by name. For each object, a number
            is drawn from a range (low, high), an integer if both ends are integers; a tuple of
            ranges draws from each; a list picks one of its items; other values are constant.
    """

    def add(build):
        for name, traits in kinds.items():
            if name in KINDS:
                raise ValueError(f"two grammars build the kind {name}")
            KINDS[name] = Family(name, parts, _Grown(build, traits))
        return build

    return add
