"""Build the data and the model that the settings of a run describe."""

import os
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from dapt.adapters import AdaptedModel, attach
from dapt.data import PointDataset, few_labels, few_shot_fold, has_split, load, split_validation
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError
from dapt.inference.trained import TrainedModel, load_adapter
from dapt.methods import method_class
from dapt.models import create_backbone
from dapt.models.pretrained import RANDOM
from dapt.runs.folder import RunFolder
from dapt.runs.provenance import provenance_of
from dapt.runs.settings import Section, Settings
from dapt.tasks import FewShot, Task

Splits = tuple[PointDataset, PointDataset | None, PointDataset | None]


def load_splits(settings: Settings) -> Splits:
    """Load the (train, validation, test) splits.

    There is no validation split with `validation` 0, nor for few-shot folds.

    Args:
        settings: The settings of the run.
    """
    training, name, options = settings.training, settings.data.name, settings.data.options
    if settings.task.name == FewShot.name:
        FewShot(num_classes=1, **settings.task.options)  # report bad options before reading data
        train, test = load_fold(settings.data, settings.task, training.seed)
        return train, None, test
    whole = load(name, options, "train")
    test = load(name, options, "test") if has_split(name, options, "test") else None
    validation = None
    if training.validation > 0:
        whole, validation = split_validation(whole, training.validation, training.seed)
    elif test is None:
        raise UsageError("validation 0 needs test data, or nothing scores the model")
    return few_labels(whole, training.label_share, training.seed), validation, test


def load_fold(data: Section, task: Section, seed: int) -> tuple[PointDataset, PointDataset]:
    """Load (train, test) of a published fold, or draw a fold from any labeled training data.

    Args:
        data: The dataset.
        task: The few-shot task, with way, shot and fold.
        seed: The seed of the draw.
    """
    way, shot, fold = (task.options[option] for option in ("way", "shot", "fold"))
    if data.name == "modelnet40_fewshot":
        data = data.but(way=way, shot=shot, fold=fold)
        return load(data.name, data.options, "train"), load(data.name, data.options, "test")
    whole = load(data.name, data.options, "train")
    return few_shot_fold(whole, way, shot, fold, seed, task.options["queries"])


def build_backbone(backbone: Section) -> nn.Module:
    """Build the pre-trained network that the settings name.

    Args:
        backbone: The backbone's section.
    """
    return create_backbone(backbone.name, **backbone.options)


def build_model(backbone: Section, method: Section, task: Task, seed: int) -> AdaptedModel:
    """Build the untrained model that the settings describe; the same seed gives the same model.

    Args:
        backbone: The backbone's section.
        method: The method's section.
        task: The task.
        seed: The seed of randomly drawn weights.
    """
    torch.manual_seed(seed)
    network = build_backbone(backbone)
    chosen = method_class(method.name)(**method.options)
    torch.manual_seed(seed)
    return attach(network, chosen, task)


def restore_model(folder: RunFolder) -> TrainedModel:
    """Restore the trained model of a run: build its backbone, then read its adapter.

    Args:
        folder: A complete run.
    """
    settings = _settings_of_model(folder)
    model = load_adapter(folder.adapter, _restored_backbone(settings))
    model.fallback, model.provenance = _fallback(settings), provenance_of(folder)
    return model


def restore_together(
    folders: Mapping[str, RunFolder], device: str = "cpu"
) -> Iterator[tuple[str, TrainedModel, Preprocessing | None]]:
    """Restore the models of several runs, with those on one backbone in one model.

    Yields (name, model, preprocessing for an adapter whose file has none).

    Args:
        folders: The run folders, by the name that each adapter gets.
        device: Where to put the models.
    """
    models: dict[str, TrainedModel] = {}
    for name, folder in folders.items():
        settings = _settings_of_model(folder)
        backbone = settings.backbone
        is_random = backbone.get("checkpoint") in (None, RANDOM)
        seed = settings.training.seed if is_random else None
        network = repr((backbone.name, sorted(backbone.options.items()), seed))
        if network in models:
            models[network].load_adapter(folder.adapter, name, activate=False)
        else:
            model = load_adapter(folder.adapter, _restored_backbone(settings).to(device), name)
            models[network] = model.eval()
        yield name, models[network], _fallback(settings)


def _settings_of_model(folder: RunFolder) -> Settings:
    """The settings of a run that has a model."""
    settings = folder.settings()
    if settings.is_pretraining:
        raise UsageError(f"{folder.path} is a pre-training run, which has no classes to predict")
    task = settings.task
    if task.name == FewShot.name and task.get("fold") is None:
        raise UsageError(
            f"{folder.path} holds a run for each fold: name one, such as {folder.path}/fold_0"
        )
    return settings


def _restored_backbone(settings: Settings) -> nn.Module:
    torch.manual_seed(settings.training.seed)  # determines a backbone without a checkpoint
    return build_backbone(settings.backbone)


def _fallback(settings: Settings) -> Preprocessing | None:
    """The preprocessing for adapters of older runs, which do not store it."""
    options, num_points = settings.data.options, settings.training.num_points
    return Preprocessing.of(options, num_points) if num_points else None


def load_run(folder: str | os.PathLike) -> TrainedModel:
    """Load the trained model of a run folder; its `predict` accepts raw clouds and files.

    Args:
        folder: The folder given to `dapt train --out`.
    """
    return restore_model(RunFolder(folder))


def check_points(dataset: PointDataset, num_points: int, backbone: nn.Module) -> None:
    """Refuse to sample more points than the clouds have, or fewer than the backbone needs.

    Args:
        dataset: The training data.
        num_points: The number of points that the network sees.
        backbone: The backbone that sees them.
    """
    if num_points > dataset.num_points:
        raise UsageError(
            f"num_points must be at most the {dataset.num_points} points of the clouds, "
            f"got {num_points}"
        )
    columns, read = dataset.batch([0])["points"].shape[-1], backbone.tokenizers[0].in_channels
    reads = (3, 6, 9)[: read // 3] if read % 3 == 0 else (3, read)
    if columns not in reads:
        raise UsageError(
            f"the clouds have {columns} numbers per point and this backbone reads "
            f"{' or '.join(map(str, reads))}: set data.channels to xyz, or backbone.in_channels to "
            f"{columns} (point_mae and its relatives), or use a backbone that reads color, "
            "uni3d_* or ptv3_*"
        )
    check_groups(num_points, backbone)


def check_groups(num_points: int, backbone: nn.Module) -> None:
    """Refuse fewer points than a cloud needs for all group centers, or than a patch needs.

    Args:
        num_points: The number of points that the network sees.
        backbone: The backbone that sees them.
    """
    first = backbone.tokenizers[0]
    for field in ("num_groups", "group_size"):
        if getattr(first, field, 0) > num_points:
            raise UsageError(
                f"the network sees {num_points} points of a cloud, fewer than its {field} of "
                f"{getattr(first, field)}: make backbone.{field} smaller, or provide more points"
            )
