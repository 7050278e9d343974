"""Generative grammars: each function builds many kinds of object, which differ in their traits."""

from dapt.synthetic.grammars import (
    beasts,
    buildings,
    cases,
    electronics,
    flyers,
    growth,
    hulls,
    implements,
    lamps,
    mechanics,
    monuments,
    motors,
    people,
    ramparts,
    turned,
    wagons,
)
from dapt.synthetic.grammars.grammar import KINDS, grammar

__all__ = [
    "KINDS",
    "grammar",
    "beasts",
    "buildings",
    "cases",
    "electronics",
    "flyers",
    "growth",
    "hulls",
    "implements",
    "lamps",
    "mechanics",
    "monuments",
    "motors",
    "people",
    "ramparts",
    "turned",
    "wagons",
]
