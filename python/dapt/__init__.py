"""Adapt a frozen, pre-trained point-cloud transformer by training a few percent of it."""

from dapt import synthetic  # noqa: F401, enters its dataset in the table
from dapt.adapters import AdaptedModel, attach, detach, load_release, merge
from dapt.errors import DaptError
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


def load_run(folder) -> TrainedModel:
    """The trained model of a run folder, whose `predict` takes clouds as they are in files.

    Args:
        folder: What `dapt train --out` named.
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
    "attach",
    "create_autoencoder",
    "create_backbone",
    "detach",
    "load_adapter",
    "load_release",
    "load_run",
    "merge",
]
