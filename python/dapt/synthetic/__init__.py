"""The built-in world: families of procedural objects, clean or as a depth camera sees them.

families/   builds each kind of object from the surfaces in shapes.py
scan.py     simulates scans of objects
dataset.py  the dataset `synthetic`
grammars/   many more kinds of object for pre-training; each function builds many kinds
wide.py     the dataset `synthetic_wide`
"""

from dapt.synthetic.dataset import SETS, Synthetic, SyntheticDataset
from dapt.synthetic.families import FAMILIES, Family
from dapt.synthetic.grammars import KINDS
from dapt.synthetic.wide import Wide, WideDataset

__all__ = [
    "FAMILIES",
    "KINDS",
    "SETS",
    "Family",
    "Synthetic",
    "SyntheticDataset",
    "Wide",
    "WideDataset",
]
