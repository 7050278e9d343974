"""Whether a run can resume with given settings."""

import dataclasses
from dataclasses import MISSING
from pathlib import Path

from dapt.errors import UsageError
from dapt.runs.options import TrainOptions
from dapt.runs.paths import found
from dapt.runs.settings import Settings
from dapt.runs.trees import flatten, read_yaml


def check_same(config: Path, settings: Settings) -> None:
    """Refuse settings that differ from those of a run, except those that do not change its result.

    Args:
        config: The config.yaml of the run.
        settings: The settings to resume with.
    """
    folder, training = config.parent, settings.training
    before, now = (found(tree, folder) for tree in (read_yaml(config), settings.tree()))
    before, now = _defaults(training) | flatten(before), flatten(now)
    for key in sorted(before.keys() | now.keys()):
        if key in training.FREE or before.get(key) == now.get(key):
            continue
        if key == "epochs":
            _check_longer(folder, training, int(before[key]))
            continue
        raise UsageError(
            f"the run in {folder} has {key}={before.get(key)}, not {now.get(key)}: "
            "a run resumes with its own settings; to change them, choose another --out"
        )


def _defaults(training: TrainOptions) -> dict:
    """The defaults, which stand for options that a run of an older version did not have."""
    fields = dataclasses.fields(training)
    return {each.name: each.default for each in fields if each.default is not MISSING}


def _check_longer(folder: Path, training: TrainOptions, before: int) -> None:
    """Check the number of epochs: more continue a run only if its learning rate does not decay."""
    if training.epochs > before and training.min_learning_rate == training.learning_rate:
        return
    raise UsageError(
        f"the run in {folder} has epochs={before}, not {training.epochs}: its learning rate "
        f"decays over {before} epochs, so {training.epochs} need another --out; only a run "
        "with min_learning_rate equal to learning_rate can be extended"
    )
