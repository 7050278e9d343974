"""Trainings in separate processes: one after the other, N at a time, or as Slurm jobs.

A training is a `dapt train --resume`, so whatever stops it, the same command continues it.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from dapt.errors import DaptError, Interrupted
from dapt.files import writing
from dapt.progress import Bar
from dapt.runs.children import on_signals, run_child, start_child, threads
from dapt.runs.folder import RunFolder
from dapt.runs.resuming import check_same
from dapt.runs.settings import Settings
from dapt.training.folds import fold_folders, is_of_folds
from dapt.training.slurm import Queue, SlurmOptions

log = logging.getLogger(__name__)

LOOK = 0.2  # seconds between two polls of the processes
COUNT = 2.0  # seconds between two readings of their progress


@dataclass(frozen=True)
class Run:
    """One cell of a comparison: a method with a seed.

    Args:
        method: The method's name.
        seed: The seed of the run.
        folder: The run folder.
        arguments: The arguments of `dapt train`.
        settings: The settings that the arguments give.
    """

    method: str
    seed: int
    folder: RunFolder
    arguments: list[str]  # for `dapt train`
    settings: Settings

    @property
    def command(self) -> list[str]:
        """The command line that starts it."""
        return ["-m", "dapt", "train", *self.arguments]

    def result(self) -> dict | None:
        """The result, or None if the run is not complete."""
        if not self.folder.result.is_file():
            return None
        known, asked = self.folder.settings().training, self.settings.training
        precision = known.precision if asked.precision == "auto" else asked.precision
        num_points = asked.num_points or known.num_points
        settings = self.settings.but(num_points=num_points, precision=precision)
        check_same(self.folder.config, settings)
        return json.loads(self.folder.result.read_text())


def train(run: Run, environment: Mapping[str, str]) -> None:
    """Train in a separate process, which shows its own progress and that of all runs.

    Args:
        run: The run.
        environment: The variables of the process.
    """
    run.folder.wait()
    code = run_child([sys.executable, *run.command], environment)
    if code:
        raise failure(run, code)


def failure(run: Run, code: int, log: Path | None = None) -> DaptError:
    """The error for a run that did not finish.

    Args:
        run: The run.
        code: Its exit code; a negative one is the signal that killed it.
        log: The file with its output, if there is one.
    """
    how = f"ended with exit code {code}" if code > 0 else f"was killed by signal {-code}"
    said = f" ({_last_line(log)})" if log is not None and log.is_file() else ""
    return DaptError(
        f"the run of {run.method} with seed {run.seed} {how}{said}: repeat the command to continue"
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return f"{last.strip()}; {log}"


def time_left(spent: float, done: int, runs: int) -> str:
    """The time left, in words, once a run has shown how long one takes.

    Args:
        spent: Seconds since the first run began.
        done: The number of complete runs.
        runs: The number of all runs.
    """
    if not done:
        return ""
    minutes = spent / done * (runs - done) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1 else ", less than a minute left"


class Process(Protocol):
    """A training in progress."""

    log: Path

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save its state and end."""


class Child:
    """A training in a local process, which ends with this one.

    Args:
        run: The run.
        environment: Variables to add to this process's environment.
    """

    def __init__(self, run: Run, environment: Mapping[str, str]):
        run.folder.wait()
        self.log = run.folder.path.with_suffix(".log")
        with writing(self.log), open(self.log, "w") as printed:
            command = [sys.executable, *run.command]
            self._child = start_child(command, environment, stdout=printed, stderr=printed)
        self.poll = self._child.poll

    def stop(self) -> None:
        """Ask it to save its state and end."""
        self._child.terminate()


def side_by_side(
    runs: Sequence[Run], jobs: int | None, slurm: SlurmOptions | None, folder: Path
) -> Iterator[Run]:
    """Yield each run once it is complete, with a progress bar for all and one per active run.

    A failure is raised once the other active runs are complete.

    Args:
        runs: The runs to train.
        jobs: Runs at a time, which share the cores; None for one here, and for all with Slurm.
        slurm: What a job requests; None for local processes.
        folder: The folder for Slurm's own files.
    """
    queue = Queue(folder, slurm) if slurm else None
    is_here = queue is None or queue.is_here
    slots = list(range(min(jobs or (1 if is_here else len(runs)), len(runs))))[::-1]
    cores = max(1, _cores() // max(1, len(slots))) if is_here else None
    waiting, running = list(runs), {}
    failed, asked = None, []
    begun = time.monotonic()

    def stop(number: int) -> None:
        asked.append(number)
        for each in running.values():
            each.process.stop()

    with on_signals(stop), Bar("all runs", len(runs), patience=0) as bar:
        while running or waiting:
            while slots and waiting and not failed and not asked:
                run, slot = waiting.pop(0), slots.pop()
                if queue:
                    process = queue.submit(run.command, run.folder, cores)
                else:
                    process = Child(run, environment(cores, slot, run.settings))
                running[slot] = _UnderWay(run, process)
            for slot, each in list(running.items()):
                code = each.poll()
                if code is None:
                    continue
                del running[slot]
                slots.append(slot)
                if asked:
                    continue
                if code:
                    failed = failed or failure(each.run, code, each.process.log)
                    continue
                bar.advance()
                left = time_left(time.monotonic() - begun, int(bar.done), len(runs))
                words = (bar.done, len(runs), each.run.method, each.run.seed, left)
                log.info("run %d of %d is complete: %s, seed %d%s", *words)
                yield each.run
            if (failed or asked) and not running:
                break
            time.sleep(LOOK)
    if asked:
        raise Interrupted("stopped: repeat the command to continue")
    if failed:
        raise failed


class _UnderWay:
    """An active run, its process, and the bar of its epochs."""

    def __init__(self, run: Run, process: Process):
        self.run, self.process = run, process
        self._files = [run.folder.metrics]
        if is_of_folds(run.settings):
            self._files = [each.metrics for each in fold_folders(run.folder, run.settings)]
        epochs = run.settings.training.epochs * len(self._files)
        self._stack = ExitStack()
        self._bar = self._stack.enter_context(Bar(f"{run.method}, seed {run.seed}", epochs))
        self._counted = 0.0

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        code = self.process.poll()
        if code is not None:
            self._stack.close()
        elif self._bar.shown and time.monotonic() - self._counted > COUNT:
            self._counted = time.monotonic()
            files = [path for path in self._files if path.is_file()]
            self._bar.update(done=sum(path.read_bytes().count(b"\n") for path in files))
        return code


def environment(
    cores: int | None, slot: int = 0, settings: Settings | None = None
) -> dict[str, str]:
    """Variables to add for a training: its share of the cores, and a GPU.

    Args:
        cores: Threads; None for all. Variables that the user has set stay.
        slot: The run's index among those that run at the same time.
        settings: The settings of the training.
    """
    own = threads(cores)
    if settings is None or settings.training.accelerator == "cpu" or settings.training.devices > 1:
        return own
    gpus = torch.cuda.device_count()
    if gpus > 1:
        named = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        own["CUDA_VISIBLE_DEVICES"] = named.split(",")[slot % gpus]
    return own


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
