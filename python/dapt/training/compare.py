"""Train several methods on the same data with several seeds, for one table and one picture.

Each run is a `dapt train` in a separate process, so its peak memory is its own.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dapt.errors import DaptError, UsageError
from dapt.files import write_atomically
from dapt.progress import part_of_whole, watched
from dapt.runs.folder import RunFolder
from dapt.runs.settings import parse
from dapt.runs.trees import Tree, dump, for_method, read_yaml
from dapt.training import search as searching
from dapt.training.comparison import Found, write
from dapt.training.launching import Run, side_by_side, time_left, train
from dapt.training.robustness import kept_scores, over_seeds
from dapt.training.search import Choice, Search
from dapt.training.slurm import SlurmOptions
from dapt.view.report import Report

log = logging.getLogger(__name__)

EVALUATION_BATCH = 32  # batch size for corrupted clouds


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
    """Run or resume what is missing; return the table as Markdown and write it to a folder.

    Args:
        methods: The names of the methods.
        seeds: The number of seeds per method; they start at 0.
        base: A config for all runs.
        out: The folder, with a run folder for each run.
        flags: Flags of `dapt train` for all runs.
        jobs: Runs at a time; None for one at a time here, or all that Slurm has room for.
        slurm: What each job requests, if Slurm starts the runs.
        search: The learning rates to choose from for each method; None for the recipe's.
        reference: The method that the others are compared with; the first by default.
        corruptions: Kinds of corrupted clouds on which each run is also scored.
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
    """Score each run once on corrupted clouds."""
    curves: dict[str, list] = {}
    for run in watched(runs, "corrupted clouds", len(runs)):
        options = dataclasses.replace(run.settings.training, batch_size=EVALUATION_BATCH)
        curves.setdefault(run.method, []).append(kept_scores(run.folder, kinds, options))
    return over_seeds(curves)


def one_by_one(runs: Sequence[Run]) -> Iterator[Run]:
    """Train one run after the other; yields each once it is complete.

    Args:
        runs: The runs that are missing.
    """
    begun = time.monotonic()
    for done, run in enumerate(runs):
        left = time_left(time.monotonic() - begun, done, len(runs))
        log.info("run %d of %d: %s, seed %d%s", done + 1, len(runs), run.method, run.seed, left)
        train(run, part_of_whole("all runs", done, len(runs)))
        yield run


def report(out: Path, runs: Sequence[Run]) -> None:
    """Write report.html beside the table; if it fails, log a warning.

    Args:
        out: The folder of the comparison.
        runs: All runs.
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
    """Plan all runs, and check their settings before the first one starts.

    Args:
        methods: The names of the methods.
        seeds: The number of seeds per method.
        base: A config for all runs.
        out: The folder of the comparison.
        flags: Flags of `dapt train` for all runs.
        choices: Learning rates that a search found, by method.
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
    """Plan the runs of a search, each in `out`/search/METHOD/rate_VALUE/seed_SEED.

    Args:
        search: The rates and the number of seeds.
        methods: The names of the methods.
        base: A config for all runs.
        out: The folder of the comparison.
        flags: Flags of `dapt train` for all runs.
    """
    if any(flag.partition("=")[0] == "--learning_rate" for flag in flags):
        raise UsageError("--learning_rate conflicts with --search: leave out one of them")
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
    """A method's name in a form suitable for a folder.

    Args:
        method: The name of the method.
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
    """The base config for this method."""
    return {} if base is None else for_method(read_yaml(base), method)
