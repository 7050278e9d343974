"""Show the progress of a run: a bar with the time left, a line per epoch, TensorBoard."""

from lightning_fabric import Fabric
from torch import Tensor

from dapt.data import BatchSampler
from dapt.progress import Bar, say, whole
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.training.events import Events
from dapt.training.loggers import create_logger

TOLD_EVERY = 10  # steps between two readings of the loss


class Progress:
    """The output of a run. Only the first process shows anything, and bars need a terminal.

    Args:
        options: The options, of which epochs and loggers are used.
        sampler: The sampler whose batches are the steps of an epoch.
        points_per_step: The number of points in all clouds of a batch.
        fabric: The Fabric of this process.
        folder: The folder of the run.
    """

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
        self.events = None
        if self.speaks and options.tensorboard:
            self.events = Events(folder.tensorboard)
        named = self.speaks and options.logger
        self.logger = create_logger(options.logger, folder.path) if named else None
        self.bar = Bar("training", self.steps * self.epochs, shown=self.speaks, patience=0)
        self.whole = whole(self.speaks)  # the bar of the comparison that this run is part of
        self.done_before = self.whole.done

    def __enter__(self) -> "Progress":
        self.whole.__enter__()
        self.bar.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self.bar.__exit__()
        self.whole.__exit__()
        if self.logger:
            self.logger.finalize("success")

    def start_epoch(self, epoch: int, step: int) -> None:
        """Show the epoch, from the step at which it starts.

        Args:
            epoch: Its number, from 0.
            step: The step within the epoch.
        """
        self.step, self.read = epoch * self.steps + step, None if step else (0.0, 0.0)
        self.bar.update(done=epoch * self.steps + step, what=f"epoch {epoch + 1}/{self.epochs}")

    def advance(self, totals: Tensor) -> None:
        """Count one more step.

        Args:
            totals: The sum of the losses, and the number of steps.
        """
        self.bar.advance()
        self.whole.update(done=self.done_before + self.bar.done / self.bar.total)
        self.step += 1
        listens = self.bar.shown or self.events or self.logger
        if not listens or self.step % TOLD_EVERY:
            return
        loss, steps = totals.tolist()
        if self.read:
            before, earlier = self.read
            self._log(self.step, {"step_loss": (loss - before) / (steps - earlier)})
        self.read = (loss, steps)
        rate = self.bar.speed * self.points_per_step
        self.bar.update(note=f"{rate:,.0f} points/s, loss {loss / max(steps, 1):.3f}")

    def end_epoch(self, line: dict, is_best: bool) -> None:
        """Print an epoch's line and send it to TensorBoard.

        Args:
            line: The epoch's metrics.
            is_best: Whether it is the best so far.
        """
        if self.speaks:
            say(epoch_line(line, self.epochs, is_best))
        self._log(line["step"], line)

    def _log(self, step: int, values: dict) -> None:
        if self.events:
            self.events.add(step, values)
        if self.logger:
            self.logger.log_metrics(values, step)


SHORT = {"accuracy": "acc", "miou": "mIoU", "instance_miou": "mIoU"}


def epoch_line(line: dict, epochs: int, is_best: bool) -> str:
    """Format an epoch in at most 80 columns, with numbers aligned across epochs.

    Args:
        line: The line as in metrics.jsonl; the first number of each split is shown.
        epochs: The number of epochs.
        is_best: Whether it is the best so far.
    """
    width = len(str(epochs))
    parts = [f"epoch {line['epoch'] + 1:{width}}/{epochs}", f"loss {line['train_loss']:7.4f}"]
    for split, short in (("validation_", "val"), ("test_", "test"), ("probe_", "probe")):
        key = next((key for key in line if key.startswith(split)), None)
        if key is not None:
            name = key.removeprefix(split)
            parts.append(f"{short} {SHORT.get(name, name)} {line[key]:.4f}")
    if "seconds" in line:
        parts.append(f"{line['seconds']:4.0f} s")
    return "  ".join(parts) + ("  (best)" if is_best else "")
