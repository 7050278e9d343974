"""Several methods on the same data, several seeds each: one table and one picture.

Each run is a `dapt train` in a process of its own, so that its peak memory is its own, too.
"""

import csv
import dataclasses
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from dapt.errors import DaptError, UsageError
from dapt.files import write_atomically
from dapt.progress import part_of_whole, watched
from dapt.runs.folder import RunFolder
from dapt.runs.settings import Settings, parse
from dapt.runs.trees import Tree, dump, for_method, read_yaml
from dapt.tasks import task_class
from dapt.training import robustness
from dapt.training import search as searching
from dapt.training.launching import Run, side_by_side, time_left, train
from dapt.training.robustness import kept_scores, over_seeds
from dapt.training.search import Choice, Search
from dapt.training.slurm import SlurmOptions
from dapt.training.statistics import DRAWS, Difference, differences
from dapt.view.charts import corruption_curves, score_against_parameters
from dapt.view.report import Report

log = logging.getLogger(__name__)

EVALUATION_BATCH = 32  # of corrupted clouds


@dataclass(frozen=True)
class Row:
    """One method: a score for each seed, and what it costs.

    Args:
        method: its name.
        seeds: of its runs.
        scores: in the order of the seeds.
        trainable_parameters: how many train.
        total_parameters: how many there are.
        saved_activation_bytes: kept for the backward of one step.
        peak_memory_bytes: the most that a process held.
        seconds_per_step: of the fastest run.
        spread_of_folds: within a seed, if a run is made of several folds.
        learning_rate: that was found, if one was searched.
        difference: from the reference method.
    """

    method: str
    seeds: list[int]
    scores: list[float]
    trainable_parameters: int
    total_parameters: int
    saved_activation_bytes: int
    peak_memory_bytes: int
    seconds_per_step: float
    spread_of_folds: float = 0.0  # within a seed, where a run is made of several folds
    learning_rate: float | None = None  # where it was searched
    difference: Difference | None = None  # from the reference

    @classmethod
    def of(cls, method: str, results: dict[int, dict], metric: str) -> "Row":
        """The row of a method.

        Args:
            method: its name.
            results: by seed.
            metric: which of the results is the score.
        """

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
    search: Search | None = None,
    reference: str | None = None,
    corruptions: Sequence[str] = (),
) -> str:
    """Run or resume what is missing; gives the table as Markdown and leaves it in a folder.

    Args:
        methods: their names.
        seeds: how many of each; they begin at 0.
        base: a config for all runs.
        out: the folder, with a run folder for each run.
        flags: for all runs, as `dapt train` takes them.
        jobs: Runs at once; None for one after the other here, and for all that Slurm has room for.
        slurm: What Slurm is asked for, where it has the runs.
        search: The learning rates to choose from for each method; None for those of the recipe.
        reference: The method that the others are compared with; the first by default.
        corruptions: Kinds of corrupted clouds that each run is scored on, too.
    """
    reference = reference or next(iter(methods), "")
    if methods and reference not in methods:
        raise UsageError(f"reference must be one of {','.join(methods)}, got {reference}")
    runs = plan(methods, seeds, base, out, flags)
    trials = [] if search is None else plan_search(search, methods, base, out, flags)
    with RunFolder(out).locked():
        for _ in _trained(trials, jobs, slurm, out):
            pass
        choices = searching.choose(trials, search.rates) if search else {}
        if choices:
            runs = plan(methods, seeds, base, out, flags, choices)
        found = Found(runs, reference, search, choices)
        for _ in _trained(runs, jobs, slurm, out):
            write(out, found)
        if corruptions:
            found = dataclasses.replace(found, curves=_curves(runs, corruptions))
        table = write(out, found, is_complete=True)
        report(out, runs)
    return table


def _trained(
    runs: Sequence[Run], jobs: int | None, slurm: SlurmOptions | None, out: Path
) -> Iterator[Run]:
    missing = [run for run in runs if run.result() is None]
    if jobs is None and slurm is None:
        yield from one_by_one(missing)
    else:
        yield from side_by_side(missing, jobs, slurm, out / "jobs")


def _curves(runs: Sequence[Run], kinds: Sequence[str]) -> dict[str, dict[str, dict]]:
    """Scores on corrupted clouds, of each run once."""
    curves: dict[str, list] = {}
    for run in watched(runs, "corrupted clouds", len(runs)):
        options = dataclasses.replace(run.settings.training, batch_size=EVALUATION_BATCH)
        curves.setdefault(run.method, []).append(kept_scores(run.folder, kinds, options))
    return over_seeds(curves)


def one_by_one(runs: Sequence[Run]) -> Iterator[Run]:
    """Train one run after the other; gives each once it is complete.

    Args:
        runs: those that are missing.
    """
    begun = time.monotonic()
    for done, run in enumerate(runs):
        left = time_left(time.monotonic() - begun, done, len(runs))
        log.info("run %d of %d: %s, seed %d%s", done + 1, len(runs), run.method, run.seed, left)
        train(run, part_of_whole("all runs", done, len(runs)))
        yield run


def report(out: Path, runs: Sequence[Run]) -> None:
    """Write report.html beside the table; the table stands without it.

    Args:
        out: the folder of the comparison.
        runs: all of them.
    """
    try:
        page = out / "report.html"
        Report.of([run.folder.path for run in runs]).write(page)
        log.info("report: %s", page)
    except DaptError as error:
        log.warning("no report: %s", error)


def plan(
    methods: Sequence[str],
    seeds: int,
    base: Path | None,
    out: Path,
    flags: Sequence[str],
    choices: Mapping[str, Choice] | None = None,
) -> list[Run]:
    """All runs, with their settings checked before the first of them starts.

    Args:
        methods: their names.
        seeds: how many of each.
        base: a config for all runs.
        out: the folder of the comparison.
        flags: for all runs, as `dapt train` takes them.
        choices: learning rates that a search found, by method.
    """
    if len(set(methods)) < len(methods) or not methods:
        raise UsageError(f"methods must name each method once, got {','.join(methods)}")
    if not 1 <= seeds <= searching.FIRST_SEED:
        raise UsageError(f"seeds must be from 1 to {searching.FIRST_SEED}, got {seeds}")
    runs = []
    for seed in range(seeds):
        for method in methods:
            chosen = ["--learning_rate", repr(choices[method].rate)] if choices else []
            folder = out / plain_name(method) / f"seed_{seed}"
            runs.append(_run(method, seed, base, folder, [*flags, *chosen]))
    return runs


def plan_search(
    search: Search, methods: Sequence[str], base: Path | None, out: Path, flags: Sequence[str]
) -> list[Run]:
    """The runs of a search, each in `out`/search/METHOD/rate_VALUE/seed_SEED.

    Args:
        search: which rates and how many seeds.
        methods: their names.
        base: a config for all runs.
        out: the folder of the comparison.
        flags: for all runs, as `dapt train` takes them.
    """
    if any(flag.partition("=")[0] == "--learning_rate" for flag in flags):
        raise UsageError("--learning_rate says what --search is to find out: leave one of them out")
    runs = []
    for seed in range(searching.FIRST_SEED, searching.FIRST_SEED + search.seeds):
        for method in methods:
            for rate in search.rates:
                place = out / "search" / plain_name(method) / f"rate_{rate:g}" / f"seed_{seed}"
                own = [*flags, "--learning_rate", repr(rate), "--test_every", "0"]
                runs.append(_run(method, seed, base, place, own))
    searching.check(runs)
    return runs


def plain_name(method: str) -> str:
    """A method as a folder is called.

    Args:
        method: Its name.
    """
    return method.replace(":", "_")


def _run(method: str, seed: int, base: Path | None, place: Path, flags: Sequence[str]) -> Run:
    settings = place.parent / "settings.yaml"
    write_atomically(settings, dump(_recipe(method, base)).encode())
    folder = RunFolder(place)
    arguments = ["--config", str(settings), "--method", method, *flags]
    arguments += ["--seed", str(seed), "--out", str(folder.path), "--resume"]
    return Run(method, seed, folder, arguments, parse("dapt compare", arguments))


def _recipe(method: str, base: Path | None) -> Tree:
    """The base config as it is for this method."""
    return {} if base is None else for_method(read_yaml(base), method)


@dataclass(frozen=True)
class Found:
    """What a comparison is made of.

    Args:
        runs: Of the table.
        reference: The method that others are compared with.
        search: The grid, where there was one.
        choices: Of the search, by methods.
        curves: Scores on corrupted clouds, by methods and kinds.
    """

    runs: Sequence[Run]
    reference: str
    search: Search | None = None
    choices: Mapping[str, Choice] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Mapping[str, dict]] = dataclasses.field(default_factory=dict)


def write(out: Path, found: Found, is_complete: bool = False) -> str:
    """Write comparison.md, .csv, .json and .png of the runs that are complete; gives the table.

    Args:
        out: the folder of the comparison.
        found: the runs, at least one complete.
        is_complete: whether all are, so that methods can be compared.
    """
    settings = found.runs[0].settings
    metric = task_class(settings.task.name).metric
    results: dict[str, dict[int, dict]] = {}
    for run in found.runs:
        result = run.result()
        if result is not None:
            results.setdefault(run.method, {})[run.seed] = result
    rows = [Row.of(method, by_seed, metric) for method, by_seed in results.items()]
    apart = _differences(found) if is_complete else {}
    rates = {method: choice.rate for method, choice in found.choices.items()}
    rows = [
        dataclasses.replace(
            row, learning_rate=rates.get(row.method), difference=apart.get(row.method)
        )
        for row in rows
    ]
    first = next(iter(next(iter(results.values())).values()))
    split, chosen = first["split"], f"validation_{metric}" in first
    caption = _caption(settings, split, chosen)
    table = markdown(rows, metric, caption)
    record = {"caption": caption, "metric": metric, "split": split}
    record |= {"rows": [dataclasses.asdict(row) for row in rows], "settings": settings.tree()}
    if apart:
        table += f"\n{_footnote(found.reference, first['metric_of_clouds'])}\n"
        record |= {"reference": found.reference, "draws": DRAWS}
        record["metric_of_differences"] = first["metric_of_clouds"]
    if found.choices:
        table += "\n" + searching.markdown(dict(found.choices), found.search.seeds)
        record["search"] = {
            "rates": found.search.rates,
            "seeds": [searching.FIRST_SEED + i for i in range(found.search.seeds)],
            "methods": {
                method: {
                    "chosen": choice.rate,
                    f"validation_{metric}": list(choice.scores.values()),
                }
                for method, choice in found.choices.items()
            },
        }
    if found.curves:
        table += "\n" + robustness.markdown(found.curves, metric)
        record["corruptions"] = found.curves
        picture = corruption_curves(found.curves, metric, caption)
        write_atomically(out / "corruptions.png", picture)
    write_atomically(out / "comparison.md", table.encode())
    write_atomically(out / "comparison.csv", _csv(rows, metric).encode())
    write_atomically(out / "comparison.json", (json.dumps(record, indent=2) + "\n").encode())
    write_atomically(out / "comparison.png", chart(rows, metric, caption))
    return table


def _differences(found: Found) -> dict[str, Difference]:
    """Each method's from the reference, by the clouds that all runs of the table were scored on."""
    clouds: dict[str, list[np.ndarray | None]] = {}
    for run in found.runs:
        clouds.setdefault(run.method, []).append(run.folder.read_clouds())
    every = [each for values in clouds.values() for each in values]
    if len(clouds) < 2 or found.runs[0].settings.task.name == "few_shot":
        return {}
    if any(each is None or each.shape != every[0].shape for each in every):
        log.warning(
            "no differences: a run has no clouds.npy, or one of other clouds; runs of older "
            "versions are to be made anew for it"
        )
        return {}
    tables = {method: np.stack(values) for method, values in clouds.items()}  # [R, S] each
    return differences(tables, found.reference)


def _footnote(reference: str, metric: str) -> str:
    return (
        f"vs {reference}: {metric.replace('_', ' ')} in points of percent, paired by seed and "
        f"cloud, with the 95 % interval of {DRAWS:,} bootstrap draws over seeds and clouds; * "
        "where it differs at 5 %, corrected for the number of methods (Holm)."
    )


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
    """The table as Markdown.

    Args:
        rows: one for each method.
        metric: the name of the score.
        caption: what was run.
    """
    heads = ("method", f"{metric}, mean ± std", "seeds", "trained", "share of all")
    heads += ("activations, MiB", "peak memory, MiB", "ms a step")
    compared = any(row.difference for row in rows)
    if compared:
        base = next((row.method for row in rows if row.difference is None), "the first")
        heads = (*heads[:3], f"vs {base}, points", *heads[3:])
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1)]
    for row in rows:
        share = row.trainable_parameters / row.total_parameters
        difference = (row.difference.in_words if row.difference else "",)
        lines.append(
            (
                row.method,
                row.score_in_words,
                str(len(row.seeds)),
                *(difference if compared else ()),
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
    apart = [field.name for field in dataclasses.fields(Difference)]
    heads = [f"difference_{name}" for name in apart]
    table.writerow(
        ["method", f"{metric}_mean", f"{metric}_std", "seeds", *costs, "learning_rate", *heads]
    )
    for row in rows:
        score = (mean(row.scores), row.spread, len(row.seeds))
        known = row.difference
        rest = [getattr(row, cost) for cost in costs] + [row.learning_rate]
        rest += [getattr(known, name) if known else None for name in apart]
        table.writerow([row.method, *score, *rest])
    return buffer.getvalue()


def chart(rows: Sequence[Row], metric: str, caption: str) -> bytes:
    """Score against trained parameters, as a PNG.

    Args:
        rows: one for each method.
        metric: the name of the score.
        caption: what was run.
    """
    points = [(row.method, row.trainable_parameters, mean(row.scores), row.spread) for row in rows]
    return score_against_parameters(points, metric, caption)
