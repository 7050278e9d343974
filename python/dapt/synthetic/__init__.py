"""The built-in world: families of procedural objects, clean or as a depth camera sees them.

families/   how each kind of object is built out of the surfaces of shapes.py
scan.py     what a scan of it looks like
dataset.py  the dataset `synthetic`
"""

from dapt.synthetic.dataset import SETS, Synthetic, SyntheticDataset
from dapt.synthetic.families import FAMILIES, Family

__all__ = ["FAMILIES", "SETS", "Family", "Synthetic", "SyntheticDataset"]
