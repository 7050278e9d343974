"""Evaluate a run's model on one of its splits."""

from dataclasses import replace

from dapt.errors import UsageError
from dapt.inference.score import score
from dapt.runs.assembly import load_splits, restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.runs.processes import launch
from dapt.training.folds import fold_folders, is_of_folds, summary


def evaluate_run(folder: RunFolder, split: str, votes: int, options: TrainOptions) -> dict:
    """Score a run's model on its validation or test split.

    Args:
        folder: The folder of the run.
        split: "test" or "validation".
        votes: Views of each cloud to average over.
        options: Batch size, devices and so on for this evaluation; the precision is the run's.
    """
    settings = folder.settings()
    if settings.is_pretraining:
        raise UsageError(f"{folder.path} is a pre-training run, which has no classes to predict")
    if is_of_folds(settings):
        return evaluate_folds(folder, split, votes, options)
    fabric = launch(replace(options, precision=settings.training.precision))
    _, validation, test = load_splits(settings)
    dataset = test if split == "test" else validation
    if dataset is None:
        other = "validation" if split == "test" else "test"
        raise UsageError(f"the run in {folder.path} names no {split} data: use --split {other}")
    model = restore_model(folder).to(fabric.device)
    num_points = settings.training.num_points
    scores = score(model, dataset, fabric, num_points, options.batch_size, votes, what=split)
    metric = model.adapter.task.metric
    result = {"split": split, "votes": votes, "metric": metric, "samples": scores.samples}
    return result | scores.summary() | {"per_class": scores.per_class()}


def evaluate_folds(folder: RunFolder, split: str, votes: int, options: TrainOptions) -> dict:
    """Score every fold: one row per fold instead of per class, as classes differ between folds.

    Args:
        folder: The folder of a run of all folds.
        split: "validation" or "test".
        votes: Views of each cloud to average over.
        options: The options, of which accelerator and precision are used.
    """
    results = [
        evaluate_run(fold, split, votes, options)
        for fold in fold_folders(folder, folder.settings())
    ]
    rows = [
        {"class": f"fold {fold}", "samples": each["samples"], "accuracy": each["accuracy"]}
        for fold, each in enumerate(results)
    ]
    shared = {key: results[0][key] for key in ("split", "votes", "metric")}
    samples = sum(each["samples"] for each in results)
    return shared | {"samples": samples} | summary(results) | {"per_class": rows}
