"""Several methods on the same data, several seeds each: one table and one picture.

Each run is a `dapt train` in a process of its own, so that its peak memory is its own, too.
"""

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from dapt.errors import DaptError, UsageError
from dapt.files import write_atomically
from dapt.progress import part_of_whole
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings, parse
from dapt.runs.trees import Tree, dump, for_method, read_yaml
from dapt.tasks import task_class
from dapt.training.launching import Run, side_by_side, time_left, train
from dapt.training.slurm import SlurmOptions
from dapt.view.charts import score_against_parameters
from dapt.view.report import Report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One method: a score for each seed, and what it costs."""

    method: str
    seeds: list[int]
    scores: list[float]
    trainable_parameters: int
    total_parameters: int
    saved_activation_bytes: int
    peak_memory_bytes: int
    seconds_per_step: float
    spread_of_folds: float = 0.0  # within a seed, where a run is made of several folds

    @classmethod
    def of(cls, method: str, results: dict[int, dict], metric: str) -> "Row":
        """The line of a method, from the results by seed."""

        def each(key):
            return [result[key] for result in results.values()]

        return cls(
            method=method,
            seeds=list(results),
            scores=each(metric),
            trainable_parameters=max(each("trainable_parameters")),
            total_parameters=max(each("total_parameters")),
            saved_activation_bytes=max(each("saved_activation_bytes")),
            peak_memory_bytes=max(each("peak_memory_bytes")),
            seconds_per_step=min(each("seconds_per_step")),
            spread_of_folds=mean(result.get(f"{metric}_std", 0.0) for result in results.values()),
        )

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, or over the folds of a single run."""
        return stdev(self.scores) if len(self.scores) > 1 else self.spread_of_folds

    @property
    def score_in_words(self) -> str:
        """Mean ± std; the mean alone where a single run has no spread."""
        has_spread = len(self.scores) > 1 or self.spread_of_folds
        return f"{mean(self.scores):.4f}" + (f" ± {self.spread:.4f}" if has_spread else "")


def compare(
    methods: Sequence[str],
    seeds: int,
    base: Path | None,
    out: Path,
    flags: Sequence[str],
    jobs: int | None = None,
    slurm: SlurmOptions | None = None,
) -> str:
    """Run or resume what is missing; returns the table as Markdown and leaves it in `out`.

    Args:
        methods: Their names.
        seeds: Runs of each method.
        base: The recipe, a YAML file.
        out: Folder of the runs and the table.
        flags: Of each `dapt train`.
        jobs: Runs at once; None for one after the other here, and for all that Slurm has room for.
        slurm: What Slurm is asked for, where it has the runs.
    """
    runs = plan(methods, seeds, base, out, flags)
    with RunFolder(out).locked():
        missing = [run for run in runs if run.result() is None]
        if jobs is None and slurm is None:
            finished = one_by_one(missing)
        else:
            finished = side_by_side(missing, jobs, slurm, out / "jobs")
        for _ in finished:
            write(out, runs)
        table = write(out, runs)
        report(out, runs)
    return table


def one_by_one(runs: Sequence[Run]) -> Iterator[Run]:
    """Each run once it is complete; its bars are its own."""
    begun = time.monotonic()
    for done, run in enumerate(runs):
        left = time_left(time.monotonic() - begun, done, len(runs))
        log.info("run %d of %d: %s, seed %d%s", done + 1, len(runs), run.method, run.seed, left)
        train(run, part_of_whole("all runs", done, len(runs)))
        yield run


def report(out: Path, runs: Sequence[Run]) -> None:
    """report.html beside the table; the table stands without it."""
    try:
        page = out / "report.html"
        Report.of([run.folder.path for run in runs]).write(page)
        log.info("report: %s", page)
    except DaptError as error:
        log.warning("no report: %s", error)


def plan(
    methods: Sequence[str], seeds: int, base: Path | None, out: Path, flags: Sequence[str]
) -> list[Run]:
    """All runs, with their settings checked before the first of them starts."""
    if len(set(methods)) < len(methods) or not methods:
        raise UsageError(f"methods must name each method once, got {','.join(methods)}")
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, got {seeds}")
    runs = []
    for seed in range(seeds):
        for method in methods:
            plain_name = method.replace(":", "_")
            settings = out / plain_name / "settings.yaml"
            write_atomically(settings, dump(_recipe(method, base)).encode())
            folder = RunFolder(out / plain_name / f"seed_{seed}")
            arguments = ["--config", str(settings), "--method", method, *flags]
            arguments += ["--seed", str(seed), "--out", str(folder.path), "--resume"]
            runs.append(Run(method, seed, folder, arguments, parse("dapt compare", arguments)))
    return runs


def _recipe(method: str, base: Path | None) -> Tree:
    """The base config as it is for this method."""
    return {} if base is None else for_method(read_yaml(base), method)


def write(out: Path, runs: Sequence[Run]) -> str:
    """comparison.md, .csv, .json and .png of the runs that are complete."""
    settings = runs[0].settings
    metric = task_class(settings.task.name).metric
    results: dict[str, dict[int, dict]] = {}
    for run in runs:
        result = run.result()
        if result is not None:
            results.setdefault(run.method, {})[run.seed] = result
    rows = [Row.of(method, by_seed, metric) for method, by_seed in results.items()]
    first = next(iter(next(iter(results.values())).values()))
    split, chosen = first["split"], f"validation_{metric}" in first
    caption = _caption(settings, split, chosen)
    table = markdown(rows, metric, caption)
    record = {"caption": caption, "metric": metric, "split": split}
    record |= {"rows": [vars(row) for row in rows], "settings": settings.tree()}
    write_atomically(out / "comparison.md", table.encode())
    write_atomically(out / "comparison.csv", _csv(rows, metric).encode())
    write_atomically(out / "comparison.json", (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(out / "comparison.png", chart(rows, metric, caption))
    return table


def _caption(settings: Settings, split: str, chosen: bool) -> str:
    backbone, data, training = settings.backbone.name, settings.data, settings.training
    scanned = data.get("domain") != "clean"
    variant = f" {data.get('variant')}" if data.get("variant") and scanned else ""
    counts = "the best on the validation split counts" if chosen else "the last one counts"
    return (
        f"{backbone} on the {split} split of {data.name}{variant}, {training.epochs} epochs, "
        f"of which {counts}, augmentation {training.augmentation}"
    )


def markdown(rows: Sequence[Row], metric: str, caption: str) -> str:
    """The table."""
    heads = ("method", f"{metric}, mean ± std", "seeds", "trained", "share of all")
    heads += ("activations, MiB", "peak memory, MiB", "ms a step")
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        share = row.trainable_parameters / row.total_parameters
        lines.append(
            (
                row.method,
                row.score_in_words,
                str(len(row.seeds)),
                f"{row.trainable_parameters:,}",
                f"{share:.2%}",
                f"{row.saved_activation_bytes / 2**20:.1f}",
                f"{row.peak_memory_bytes / 2**20:.0f}",
                f"{row.seconds_per_step * 1e3:.0f}",
            )
        )
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{caption}\n\n{table}"


def _csv(rows: Sequence[Row], metric: str) -> str:
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    costs = ("trainable_parameters", "total_parameters", "saved_activation_bytes")
    costs += ("peak_memory_bytes", "seconds_per_step")
    table.writerow(["method", f"{metric}_mean", f"{metric}_std", "seeds", *costs])
    for row in rows:
        score = (mean(row.scores), row.spread, len(row.seeds))
        table.writerow([row.method, *score, *(getattr(row, cost) for cost in costs)])
    return buffer.getvalue()


def chart(rows: Sequence[Row], metric: str, caption: str) -> bytes:
    """Score against trained parameters, as a PNG."""
    points = [(row.method, row.trainable_parameters, mean(row.scores), row.spread) for row in rows]
    return score_against_parameters(points, metric, caption)
