"""Few-shot training: one run per fold, and the mean over the folds."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from statistics import fmean, pstdev

from dapt.progress import watched, whole
from dapt.runs.folder import RunFolder
from dapt.runs.processes import is_first_process
from dapt.runs.settings import Settings
from dapt.tasks import FewShot

# results that are the same for all folds
_SHARED = ("split", "metric", "method", "trainable_parameters", "total_parameters", "epochs")
_SHARED += ("seed", "versions")


def is_of_folds(settings: Settings) -> bool:
    """Whether the settings ask for every fold.

    Args:
        settings: The settings of a run.
    """
    task = settings.task
    return task is not None and task.name == FewShot.name and task.get("fold") is None


def fold_folders(folder: RunFolder, settings: Settings) -> list[RunFolder]:
    """The folder of each fold, inside that of the whole run.

    Args:
        folder: The folder of the whole run.
        settings: The settings, which say how many folds there are.
    """
    paths = (folder.path / f"fold_{fold}" for fold in range(settings.task.get("folds")))
    return [RunFolder(path, folder.flags) for path in paths]


def train_folds(settings: Settings, train: Callable[[Settings], dict]) -> dict:
    """Train each fold in its own folder; when resuming, skip complete folds.

    Args:
        settings: The settings of all folds.
        train: Trains one fold with its settings and returns its result.
    """
    FewShot(num_classes=1, **settings.task.options)  # report bad options before anything starts
    folder = RunFolder(settings.training.out)
    with folder.locked() if is_first_process() else nullcontext():
        return _train_all(folder, settings, train)


def _train_all(folder: RunFolder, settings: Settings, train: Callable[[Settings], dict]) -> dict:
    if is_first_process():
        folder.begin(settings)
    results = []
    folders = fold_folders(folder, settings)
    shown = is_first_process()
    with whole(shown) as bar:
        for fold, each in watched(enumerate(folders), "folds", len(folders), shown):
            if settings.training.resume and each.result.exists():
                results.append(json.loads(each.result.read_text()))
            else:
                own = replace(settings.but(out=each.path), task=settings.task.but(fold=fold))
                results.append(train(own))
            bar.advance(1 / len(folders))
    result = {key: results[0][key] for key in _SHARED} | summary(results) | _costs(results)
    if is_first_process():
        folder.write_result(result)
    return result


def summary(results: list[dict]) -> dict:
    """The mean and standard deviation of the folds' accuracies, and each accuracy.

    Args:
        results: One result per fold.
    """
    accuracies = [result["accuracy"] for result in results]
    return {"accuracy": fmean(accuracies), "accuracy_std": pstdev(accuracies), "folds": accuracies}


def _costs(results: list[dict]) -> dict:
    largest = ("saved_activation_bytes", "peak_memory_bytes")
    costs = {key: max(result[key] for result in results) for key in largest}
    return costs | {"seconds_per_step": fmean(result["seconds_per_step"] for result in results)}
