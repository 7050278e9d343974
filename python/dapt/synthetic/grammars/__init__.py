"""Generative grammars: one function for a way of building, many kinds by its traits."""

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
