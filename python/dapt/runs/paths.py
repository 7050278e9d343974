"""Paths in a run's config: stored absolute, and found again if a run is moved with its files."""

import logging
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dapt.data.file_dataset import FileDataset
from dapt.models.pretrained import RANDOM, SHIPPED
from dapt.models.sources import HUB
from dapt.runs.trees import Tree

log = logging.getLogger(__name__)


def absolute(tree: Tree) -> Tree:
    """Make every path in the settings absolute.

    Args:
        tree: The settings of a run, left unchanged.
    """
    tree = _copy(tree)
    for part, key in _paths(tree):
        part[key] = os.path.abspath(os.path.expanduser(part[key]))
    return tree


def found(tree: Tree, folder: Path) -> Tree:
    """Look beside the run for each file in its settings that is gone.

    Args:
        tree: The settings in config.yaml.
        folder: Where the run is now. Files that were next to it may have moved with it.
    """
    tree = absolute(tree)
    backbone = tree.get("backbone")
    if isinstance(backbone, dict) and backbone.get("checkpoint") is None:
        backbone["checkpoint"] = RANDOM  # earlier versions wrote nothing for it
    home = tree.get("out")
    tree["out"] = os.path.abspath(folder)
    for part, key in _paths(tree):
        path = Path(part[key])
        if not os.path.exists(path):  # unlike Path.exists, returns False for an overlong name
            places = _places(path, home, Path(tree["out"]))
            other = next(filter(os.path.exists, places), None)
            if other is not None:
                _say(path, other)
                part[key] = str(other)
    return tree


@cache
def _say(gone: Path, taken: Path) -> None:
    """Log it once, however often a config is read."""
    log.info("%s no longer exists: using %s, beside the run", gone, taken)


def _places(path: Path, home: str | None, folder: Path) -> Iterator[Path]:
    if home:
        yield Path(os.path.normpath(folder / os.path.relpath(path, home)))
    for place in (folder, folder.parent):
        yield place / path.name


def _copy(tree: Tree) -> Tree:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}


def _paths(tree: Tree) -> Iterator[tuple[Tree, str]]:
    """Each entry that is a path, as (its part of the tree, its key there)."""
    data, backbone = tree.get("data", {}), tree.get("backbone", {})
    yield from ((data, key) for key in FileDataset.PATHS if isinstance(data.get(key), str))
    checkpoint = backbone.get("checkpoint")
    is_file = isinstance(checkpoint, str) and checkpoint not in (SHIPPED, RANDOM)
    if is_file and not checkpoint.startswith(HUB):
        yield backbone, "checkpoint"
    if isinstance(tree.get("out"), str):
        yield tree, "out"
