"""Few-shot: a run of its own for each fold, and the mean over them."""

import json
from collections.abc import Callable
from statistics import fmean, pstdev

from dapt.config import TrainOptions, Tree, options_in, plain, section
from dapt.distributed import is_first_process
from dapt.runs import RunFolder
from dapt.tasks import FewShot

# what all folds have in common
_SHARED = ("split", "metric", "method", "trainable_parameters", "total_parameters", "epochs")
_SHARED += ("seed", "versions")


def is_of_folds(tree: Tree) -> bool:
    """Whether the settings, which have to be possible ones, ask for every fold."""
    name, fields = section(tree, "task")
    return name == FewShot.name and FewShot(num_classes=1, **fields).fold is None


def fold_folders(folder: RunFolder, tree: Tree) -> list[RunFolder]:
    return [RunFolder(folder.path / f"fold_{fold}") for fold in range(tree["task"]["folds"])]


def train_folds(tree: Tree, train: Callable[[Tree], dict]) -> dict:
    """Train each fold in a folder of its own; going on, a finished one is not trained again."""
    options = options_in(tree, TrainOptions)
    folder = RunFolder(options.out)
    if is_first_process():
        folder.begin(plain({**tree, "resume": False}), options.resume, options.FREE)
    results = []
    for fold, each in enumerate(fold_folders(folder, tree)):
        if options.resume and each.result.exists():
            results.append(json.loads(each.result.read_text()))
        else:
            task = {**tree["task"], "fold": fold}
            results.append(train({**tree, "task": task, "out": each.path}))
    result = {key: results[0][key] for key in _SHARED} | summary(results) | _costs(results)
    if is_first_process():
        folder.write_result(result)
    return result


def summary(results: list[dict]) -> dict:
    """Mean and standard deviation of the folds' accuracies, and each of them."""
    accuracies = [result["accuracy"] for result in results]
    return {"accuracy": fmean(accuracies), "accuracy_std": pstdev(accuracies), "folds": accuracies}


def _costs(results: list[dict]) -> dict:
    largest = ("saved_activation_bytes", "peak_memory_bytes")
    costs = {key: max(result[key] for result in results) for key in largest}
    return costs | {"seconds_per_step": fmean(result["seconds_per_step"] for result in results)}
