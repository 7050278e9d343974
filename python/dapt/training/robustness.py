"""Scores of runs on corrupted clouds, by kind and severity, stored in each run's folder."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev

from dapt.adapters import adapter_files
from dapt.data.corruptions import SEVERITIES, Corrupted
from dapt.errors import UsageError
from dapt.inference.score import score
from dapt.progress import watched
from dapt.runs.assembly import check_groups, load_splits, restore_model
from dapt.runs.folder import RunFolder
from dapt.runs.options import TrainOptions
from dapt.runs.processes import launch
from dapt.training.folds import is_of_folds

Curves = Mapping[str, Sequence[float]]  # by kind, the scores at severities 0 (clean) to 5


def corrupted_scores(
    folder: RunFolder, kinds: Sequence[str], split: str, options: TrainOptions
) -> dict[str, list[float]]:
    """Score a run's model on a corrupted split: by kind, at severities 0 to 5.

    Args:
        folder: The folder of the run.
        kinds: The kinds, from `dapt.data.corruptions`.
        split: "test" or "validation".
        options: Batch size and devices; the precision is the run's.
    """
    settings = folder.settings()
    if settings.is_pretraining or is_of_folds(settings):
        raise UsageError(f"{folder.path} has no single model to score on corrupted clouds")
    fabric = launch(replace(options, precision=settings.training.precision))
    _, validation, test = load_splits(settings)
    dataset = test if split == "test" else validation
    if dataset is None:
        other = "validation" if split == "test" else "test"
        raise UsageError(f"the run in {folder.path} names no {split} data: use --split {other}")
    model = restore_model(folder).to(fabric.device)
    metric, wanted = model.adapter.task.metric, settings.training.num_points
    normalize = bool(settings.data.get("normalize", True))

    def value(data) -> float:
        seen = min(wanted or data.num_points, data.num_points)
        check_groups(seen, model.backbone)
        found = score(model, data, fabric, seen, options.batch_size, what="corrupted clouds")
        return found.summary()[metric]

    clean, curves = value(dataset), {}
    cases = [(kind, severity) for kind in kinds for severity in SEVERITIES]
    for kind, severity in watched(cases, "corruptions", len(cases), fabric.is_global_zero):
        corrupted = Corrupted(dataset, kind, severity, normalize=normalize)
        curves.setdefault(kind, [clean]).append(value(corrupted))
    return curves


def kept_scores(
    folder: RunFolder, kinds: Sequence[str], options: TrainOptions
) -> dict[str, list[float]]:
    """Like `corrupted_scores` for the split of the run's result, but reuse scores in the folder.

    Args:
        folder: The folder of a run that is complete.
        kinds: The kinds, from `dapt.data.corruptions`.
        options: Batch size and devices.
    """
    weights = (folder.adapter / adapter_files.WEIGHTS).read_bytes()
    about = hashlib.sha256(weights).hexdigest()
    known = folder.read_corruptions(about)
    missing = [kind for kind in kinds if kind not in known]
    if missing:
        split = json.loads(folder.result.read_text())["split"]
        known |= corrupted_scores(folder, missing, split, options)
        folder.write_corruptions(known, about)
    return {kind: known[kind] for kind in kinds}


def over_seeds(runs: Mapping[str, Sequence[Curves]]) -> dict[str, dict[str, dict]]:
    """By method and kind, the mean and standard deviation at each severity.

    Args:
        runs: By method, the curves of each seed.
    """
    return {
        method: {
            kind: {
                "mean": [fmean(values) for values in zip(*(c[kind] for c in curves), strict=True)],
                "std": [pstdev(values) for values in zip(*(c[kind] for c in curves), strict=True)],
            }
            for kind in curves[0]
        }
        for method, curves in runs.items()
    }


def markdown(found: Mapping[str, Mapping[str, dict]], metric: str) -> str:
    """One line per method: clean clouds, and the mean over the five severities of each kind.

    Args:
        found: The result of `over_seeds`.
        metric: The name of the score.
    """
    kinds = list(next(iter(found.values())))
    lines = [("method", "as they are", *kinds, "mean of corrupted")]
    lines.append(("---", *["---:"] * (len(kinds) + 2)))
    for method, curves in found.items():
        means = [fmean(curves[kind]["mean"][1:]) for kind in kinds]
        values = (curves[kinds[0]]["mean"][0], *means, fmean(means))
        lines.append((method, *(f"{value:.4f}" for value in values)))
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{metric.replace('_', ' ')} on corrupted clouds, mean of severities 1 to 5\n\n{table}"
