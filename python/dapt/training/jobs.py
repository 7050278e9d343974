"""What the training loop trains: a model, its loss, its metrics and the files that it leaves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import dapt_ext
from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord
from dapt.data import PointDataset, Subset, load, split_validation, transforms
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError
from dapt.files import write_atomically
from dapt.inference.probe import linear_probe
from dapt.inference.score import reduction, score, test_batches
from dapt.models import create_autoencoder
from dapt.runs.assembly import build_model, check_points, load_splits
from dapt.runs.best import Best
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings
from dapt.tasks import task_class
from dapt.tasks.metrics import Scores

EVALUATION_BATCH = 32  # of pre-training
PROBE_CLOUDS = 1500  # of the training split, on which a linear probe learns
Batch = Mapping[str, Tensor]


class Job(ABC):
    """One kind of training. The loop knows nothing of what it trains but this."""

    model: nn.Module
    train: PointDataset
    validation: PointDataset
    test: PointDataset | None = None
    metric: str  # the entry of an epoch's line by which the best epoch is chosen
    higher_is_better: bool
    test_metric: str | None = None  # by which the field chooses it
    clouds: np.ndarray | None = None  # [S] of the result's split, what each contributes

    @abstractmethod
    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """What trains, by name."""

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
        """A digest of each thing that a run may not exchange when it goes on."""

    @abstractmethod
    def load_best(self, file: Path) -> None:
        """Take the weights that `write` wrote last.

        Args:
            file: of `Best`.
        """

    def prepare(self, fabric: Fabric) -> None:  # noqa: B027, most jobs need nothing
        """Learn what has to be known of the training data before the first step.

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


class Adaptation(Job):
    """A frozen backbone, adapted to a task by a method.

    Args:
        settings: of the run.
    """

    higher_is_better = True

    def __init__(self, settings: Settings):
        options, self._data = settings.training, settings.data
        self.train, self.validation, self.test = load_splits(settings)
        self.num_points = options.num_points or self.train.num_points
        self.task = task_class(settings.task.name).of(self.train, **settings.task.options)
        self.model = build_model(settings.backbone, settings.method, self.task, options.seed)
        for dataset in filter(None, (self.train, self.test)):
            check_points(dataset, self.num_points, self.model.backbone)
        self._check_batches(options.batch_size)
        # without a validation split the last epoch counts
        self.metric = f"validation_{self.task.metric}" if self.validation else "epoch"
        self.test_metric, self.test_every = f"test_{self.task.metric}", options.test_every
        fewer = self.num_points < self.train.num_points
        self._resample = transforms.Resample(self.num_points) if fewer else None
        self._augment = transforms.augmentation(options.augmentation)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What a user of the model has to do to a cloud, as the training did."""
        return Preprocessing.of(self._data.options, self.num_points).measured(self.train)

    def _check_batches(self, batch_size: int) -> None:
        norms = (isinstance(module, nn.BatchNorm1d) for module in self.model.head.modules())
        if batch_size == 1 and not self.task.labels_points and any(norms):
            raise UsageError(
                "batch_size must be at least 2, got 1: the batch norms of the head compare clouds"
            )

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return self.model.own_parameters()

    def state(self) -> Mapping[str, Tensor]:
        return self.model.own_state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_own_state(state)

    def prepare(self, fabric: Fabric) -> None:
        self.model.prepare(self._clouds(fabric))

    def _clouds(self, fabric: Fabric) -> Iterator[Tensor]:
        for batch in test_batches(self.train, self.task.evaluation_batch, fabric, "memory bank"):
            yield reduction(self.num_points)(batch["points"], None)

    def views(self, batch: Batch, share: transforms.Share) -> Batch:
        view = dict(batch)
        if self._resample:
            chosen = self._resample.indices(batch["points"], share)  # [B, num_points]
            view["points"] = dapt_ext.gather(batch["points"], chosen)
            if "part_labels" in batch:
                view["part_labels"] = batch["part_labels"].gather(1, chosen)
        view["points"] = self._augment(view["points"], share)
        return view

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        output = network(batch["points"], *self.task.inputs(batch))
        loss = self.task.loss(output, batch)
        extra = self.model.extra_loss()
        return loss if extra is None else loss + extra

    def evaluate(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        tests = self.test_every and (epoch + 1) % self.test_every == 0
        splits = {"validation": self.validation, "test": self.test if tests else None}
        line = {}
        for split, dataset in splits.items():
            if dataset is not None:
                measured = self._scores(dataset, fabric, split).summary() | self.model.meters()
                line |= {f"{split}_{name}": value for name, value in measured.items()}
        return line

    def _scores(self, dataset: PointDataset, fabric: Fabric, split: str) -> Scores:
        batch = self.task.evaluation_batch
        return score(self.model, dataset, fabric, self.num_points, batch, what=split)

    def write(self, path: Path) -> None:
        self.model.save_adapter(path, preprocessing=self.preprocessing)

    def best(self, folder: RunFolder) -> Best:
        return Best(folder.adapter, adapter_files.WEIGHTS)

    def inputs(self) -> dict[str, str]:
        method = self.model.adapter.method
        with self.model.pretrained() as backbone:
            record = BackboneRecord.of(backbone, method.owns)
        digests = {"training data": self.train.digest(), "backbone": record.fingerprint}
        return digests | ({"test data": self.test.digest()} if self.test else {})

    def load_best(self, file: Path) -> None:
        self.model.load_own_state(safetensors.torch.load_file(file))

    def final(self, fabric: Fabric) -> dict[str, object]:
        split, dataset = ("test", self.test) if self.test else ("validation", self.validation)
        scores = self._scores(dataset, fabric, split)
        head = sum(weight.numel() for weight in self.model.head.parameters())
        if scores.clouds:
            self.clouds = scores.clouds[0].float().numpy()
        result = {
            "split": split,
            "metric": self.task.metric,
            "metric_of_clouds": scores.each if scores.clouds else None,
            **scores.summary(),
            **self.model.meters(),
        }
        return result | {"per_class": scores.per_class(), "head_parameters": head}


class Pretraining(Job):
    """A masked autoencoder whose encoder becomes a backbone.

    Args:
        settings: of the run.
    """

    metric = "validation_loss"
    higher_is_better = False

    def __init__(self, settings: Settings):
        options = settings.training
        whole = load(settings.data.name, settings.data.options, "train")
        self.train, self.validation = split_validation(whole, options.validation, options.seed)
        self.num_points = options.num_points or whole.num_points
        fields = dict(settings.backbone.options)
        checkpoint = fields.pop("checkpoint")
        fields.pop("class_token", None)
        torch.manual_seed(options.seed)
        self.model = create_autoencoder(
            settings.backbone.name,
            checkpoint,
            mask_ratio=options.mask_ratio,
            decoder_depth=options.decoder_depth,
            objective=options.objective,
            num_classes=whole.num_classes,
            **fields,
        )
        check_points(self.train, self.num_points, self.model.backbone)
        self.epochs, self.probe_every = options.epochs, options.probe_every
        rows = torch.linspace(0, len(self.train) - 1, min(PROBE_CLOUDS, len(self.train))).long()
        self._probe_clouds = Subset(self.train, rows)
        sample = transforms.RandomPoints(self.num_points)
        self._views = transforms.Compose([sample, transforms.augmentation(options.augmentation)])

    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        return list(self.model.named_parameters())

    def state(self) -> Mapping[str, Tensor]:
        return self.model.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(state)

    def views(self, batch: Batch, share: transforms.Share) -> Batch:
        points = self._views(batch["points"], share)
        return {**batch, "points": points, "hidden": self._hidden(points, share)}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        return network(batch["points"], batch["hidden"], batch["labels"])

    def _hidden(self, points: Tensor, share: transforms.Share) -> Tensor:  # [B, G]
        """Of the whole batch, so that several processes hide what one process hides."""
        rows, groups = len(points), self.model.backbone.config.num_groups
        chance = torch.rand(rows * share.world_size, groups, generator=share.generator)
        rank = chance[rows * share.rank : rows * (share.rank + 1)].argsort(1).argsort(1)
        return (rank < self.model.num_masked).to(points.device)

    @torch.no_grad()
    def evaluate(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        """The loss with the same hidden patches in every epoch."""
        totals = torch.zeros(2, dtype=torch.float64, device=fabric.device)
        share = transforms.Share(torch.Generator().manual_seed(0))
        self.model.eval()
        for batch in test_batches(self.validation, EVALUATION_BATCH, fabric, "validation"):
            points = reduction(self.num_points)(batch["points"], None)
            with fabric.autocast():
                view = {**batch, "points": points, "hidden": self._hidden(points, share)}
                loss = self.loss(self.model, view)
            totals += torch.stack([loss.double() * len(points), totals.new_tensor(len(points))])
        self.model.train()
        total, samples = fabric.all_reduce(totals, reduce_op="sum").tolist()
        return {"validation_loss": total / samples}

    def probe(self, epoch: int, fabric: Fabric) -> dict[str, float]:
        is_last = epoch + 1 == self.epochs
        due = self.probe_every and ((epoch + 1) % self.probe_every == 0 or is_last)
        if not due or self.train.num_classes < 2:
            return {}
        data = self._probe_clouds, self.validation, self.num_points
        return {"probe_accuracy": linear_probe(self.model.backbone, *data)}

    def write(self, path: Path) -> None:
        state = {name: value.detach().contiguous() for name, value in self.state().items()}
        write_atomically(path, safetensors.torch.save(state))

    def best(self, folder: RunFolder) -> Best:
        return Best(folder.backbone)

    def inputs(self) -> dict[str, str]:
        return {"training data": self.train.digest()}

    def load_best(self, file: Path) -> None:
        self.load_state(safetensors.torch.load_file(file))
