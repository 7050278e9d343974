"""The main calls for users: from a backbone to an adapted model, and back."""

import os
from typing import TypeVar

from torch import nn

from dapt.adapters.model import AdaptedModel
from dapt.methods.method import Method
from dapt.tasks import Task

Model = TypeVar("Model", bound=AdaptedModel)


def attach(backbone: nn.Module, method: Method, task: Task, name: str = "default") -> AdaptedModel:
    """Adapt a backbone to a task; everything that is not the method's own is frozen.

    Args:
        backbone: A network from `create_backbone`, or any other that follows
            `dapt.models.protocols.Backbone`.
        method: The method, such as `dapt.Dapt()`.
        task: The task, such as `dapt.Classification(15)`.
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
    """Adapt a backbone with the files that `AdaptedModel.save_adapter` wrote.

    Args:
        folder: The folder with the files.
        backbone: The backbone that the adapter was trained on.
        name: What the model calls the adapter.
    """
    return loaded_into(AdaptedModel(backbone), folder, name)


def loaded_into(model: Model, folder: str | os.PathLike, name: str) -> Model:
    """Load the adapter of a folder into a model; on an error, release its backbone.

    Args:
        model: A model without adapters.
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
    """Remove the adapters and return the pre-trained backbone, bit for bit.

    Args:
        model: A model that is not merged.
    """
    return model.detach()


def merge(model: AdaptedModel) -> AdaptedModel:
    """Fold the adapter into the network permanently, as far as possible: faster, same outputs.

    Args:
        model: A model with a single adapter.
    """
    model.merge()
    return model
