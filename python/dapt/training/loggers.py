"""Additional loggers for a run's numbers: any of Lightning's, by name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from dapt.errors import UsageError

HOMES = ("lightning.pytorch.loggers", "pytorch_lightning.loggers", "lightning_fabric.loggers")
CLASSES = {"csv": "CSVLogger", "tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
CLASSES |= {"mlflow": "MLFlowLogger", "comet": "CometLogger", "neptune": "NeptuneLogger"}
WHERE = {"csv": "root_dir", "tensorboard": "root_dir"}  # the argument for Fabric's own loggers


class Logger(Protocol):
    """The interface that a logger must have, Lightning's or any other."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record numbers.

        Args:
            metrics: The numbers, by name.
            step: The step they belong to.
        """

    def finalize(self, status: str) -> None:
        """Record that the run has ended.

        Args:
            status: For example "success".
        """


def create_logger(name: str, folder: Path) -> Logger:
    """Create a logger by its name, or by its class as package.module.Class.

    Args:
        name: csv, wandb, mlflow ...
        folder: The run folder, in which it writes its files.
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
