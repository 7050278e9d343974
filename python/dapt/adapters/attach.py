"""The calls that a user starts with: a backbone in, an adapted model out, and back."""

import os
from typing import TypeVar

from torch import nn

from dapt.adapters.model import AdaptedModel
from dapt.methods.method import Method
from dapt.tasks import Task

Model = TypeVar("Model", bound=AdaptedModel)


def attach(backbone: nn.Module, method: Method, task: Task, name: str = "default") -> AdaptedModel:
    """Adapt a backbone to a task. Everything that is not the method's own is frozen.

    Args:
        backbone: A network of `create_backbone`, or another that fulfills
            `dapt.models.protocols.Backbone`.
        method: How it is adapted: `dapt.Dapt()`, say.
        task: What for: `dapt.Classification(15)`, say.
        name: What the model calls the adapter.
    """
    model = AdaptedModel(backbone)
    try:
        model.add_adapter(name, method, task)
    except BaseException:
        model.detach()
        raise
    return model


def load_adapter(
    folder: str | os.PathLike, backbone: nn.Module, name: str = "default"
) -> AdaptedModel:
    """Adapt a backbone by the files of `AdaptedModel.save_adapter`.

    Args:
        folder: Where the files lie.
        backbone: The one that the adapter was trained on.
        name: What the model calls the adapter.
    """
    return loaded_into(AdaptedModel(backbone), folder, name)


def loaded_into(model: Model, folder: str | os.PathLike, name: str) -> Model:
    """A model with the adapter of a folder; on an error its backbone is let go.

    Args:
        model: Without adapters.
        folder: The folder of the adapter.
        name: The name under which the model carries it.
    """
    try:
        model.load_adapter(folder, name)
    except BaseException:
        model.detach()
        raise
    return model


def detach(model: AdaptedModel) -> nn.Module:
    """Take the adapters off and give back the pre-trained backbone, bit for bit.

    Args:
        model: Not merged.
    """
    return model.detach()


def merge(model: AdaptedModel) -> AdaptedModel:
    """Fold the adapter into the network for good, as far as it folds: faster, the same outputs.

    Args:
        model: With one adapter.
    """
    model.merge()
    return model
