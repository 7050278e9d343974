"""Runs as read from their folders, and groups of runs that differ only in their seed."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from dapt.errors import DataError, UsageError, reading
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings
from dapt.runs.trees import flatten

DEPTH = 3  # levels of subfolders in which runs are searched for
COSTS = {
    "trainable_parameters": max,
    "total_parameters": max,
    "saved_activation_bytes": max,
    "peak_memory_bytes": max,
    "seconds_per_step": min,
}


@dataclass(frozen=True)
class Record:
    """One run.

    Args:
        folder: The run folder.
        settings: The settings of the run.
        lines: The lines of metrics.jsonl, one per epoch.
        result: The result; None if the run is not complete.
    """

    folder: RunFolder
    settings: Settings
    lines: Sequence[dict]
    result: dict | None

    @classmethod
    def read(cls, path: Path) -> "Record":
        """Read a run folder.

        Args:
            path: The run folder.
        """
        folder = RunFolder(path)
        settings = folder.settings()
        result = None
        if folder.result.is_file():
            with reading(folder.result):
                result = json.loads(folder.result.read_text())
        return cls(folder, settings, _lines(folder.metrics), result)

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.settings.method.name if self.settings.method else "pretrain"

    @property
    def metric(self) -> str | None:
        """The score by which runs of its task are compared."""
        return None if self.result is None else self.result.get("metric")

    @property
    def score(self) -> float | None:
        """The score of the run, by the metric of its task."""
        return None if self.metric is None else self.result.get(self.metric)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed.

    Args:
        name: The method, and the settings that distinguish it from other groups of the same method.
        records: The runs, at least one.
    """

    name: str
    records: Sequence[Record]

    @property
    def first(self) -> Record:
        """The run that represents what all have in common."""
        return self.records[0]

    @cached_property
    def complete(self) -> list[Record]:
        """The runs that have a result."""
        return [record for record in self.records if record.result is not None]

    def mean(self, key: str) -> float | None:
        """The mean of a number over the complete runs; None if no run has it.

        Args:
            key: The key of the number in a run's result.
        """
        known = [r.result[key] for r in self.complete if isinstance(r.result.get(key), int | float)]
        return fmean(known) if known else None

    def spread(self, key: str) -> float | None:
        """The standard deviation over seeds; for a single run, that over its folds, if any.

        Args:
            key: The key of the number in a run's result.
        """
        known = [r.result[key] for r in self.complete if isinstance(r.result.get(key), int | float)]
        return stdev(known) if len(known) > 1 else self.mean(f"{key}_std")

    def cost(self, key: str) -> float | None:
        """A single number for the cost of the runs; None if it is unknown.

        Args:
            key: A key of `COSTS`.
        """
        known = [r.result[key] for r in self.complete if r.result.get(key) is not None]
        return COSTS[key](known) if known else None

    def curve(self, key: str) -> list[tuple[int, float, float, float]]:
        """(epoch, mean, minimum, maximum) over the runs, for the epochs that have the number.

        Args:
            key: The key of the number in a line of metrics.
        """
        values: dict[int, list[float]] = {}
        for record in self.records:
            for line in record.lines:
                if isinstance(line.get(key), int | float):
                    values.setdefault(int(line["epoch"]) + 1, []).append(line[key])
        return [(e, fmean(v), min(v), max(v)) for e, v in sorted(values.items())]


def read_records(paths: Sequence[Path]) -> list[Record]:
    """Read the runs in some folders, in order.

    Args:
        paths: Run folders, or folders that contain runs, such as that of a comparison.
    """
    found: dict[Path, Record] = {}
    for path in paths:
        folders = list(_run_folders(path, DEPTH))
        if not folders:
            what = "holds no run" if path.is_dir() else "is not a folder"
            raise UsageError(f"{path} {what}: a run folder has a config.yaml")
        for folder in folders:
            found.setdefault(folder.resolve(), Record.read(folder))
    return list(found.values())


def _run_folders(path: Path, depth: int):
    """Find the runs at or below a path; the folds of a run are part of it."""
    if (path / "config.yaml").is_file():
        yield path
    elif depth and path.is_dir():
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            if entry.is_dir():
                yield from _run_folders(Path(entry.path), depth - 1)


def grouped(records: Sequence[Record]) -> list[Group]:
    """Group runs that differ only in their seed, best group first.

    Args:
        records: Runs with the same metric.
    """
    groups: dict[str, list[Record]] = {}
    kept: dict[str, dict] = {}
    for record in records:
        free = {*record.settings.training.FREE, "seed"}
        settings = {k: v for k, v in flatten(record.settings.tree()).items() if k not in free}
        key = json.dumps(settings, sort_keys=True, default=str)
        groups.setdefault(key, []).append(record)
        kept[key] = settings
    named = [
        Group(_name(key, groups, kept), sorted(members, key=lambda r: r.settings.training.seed))
        for key, members in groups.items()
    ]
    return sorted(named, key=_rank)


def _rank(group: Group) -> tuple:
    score = group.mean(group.complete[0].metric) if group.complete and group.first.metric else None
    return (score is None, -(score or 0.0), group.name)


def _name(key: str, groups: dict[str, list[Record]], kept: dict[str, dict]) -> str:
    """The method's name, and the settings in which groups of the same method differ."""
    method = groups[key][0].method
    same = [kept[other] for other in groups if groups[other][0].method == method]
    differing = [
        name for name in kept[key] if any(other.get(name) != kept[key][name] for other in same)
    ]
    told = [f"{name.rpartition('.')[2]}={kept[key][name]}" for name in differing[:3]]
    return ", ".join([method, *told])


def comparable(records: Sequence[Record]) -> str:
    """The metric that all complete runs share; an error if they have different ones.

    Args:
        records: Any runs.
    """
    metrics = {record.metric for record in records if record.metric is not None}
    if len(metrics) > 1:
        raise UsageError(
            f"these runs have different scores ({', '.join(sorted(metrics))}): "
            "make a report for each kind"
        )
    return next(iter(metrics), "accuracy")


def _lines(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with reading(path):
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    if not all(isinstance(line, dict) and "epoch" in line for line in lines):
        raise DataError(f"{path} must hold a JSON object with an epoch in each line")
    return lines
