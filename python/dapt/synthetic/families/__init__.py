"""The families of objects, by name. A family is a function of dice that yields (part, surface)."""

from dapt.synthetic.families import (
    buildings,
    creatures,
    furniture,
    household,
    tools,
    vehicles,
    vessels,
)
from dapt.synthetic.families.family import FAMILIES, Family

__all__ = [
    "FAMILIES",
    "Family",
    "buildings",
    "creatures",
    "furniture",
    "household",
    "tools",
    "vehicles",
    "vessels",
]
