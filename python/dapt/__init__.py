"""Adapt a frozen, pre-trained point-cloud transformer by training a few percent of it."""

from dapt.errors import DaptError
from dapt.methods import (
    AdaptedModel,
    Adapter,
    Dapt,
    Density,
    Full,
    Linear,
    Peft,
    PointPeft,
    Reversible,
    Stag,
    Vpt,
    attach,
    detach,
    load_adapter,
    load_release,
    merge,
)
from dapt.models import create_autoencoder, create_backbone
from dapt.tasks import Classification, FewShot, PartSegmentation, SemanticSegmentation

__all__ = [
    "AdaptedModel",
    "Adapter",
    "Classification",
    "Dapt",
    "DaptError",
    "Density",
    "FewShot",
    "Full",
    "Linear",
    "PartSegmentation",
    "Peft",
    "PointPeft",
    "Reversible",
    "SemanticSegmentation",
    "Stag",
    "Vpt",
    "attach",
    "create_autoencoder",
    "create_backbone",
    "detach",
    "load_adapter",
    "load_release",
    "merge",
]
