"""What the training loop trains: a model, its loss, its metrics and the files that it leaves."""

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
    """One kind of training, and all that the loop knows of what it trains."""

    model: nn.Module
    train: PointDataset
    validation: PointDataset
    test: PointDataset | None = None
    metric: str  # the entry of an epoch's line by which the best epoch is chosen
    higher_is_better: bool
    test_metric: str | None = None  # the one by which papers often choose it
    clouds: np.ndarray | None = None  # [S], what each cloud of the result's split contributes

    @abstractmethod
    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that train, by name."""

    @abstractmethod
    def state(self) -> Mapping[str, Tensor]:
        """What a checkpoint keeps of the model."""

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of `state`.

        Args:
            state: of a checkpoint.
        """

    @abstractmethod
    def views(self, batch: Batch, share: transforms.Share) -> Batch:
        """The batch as one training step sees it.

        Args:
            batch: of the dataset.
            share: the random numbers of this process.
        """

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """The loss of one view.

        Args:
            network: the model as Fabric wrapped it.
            batch: as `views` gives it.
        """

    @abstractmethod
    def evaluate(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """The metrics of an epoch, the validation metric among them.

        Args:
            epoch: just done, from 0.
            fabric: of this process.
        """

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the trained weights in their own format.

        Args:
            path: a file or a folder, as the format has it.
        """

    @abstractmethod
    def best(self, folder: RunFolder) -> Best:
        """Where a run keeps what `write` leaves of its best epoch.

        Args:
            folder: of the run.
        """

    @abstractmethod
    def inputs(self) -> dict[str, str]:
        """A digest of each thing that has to stay the same when a run goes on."""

    @abstractmethod
    def load_best(self, file: Path) -> None:
        """Take the weights that `write` wrote last.

        Args:
            file: of `Best`.
        """

    def prepare(self, fabric: Fabric) -> None:  # noqa: B027, most jobs need nothing
        """Learn what has to be known about the training data before the first step.

        Args:
            fabric: of this process.
        """

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """Further measurements for the epoch's line; a job decides in which epochs.

        Args:
            epoch: just done, from 0.
            fabric: of this process.
        """
        return {}

    def final(self, fabric: Fabric) -> dict[str, object]:
        """The result of the best epoch, once.

        Args:
            fabric: of this process.
        """
        return {}
