"""What a run shows while it trains: a bar with the time left, a line per epoch, TensorBoard."""

import sys

from lightning_fabric import Fabric
from rich import progress
from rich.console import Console
from torch import Tensor

from dapt.data import BatchSampler
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions


class Progress:
    """Only the first process shows anything; without a terminal there is no bar."""

    def __init__(
        self,
        options: TrainOptions,
        sampler: BatchSampler,
        points_per_step: int,
        fabric: Fabric,
        folder: RunFolder,
    ):
        self.steps, self.epochs = len(sampler), options.epochs
        self.points_per_step = points_per_step
        self.speaks = fabric.is_global_zero
        self.console = Console(stderr=True, quiet=not self.speaks)
        self.events = None
        if self.speaks and options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder.tensorboard))
        self.bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[rate]} points/s, loss {task.fields[loss]}"),
            console=self.console,
            disable=not (self.speaks and sys.stderr.isatty()),
        )

    def __enter__(self) -> "Progress":
        self.bar.start()
        fields = {"epoch": "", "rate": "", "loss": ""}
        self.task = self.bar.add_task("", total=self.steps * self.epochs, **fields)
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()
        if self.events:
            self.events.close()

    def start_epoch(self, epoch: int, step: int) -> None:
        at = f"{epoch + 1}/{self.epochs}"
        self.bar.update(self.task, completed=epoch * self.steps + step, epoch=at)

    def advance(self, totals: Tensor) -> None:
        self.bar.advance(self.task)
        task = self.bar.tasks[self.task]
        if self.bar.disable or int(task.completed) % 10:
            return
        loss, steps = totals.tolist()
        rate = f"{(task.speed or 0) * self.points_per_step:,.0f}"
        self.bar.update(self.task, rate=rate, loss=f"{loss / max(steps, 1):.3f}")

    def end_epoch(self, line: dict, is_best: bool) -> None:
        shown = {
            key: value
            for key, value in line.items()
            if key.endswith(("loss", "_accuracy", "_miou"))
        }
        shown.pop("validation_mean_class_accuracy", None)
        shown.pop("test_mean_class_accuracy", None)
        words = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in shown.items())
        best = " (best)" if is_best else ""
        self.console.print(f"epoch {line['epoch'] + 1}: {words}{best}", highlight=False)
        if self.events:
            for key, value in line.items():
                self.events.add_scalar(key, value, line["step"])
            self.events.flush()
