"""Runs that are killed at any file-system call, stopped at any moment, or damaged.

After each attack, the same command with `--resume` must end with the same weights, bit for bit, as
an undisturbed run, or report what is wrong in one sentence.
"""

import contextlib
import io
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from attack.harness import Budget, Tally, attack
from dapt import cli
from dapt.adapters import adapter_files
from support.runs import TINY, assert_same_run, clouds

# Audit events that change files; os.replace raises os.rename, too.
CALLS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class Broken(Exception):
    """A promise was broken."""


class RunsAttack:
    """A small run, and the attacks on it.

    Args:
        folder: An empty folder, for this attack only.
        epochs: The number of epochs of the run.
    """

    def __init__(self, folder: Path, epochs: int = 3):
        self.folder = folder
        clouds(folder / "a.npz")
        config = TINY | {"epochs": epochs, "checkpoint_seconds": 0.0}
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
        self.whole = folder / "whole"
        with contextlib.redirect_stderr(io.StringIO()):
            assert self._train(self.whole) == 0
        self.calls = self._count_calls()
        self.half = folder / "half"  # a run stopped in its second epoch
        self._in_child(lambda: self._die_at(self.half, self.calls * 2 // 3))
        assert (self.half / "last.ckpt").exists() and not (self.half / "result.json").exists()

    def kill(self, case: int, seed: int) -> str:
        """Kills the run before a file-system call; each call gets its turn, in random order."""
        order = random.Random(seed).sample(range(self.calls), self.calls)
        at, run = order[case % self.calls], self._fresh()
        self._in_child(lambda: self._die_at(run, at))
        return self._goes_on(run, f"killed before call {at}")

    def stop(self, case: int, seed: int) -> str:
        """Sends a signal at a random moment."""
        chance, run = random.Random(f"{seed} {case}"), self._fresh()
        number, wait = chance.choice(SIGNALS), chance.uniform(0, 1.5)
        self._in_child(lambda: os._exit(self._train(run)), number, wait)
        return self._goes_on(run, f"{number.name} after {wait:.3f} s")

    def flip(self, case: int, seed: int) -> str:
        """Flips a bit of a checkpoint, of the adapter or of the metrics."""
        chance, run = random.Random(f"{seed} {case}"), self._fresh()
        shutil.copytree(self.half, run)
        names = ["last.ckpt"] * 6 + ["previous.ckpt", "metrics.jsonl"]
        path = run / chance.choice([*names, f"adapter/{adapter_files.WEIGHTS}"])
        content = bytearray(path.read_bytes())
        at = chance.randrange(8 * len(content))
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        return self._goes_on(run, f"bit {at} of {path.name}", may_be_found=True)

    def _fresh(self) -> Path:
        run = self.folder / "attacked"
        shutil.rmtree(run, ignore_errors=True)
        return run

    def _goes_on(self, run: Path, what: str, may_be_found: bool = False) -> str:
        """Resumes the run: "resumed", or "found" if it reports damage; otherwise raises
        `Broken`."""
        adapter = run / "adapter"
        try:
            if adapter.exists() and not may_be_found:
                adapter_files.read(adapter)
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                code = self._train(run, "--resume")
            if code and may_be_found and said.getvalue().splitlines()[-1].startswith("dapt train:"):
                return "found"
            assert not code, f"exit code {code}: {said.getvalue()[-300:]}"
            assert_same_run(self.whole, run)
            left = [path.name for path in run.rglob("*") if path.name[0] == "."]
            assert left == [".lock"], f"{left} is left"
            return "resumed"
        except Exception:
            raise Broken(f"{what}: {traceback.format_exc()}") from None

    def _train(self, run: Path, *flags: str) -> int:
        words = ["train", "--config", str(self.folder / "run.yaml"), "--out", str(run)]
        with contextlib.redirect_stdout(io.StringIO()):
            return cli.main([*words, "--data.train", str(self.folder / "a.npz"), *flags])

    def _in_child(
        self, act: Callable[[], None], number: int | None = None, wait: float = 0.0
    ) -> None:
        """Runs in a process of its own, which gets a signal after a while."""
        child = os.fork()
        if child == 0:
            try:
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, 1)
                os.dup2(silence, 2)
                act()
            finally:
                os._exit(1)
        if number is not None:
            time.sleep(wait)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        os.waitpid(child, 0)

    def _die_at(self, run: Path, at: int) -> None:
        left = at

        def count() -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        self._watch(run, count)
        self._train(run)

    def _count_calls(self) -> int:
        """The number of calls in a whole run, counted in a child, because audit hooks are
        permanent."""
        run, tally = self.folder / "counted", self.folder / "calls"

        def count_all() -> None:
            calls = []
            self._watch(run, lambda: calls.append(1))
            self._train(run)
            tally.write_text(str(len(calls)))

        self._in_child(count_all)
        return int(tally.read_text())

    def _watch(self, run: Path, act: Callable[[], None]) -> None:
        inside, sync = str(run), os.fsync

        def hook(event: str, arguments: tuple) -> None:
            if event in CALLS and any(inside in str(argument) for argument in arguments):
                act()

        def fsync(descriptor: int) -> None:  # which has no audit event
            act()
            sync(descriptor)

        os.fsync = fsync
        sys.addaudithook(hook)


def _tally(budget: Budget, attack_once: Callable[[RunsAttack, int, int], str]) -> Tally:
    tally, threads = Tally(), torch.get_num_threads()
    torch.set_num_threads(1)  # children are forked
    try:
        with TemporaryDirectory() as folder:
            runs = RunsAttack(Path(folder))
            for case, _ in budget.numbers():
                try:
                    tally.add(attack_once(runs, case, budget.seed))
                except Broken as error:
                    tally.fail(str(error))
    finally:
        torch.set_num_threads(threads)
    return tally


@attack("runs: killed", small=8)
def killed(budget: Budget) -> Tally:
    """Sends SIGKILL before any file-system call."""
    return _tally(budget, RunsAttack.kill)


@attack("runs: stopped", small=3)
def stopped(budget: Budget) -> Tally:
    """Sends SIGINT, SIGTERM or SIGKILL at any moment."""
    return _tally(budget, RunsAttack.stop)


@attack("runs: damaged", small=10)
def damaged(budget: Budget) -> Tally:
    """Flips a bit in a checkpoint, an adapter or the metrics."""
    return _tally(budget, RunsAttack.flip)
