"""The results of a comparison: one row per method, as Markdown, CSV, JSON and a picture."""

import csv
import dataclasses
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from dapt.files import write_atomically
from dapt.runs.settings import Settings
from dapt.tasks import task_class
from dapt.training import robustness
from dapt.training import search as searching
from dapt.training.launching import Run
from dapt.training.search import Choice, Search
from dapt.training.statistics import DRAWS, Difference, differences
from dapt.view.charts import corruption_curves, score_against_parameters

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One method: its score for each seed, and its cost.

    Args:
        method: The name of the method.
        seeds: The seeds of its runs.
        scores: One score per seed.
        trainable_parameters: The number of parameters that train.
        total_parameters: The number of all parameters.
        saved_activation_bytes: The bytes that a step keeps for its backward.
        peak_memory_bytes: The most memory that a process used.
        seconds_per_step: The time per step of the fastest run.
        spread_of_folds: The spread within a seed, if a run consists of several folds.
        learning_rate: The learning rate that a search found, if there was one.
        difference: The difference from the reference method.
    """

    method: str
    seeds: list[int]
    scores: list[float]
    trainable_parameters: int
    total_parameters: int
    saved_activation_bytes: int
    peak_memory_bytes: int
    seconds_per_step: float
    spread_of_folds: float = 0.0
    learning_rate: float | None = None
    difference: Difference | None = None

    @classmethod
    def of(
        cls,
        method: str,
        results: dict[int, dict],
        metric: str,
        choice: Choice | None = None,
        difference: Difference | None = None,
    ) -> "Row":
        """Make the row of a method.

        Args:
            method: The name of the method.
            results: The results of its runs, by seed.
            metric: The name of the result that is the score.
            choice: The choice of its learning rate, if there was a search.
            difference: The difference from the reference method.
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
            learning_rate=choice and choice.rate,
            difference=difference,
        )

    @property
    def spread(self) -> float:
        """The standard deviation over seeds, or over the folds of a single run."""
        return stdev(self.scores) if len(self.scores) > 1 else self.spread_of_folds

    @property
    def score_in_words(self) -> str:
        """Mean ± std; only the mean if a single run has no spread."""
        has_spread = len(self.scores) > 1 or self.spread_of_folds
        return f"{mean(self.scores):.4f}" + (f" ± {self.spread:.4f}" if has_spread else "")


@dataclass(frozen=True)
class Found:
    """The contents of a comparison.

    Args:
        runs: The runs in the table.
        reference: The method that the others are compared with.
        search: The grid of learning rates, if there was a search.
        choices: What the search chose, by method.
        curves: Scores on corrupted clouds, by method and kind.
    """

    runs: Sequence[Run]
    reference: str
    search: Search | None = None
    choices: Mapping[str, Choice] = dataclasses.field(default_factory=dict)
    curves: Mapping[str, Mapping[str, dict]] = dataclasses.field(default_factory=dict)


def write(out: Path, found: Found, is_complete: bool = False) -> str:
    """Write comparison.md, .csv, .json and .png of the complete runs, and return the table.

    Args:
        out: The folder of the comparison.
        found: The runs, of which at least one is complete.
        is_complete: Whether all runs are complete, so that the methods can be compared.
    """
    settings = found.runs[0].settings
    metric = task_class(settings.task.name).metric
    results: dict[str, dict[int, dict]] = {}
    for run in found.runs:
        result = run.result()
        if result is not None:
            results.setdefault(run.method, {})[run.seed] = result
    apart = _differences(found) if is_complete else {}
    rows = [
        Row.of(method, by_seed, metric, found.choices.get(method), apart.get(method))
        for method, by_seed in results.items()
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
    """How each method differs from the reference on the clouds that all runs were scored on."""
    clouds: dict[str, list[np.ndarray | None]] = {}
    for run in found.runs:
        clouds.setdefault(run.method, []).append(run.folder.read_clouds())
    every = [each for values in clouds.values() for each in values]
    if len(clouds) < 2 or found.runs[0].settings.task.name == "few_shot":
        return {}
    if any(each is None or each.shape != every[0].shape for each in every):
        log.warning(
            "no differences: a run has no clouds.npy, or one for other clouds; train runs of older "
            "versions again to get them"
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
    """Format the table as Markdown.

    Args:
        rows: One row per method.
        metric: The name of the score.
        caption: The caption of the table.
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
    """Plot scores against trained parameters, as a PNG.

    Args:
        rows: One row per method.
        metric: The name of the score.
        caption: The title of the picture.
    """
    points = [(row.method, row.trainable_parameters, mean(row.scores), row.spread) for row in rows]
    return score_against_parameters(points, metric, caption)
