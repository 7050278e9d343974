"""The built-in world: families of procedural objects, clean or as a depth camera sees them.

families/   how each kind of object is built out of the surfaces of shapes.py
scan.py     what a scan of it looks like
dataset.py  the dataset `synthetic`
grammars/   many more kinds of object for pre-training, a function for many of them
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
