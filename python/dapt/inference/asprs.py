"""ASPRS codes for the labels of a model, as other programs read them in LAS classifications."""

from collections.abc import Mapping, Sequence

import numpy as np

from dapt.data.attributes import ASPRS
from dapt.errors import UsageError, listed, look_up

UNCLASSIFIED = 1
LARGEST = 255


def codes_of(known: Mapping[str, int] | None, names: Sequence[str]) -> np.ndarray:  # [labels]
    """Find a code for each label; labels without one are unclassified.

    Args:
        known: Codes by label name; None to match the labels' names with those of the ASPRS.
        names: The names of the labels.
    """
    if known is None:
        named = {name: code for code, name in ASPRS.items()}
        known = {name: named[_plain(name)] for name in names if _plain(name) in named}
        if not known:
            raise UsageError(
                f"no label has the name of an ASPRS class: give codes, such as {names[0]}=2; "
                f"the classes are {listed(named, 30)}"
            )
    for name, code in known.items():
        look_up("label", name, dict.fromkeys(names))
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= LARGEST:
            raise UsageError(f"the code of {name} must be a number from 0 to 255, got {code!r}")
    return np.array([known.get(name, UNCLASSIFIED) for name in names], np.uint8)


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")
