"""Adapt a frozen, pre-trained point-cloud transformer by training a few percent of it.

Modules that need torch are imported on first use, so that `dapt --help` starts quickly.
"""

import importlib
import os
from typing import TYPE_CHECKING

from dapt.errors import DaptError
from dapt.version import __version__

if TYPE_CHECKING:
    from dapt.adapters import AdaptedModel, attach, detach, load_release, merge
    from dapt.inference.export import export
    from dapt.inference.trained import TrainedModel, load_adapter
    from dapt.methods import (
        Adapter,
        Dapt,
        Density,
        Full,
        GaPrompt,
        Idpt,
        Linear,
        Peft,
        PointGst,
        PointLora,
        PointPeft,
        Ppt,
        Prefix,
        Reversible,
        Stag,
        Vpt,
    )
    from dapt.models import create_autoencoder, create_backbone
    from dapt.tasks import Classification, FewShot, PartSegmentation, SemanticSegmentation


def load_run(folder: "str | os.PathLike") -> "TrainedModel":
    """Load the trained model of a run folder; its `predict` accepts raw clouds and files.

    Args:
        folder: The folder given to `dapt train --out`.
    """
    from dapt.runs.assembly import load_run as load

    return load(folder)


__all__ = [
    "AdaptedModel",
    "Adapter",
    "Classification",
    "Dapt",
    "DaptError",
    "Density",
    "FewShot",
    "Full",
    "GaPrompt",
    "Idpt",
    "Linear",
    "PartSegmentation",
    "Peft",
    "PointGst",
    "PointLora",
    "PointPeft",
    "Ppt",
    "Prefix",
    "Reversible",
    "SemanticSegmentation",
    "Stag",
    "TrainedModel",
    "Vpt",
    "__version__",
    "attach",
    "create_autoencoder",
    "create_backbone",
    "detach",
    "export",
    "load_adapter",
    "load_release",
    "load_run",
    "merge",
]

# where these names are defined; `import dapt` is enough to use them: dapt.data.load(...)
_HOMES = ("inference.trained", "adapters", "methods", "models", "tasks", "inference.export")
_WINGS = ("adapters", "data", "methods", "models", "synthetic", "tasks")


def __getattr__(name: str) -> object:
    if name in __all__:
        homes = (importlib.import_module(f"dapt.{home}") for home in _HOMES)
        value = next(vars(home)[name] for home in homes if name in vars(home))
    elif name in _WINGS:
        value = importlib.import_module(f"dapt.{name}")
    else:
        raise AttributeError(f"module 'dapt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_WINGS})
