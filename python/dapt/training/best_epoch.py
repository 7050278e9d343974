"""The best epoch of a run, by the metric of its job."""

from collections.abc import Mapping

from dapt.errors import DaptError
from dapt.runs.folder import RunFolder
from dapt.training.job import Job


class BestEpoch:
    """The best epoch so far: its line in metrics.jsonl and its weights.

    Args:
        job: The training job.
        folder: The run folder.
        writes: Whether this process writes the files of the run.
    """

    def __init__(self, job: Job, folder: RunFolder, writes: bool):
        self.job, self.writes = job, writes
        self.weights = job.best(folder)
        self.digest: str | None = None  # of the file with the weights
        self.line: dict[str, float] = {}
        self.by_test: float | None = None  # the best test metric of all epochs

    def consider(self, line: dict[str, float]) -> None:
        """Keep an epoch if it is better; its weights are staged until a checkpoint refers to them.

        Args:
            line: Its line in metrics.jsonl.
        """
        if self._is_better(line):
            self.line = line
            if self.writes:
                self.digest = self.weights.stage(self.job.write)
        by_test = line.get(self.job.test_metric)
        if by_test is not None:
            self.by_test = max(self.by_test or 0.0, by_test)

    def _is_better(self, line: dict[str, float]) -> bool:
        if self.job.metric not in line:  # an epoch without an evaluation
            return False
        if not self.line:
            return True
        now, before = line[self.job.metric], self.line[self.job.metric]
        return now > before if self.job.higher_is_better else now < before

    def state(self) -> dict[str, object]:
        """The state in a checkpoint."""
        return {"best": self.line, "best_by_test": self.by_test, "best_digest": self.digest}

    def load_state(self, state: Mapping) -> None:
        """Restore what `state` returned, and the weights of that epoch.

        Args:
            state: The state of the checkpoint.
        """
        self.line, self.by_test = state["best"], state["best_by_test"]
        self.digest = state.get("best_digest")
        if self.writes:
            self._check(self.weights.restore(self.digest))

    def check(self) -> None:
        """Check that the weights are unchanged since this run wrote them."""
        if self.writes:
            self._check(self.weights.is_whole(self.digest))

    def _check(self, is_whole: bool) -> None:
        if not is_whole:
            raise DaptError(
                f"{self.weights.file}, the weights of the best epoch, is damaged or "
                "missing: put it back, or start anew with another --out"
            )

    def result(self) -> dict[str, object]:
        """Its entries in result.json."""
        found = {"best_epoch": self.line["epoch"], self.job.metric: self.line[self.job.metric]}
        if self.by_test is not None:
            metric = self.job.test_metric.removeprefix("test_")
            found[f"{metric}_of_best_epoch_by_test"] = self.by_test
        return found
