"""Where a run's numbers go beside its own files: any logger of Lightning by name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dapt.errors import UsageError

HOMES = ("lightning.pytorch.loggers", "pytorch_lightning.loggers", "lightning_fabric.loggers")
CLASSES = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
CLASSES |= {"mlflow": "MLFlowLogger", "comet": "CometLogger", "neptune": "NeptuneLogger"}
WHERE = {"csv": "root_dir", "tensorboard": "root_dir"}  # as Fabric's own call their folder


class Logger(Protocol):
    """What is asked of a logger, Lightning's or anybody's."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers.

        Args:
            metrics: By their names.
            step: At which they hold.
        """

    def finalize(self, status: str) -> None:
        """Record that the run has ended.

        Args:
            status: "success", say.
        """


def create_logger(name: str, folder: Path) -> Logger:
    """A logger by its name, or by its class as package.module.Class.

    Args:
        name: csv, wandb, mlflow ...
        folder: The folder of the run, in which it leaves its files.
    """
    module, _, kind = name.rpartition(".")
    if not module and name not in CLASSES:
        known = ", ".join(sorted(CLASSES))
        raise UsageError(f"unknown logger {name!r}: choose one of {known}, or package.module.Class")
    homes = (module,) if module else HOMES
    if name in WHERE:
        homes = HOMES[-1:]
    try:
        cls = _first_of(homes, kind if module else CLASSES[name])
        return cls(**{WHERE.get(name, "save_dir"): str(folder)})
    except (ImportError, AttributeError) as error:
        package = "" if module else f": pip install lightning {name}"
        raise UsageError(f"logger {name} is not installed here ({error}){package}") from None


def _first_of(homes: tuple[str, ...], kind: str) -> type:
    for home in homes:
        try:
            return getattr(importlib.import_module(home), kind)
        except (ImportError, AttributeError) as error:
            last = error
    raise last
