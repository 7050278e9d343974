"""What the settings of a run describe, put together: its data, its model."""

import torch
from torch import nn

from dapt.config import TrainOptions, Tree, section
from dapt.data import PointDataset, few_shot_fold, has_split, load, split_validation
from dapt.errors import UsageError
from dapt.methods import AdaptedModel, attach, load_adapter, method_class
from dapt.models import create_backbone
from dapt.runs import RunFolder
from dapt.tasks import FewShot, Task

Splits = tuple[PointDataset, PointDataset | None, PointDataset | None]


def load_splits(tree: Tree, options: TrainOptions) -> Splits:
    """(train, validation, test); validation 0 and folds of few clouds leave none to validate."""
    name, fields = section(tree, "data")
    if tree["task"]["name"] == FewShot.name:
        train, test = load_fold(name, fields, tree["task"], options.seed)
        return train, None, test
    whole = load(name, fields, "train")
    test = load(name, fields, "test") if has_split(name, fields, "test") else None
    if options.validation > 0:
        return *split_validation(whole, options.validation, options.seed), test
    if test is None:
        raise UsageError("validation 0 needs test data: without any nothing scores the model")
    return whole, None, test


def load_fold(name: str, fields: Tree, task: Tree, seed: int) -> tuple[PointDataset, PointDataset]:
    """(train, test) of a published fold, or of one drawn from any labelled training data."""
    way, shot, fold = task["way"], task["shot"], task["fold"]
    if name == "modelnet40_fewshot":
        fields = fields | {"way": way, "shot": shot, "fold": fold}
        return load(name, fields, "train"), load(name, fields, "test")
    whole = load(name, fields, "train")
    return few_shot_fold(whole, way, shot, fold, seed, task["queries"])


def build_model(tree: Tree, task: Task, seed: int) -> AdaptedModel:
    """The untrained model that the settings describe, the same for the same seed."""
    torch.manual_seed(seed)
    name, fields = section(tree, "backbone")
    backbone = create_backbone(name, **fields)
    name, fields = section(tree, "method")
    method = method_class(name)(**fields)
    torch.manual_seed(seed)
    return attach(backbone, method, task)


def restore_model(tree: Tree, folder: RunFolder) -> AdaptedModel:
    """The trained model of a run: its backbone made anew, its adapter from the folder."""
    torch.manual_seed(tree["seed"])  # a backbone without a checkpoint is a matter of the seed
    name, fields = section(tree, "backbone")
    return load_adapter(folder.adapter, create_backbone(name, **fields))


def check_points(dataset: PointDataset, num_points: int, backbone: nn.Module) -> None:
    if num_points > dataset.num_points:
        raise UsageError(
            f"num_points must be at most the {dataset.num_points} points of the clouds, "
            f"got {num_points}"
        )
    check_groups(num_points, backbone)


def check_groups(num_points: int, backbone: nn.Module) -> None:
    """A cloud has to have a point for each center, and each patch its points."""
    first = backbone.tokenizers[0]
    for field in ("num_groups", "group_size"):
        if getattr(first, field) > num_points:
            raise UsageError(
                f"the network sees {num_points} points of a cloud, fewer than its {field} of "
                f"{getattr(first, field)}: make backbone.{field} smaller, or give more points"
            )
