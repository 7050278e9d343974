"""The adaptation of a frozen backbone to a task, as the training loop runs it."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import safetensors.torch
from lightning_fabric import Fabric
from torch import Tensor, nn

import dapt_ext
from dapt.adapters import adapter_files
from dapt.adapters.adapter_files import BackboneRecord
from dapt.data import PointDataset, transforms
from dapt.data.preprocessing import Preprocessing
from dapt.errors import UsageError
from dapt.inference.score import reduction, score, test_batches
from dapt.runs.assembly import build_model, check_points, load_splits
from dapt.runs.best import Best
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings
from dapt.tasks import task_class
from dapt.tasks.metrics import Scores
from dapt.training.job import Batch, Job


class Adaptation(Job):
    """A frozen backbone, adapted to a task by a method.

    Args:
        settings: The settings of the run.
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
        # without a validation split, the last epoch counts
        self.metric = f"validation_{self.task.metric}" if self.validation else "epoch"
        self.test_metric, self.test_every = f"test_{self.task.metric}", options.test_every
        fewer = self.num_points < self.train.num_points
        self._resample = transforms.Resample(self.num_points) if fewer else None
        self._augment = transforms.augmentation(options.augmentation)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """How the training prepares clouds, which users of the model have to repeat."""
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
