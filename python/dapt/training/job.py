"""What the training loop trains: a model, its loss, its metrics and the files it writes."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import Tensor, nn

from dapt.data import PointDataset, transforms
from dapt.runs.best import Best
from dapt.runs.folder import RunFolder

Batch = Mapping[str, Tensor]


class Job(ABC):
    """One kind of training; the loop's only interface to what it trains."""

    model: nn.Module
    train: PointDataset
    validation: PointDataset
    test: PointDataset | None = None
    metric: str  # the metric of an epoch that chooses the best one
    higher_is_better: bool
    test_metric: str | None = None  # the metric that papers often choose it by
    clouds: np.ndarray | None = None  # [S], each cloud's contribution to the result

    @abstractmethod
    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that train, by name."""

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """The model's state in a checkpoint."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned.

        Args:
            state: The state of a checkpoint.
        """

    @abstractmethod
    def views(self, batch: Batch, share: transforms.Share) -> Batch:
        """Reduce and augment a batch for one training step.

        Args:
            batch: The batch of the dataset.
            share: The random numbers of this process.
        """

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of one view.

        Args:
            network: The model as Fabric wrapped it.
            batch: A batch from `views`.
        """

    @abstractmethod
    def evaluate(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """The metrics of an epoch, including the validation metric.

        Args:
            epoch: The epoch that has just ended, from 0.
            fabric: The Fabric of this process.
        """

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the trained weights in their own format.

        Args:
            path: A file or a folder, depending on the format.
        """

    @abstractmethod
    def best(self, folder: RunFolder) -> Best:
        """Where a run keeps the best epoch's output of `write`.

        Args:
            folder: The folder of the run.
        """

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """A digest of everything that has to stay the same when a run resumes."""

    @abstractmethod
    def load_best(self, file: Path) -> None:
        """Load the weights that `write` wrote last.

        Args:
            file: The file of `Best`.
        """

    def prepare(self, fabric: Fabric) -> None:  # noqa: B027, most jobs need nothing
        """Collect what has to be known about the training data before the first step.

        Args:
            fabric: The Fabric of this process.
        """

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """Additional measurements of an epoch, in the epochs that the job chooses.

        Args:
            epoch: The epoch that has just ended, from 0.
            fabric: The Fabric of this process.
        """
        return {}

    def final(self, fabric: Fabric) -> dict[str, object]:
        """The result of the best epoch, at the end of the training.

        Args:
            fabric: The Fabric of this process.
        """
        return {}
