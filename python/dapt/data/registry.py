"""Datasets by name: each is a dataclass of options with a `load` method."""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping

from dapt.data.dataset import PointDataset
from dapt.errors import UsageError
from dapt.plugins import entry, installed

SPLITS = ("train", "test")
DATASETS: dict[str, type] = {}
# Datasets of the packages above this one: the module that registers each is imported on demand.
ELSEWHERE = dict.fromkeys(("synthetic", "synthetic_wide"), "dapt.synthetic")


def register(name: str):
    """Class decorator that registers a dataclass of options with `load(split)` as a dataset.

    Args:
        name: The name for `data.name`.
    """

    def add(options: type) -> type:
        if name in DATASETS and options.__module__ != "__main__":  # a cell may run again
            raise ValueError(f"dataset {name!r} is registered twice")
        if not dataclasses.is_dataclass(options) or not callable(getattr(options, "load", None)):
            raise TypeError(f"dataset {name!r} must be a dataclass with a method load(split)")
        options.name = name
        DATASETS[name] = options
        return options

    return add


def options_of(name: str) -> type:
    """The dataclass of options of the dataset `name`.

    Args:
        name: The name of the dataset.
    """
    if name not in DATASETS:
        for module in ELSEWHERE.values():
            importlib.import_module(module)
    return entry("dataset", name, DATASETS)


def names() -> list[str]:
    """The names of all datasets."""
    return sorted({*DATASETS, *ELSEWHERE, *installed("dataset")})


def load(name: str, options, split: str) -> PointDataset:
    """The `split` ("train" or "test") of a dataset; `options` is its dataclass or a mapping.

    Args:
        name: The name of the dataset.
        options: Its dataclass, or a mapping of the fields.
        split: "train" or "test".
    """
    options = _checked(name, options)
    if split not in SPLITS:
        raise UsageError(f"split must be 'train' or 'test', got {split!r}")
    return options.load(split)


def has_split(name: str, options, split: str) -> bool:
    """Whether the options name this split; user data may have no test set.

    Args:
        name: The name of the dataset.
        options: Its dataclass, or a mapping of the fields.
        split: "train" or "test".
    """
    return getattr(_checked(name, options), split, split) is not None


def _checked(name: str, options):
    kind = options_of(name)
    if isinstance(options, kind):
        return options
    if not isinstance(options, Mapping):
        raise UsageError(
            f"options of dataset {name!r} must be {kind.__name__} or a mapping, got {options!r}"
        )
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in options:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(fields)}"
            raise UsageError(f"dataset {name!r} has no option {key!r}: {hint}")
    for key, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and options.get(key) is None:
            raise UsageError(f"dataset {name!r} needs the option {key!r}")
    return kind(**options)
