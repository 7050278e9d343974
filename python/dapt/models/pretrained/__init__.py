"""Backbones shipped with the package: half-precision weights, and a card that describes them.

`create_backbone(name, checkpoint="shipped")` loads them, and so does `create_backbone(name)` for a
network of the same size. They are made by scripts/ship_backbone.py.
"""

import json
from pathlib import Path

from dapt.errors import UsageError

SHIPPED = "shipped"
RANDOM = "none"  # in place of a checkpoint: random weights are intended
_FOLDER = Path(__file__).parent


def shipped_checkpoint(name: str) -> Path:
    """The path of the weights that come with the package.

    Args:
        name: The name of the backbone.
    """
    path = _FOLDER / f"{name}.safetensors"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.safetensors")))
        raise UsageError(f"no weights of '{name}' come with the package: those of {known} do")
    return path


def is_shipped(name: str) -> bool:
    """Whether weights of this backbone come with the package.

    Args:
        name: The name of the backbone.
    """
    return (_FOLDER / f"{name}.safetensors").is_file()


def card(name: str) -> dict:
    """How a shipped backbone was trained, on what data, and how good its features are.

    Args:
        name: The name of the backbone.
    """
    return json.loads(shipped_checkpoint(name).with_suffix(".json").read_text())
