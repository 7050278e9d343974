"""Killed between any two disk operations, a run resumes bit for bit and its adapter always loads.

The operations that count are `os.replace`, `os.rename`, `os.fsync` and the exchange of two folders;
a process that dies performs none after the given one. tests/attack has real kills.
"""

import json
import os
from collections.abc import Callable

import pytest

from dapt import files
from dapt.adapters import adapter_files
from dapt.files import write_folder
from dapt.runs.folder import RunFolder
from support.runs import assert_same_run

pytestmark = pytest.mark.usefixtures("one_thread")
STEPS = ((os, "replace"), (os, "rename"), (os, "fsync"), (files, "_exchange"))


class Killed(BaseException):
    """Like SIGKILL: cleanup handlers cannot touch the disk either."""


def count_steps(monkeypatch, die_after: int, observe: Callable = lambda: None) -> list:
    """Counts disk operations; after the given one, none takes effect."""
    done = []

    def counted(call):
        def step(*arguments, **options):
            if len(done) > die_after:
                raise Killed
            result = call(*arguments, **options)
            done.append(call.__name__)
            observe()
            if len(done) > die_after:
                raise Killed
            return result

        return step

    def dead(call):
        def unless_dead(*arguments, **options):
            if len(done) > die_after:
                raise Killed
            return call(*arguments, **options)

        return unless_dead

    for module, name in STEPS:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    for name in ("unlink", "rmdir"):
        monkeypatch.setattr(os, name, dead(getattr(os, name)))
    return done


@pytest.fixture
def rising(monkeypatch):
    """Makes each epoch better than the one before, so that each saves an adapter."""
    from dapt.training.best_epoch import BestEpoch

    monkeypatch.setattr(BestEpoch, "_is_better", lambda self, line: "validation_accuracy" in line)


def adapter_or_none(folder):
    return adapter_files.read(folder / "adapter") if (folder / "adapter").exists() else None


def test_killed_after_every_step_on_the_disk(run, rising, monkeypatch):
    whole, _ = run("whole", epochs=2)
    with monkeypatch.context() as patch:
        counted = count_steps(patch, 10**9)
        run("counted", epochs=2)
    assert len(counted) > 30
    writes_best = counted.index("_exchange")  # around the second epoch's exchange, and some others
    for at in {*range(writes_best - 6, writes_best + 4), *range(3, len(counted), 11)}:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            count_steps(patch, at)
            run(f"at_{at}", epochs=2)
        folder = whole.parent / f"at_{at}"
        adapter_or_none(folder)  # must load
        folder, code = run(f"at_{at}", "--resume", epochs=2)
        assert code == 0, at
        assert_same_run(whole, folder)
        names = {path.name for path in folder.rglob("*")}
        assert not [name for name in names if ".next" in name or "next_" in name], at
        assert [name for name in names if name.startswith(".")] == [".lock"], at


def test_a_damaged_checkpoint_finds_the_best_adapter_of_its_time(run, rising):
    """The previous checkpoint refers to an adapter that has since been replaced."""
    whole, _ = run("whole")
    last = RunFolder(whole).last
    last.write_bytes(last.read_bytes()[:-100])
    before = (whole / "adapter" / adapter_files.WEIGHTS).read_bytes()
    assert run("whole", "--resume")[1] == 0
    assert (whole / "adapter" / adapter_files.WEIGHTS).read_bytes() == before


def test_what_a_kill_left_goes_at_the_next_start(run):
    folder, _ = run("x")
    left = [".next.ckpt.123", ".config.yaml.77", "next.ckpt"]
    left += [".result.json.12-34", "adapter/.adapter_model.safetensors.9"]
    for name in left:
        (folder / name).write_bytes(b"half")
    (folder / ".adapter.12-3").mkdir()
    kept = [".mine.5", "adapter.5"]
    for name in kept:
        (folder / name).write_bytes(b"the user's")
    assert run("x", "--resume")[1] == 0
    assert not any((folder / name).exists() for name in [*left, ".adapter.12-3"])
    assert all((folder / name).exists() for name in kept)


@pytest.mark.parametrize("harm", ["lost", "shortened", "another's"])
def test_metrics_are_whole_again_after_resume(run, monkeypatch, harm):
    whole, _ = run("whole")
    run("parts", epochs=3)
    path = whole.parent / "parts" / "metrics.jsonl"
    if harm == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:50] if harm == "shortened" else b"\x00\xff\n")
    assert run("parts", "--resume")[1] == 0
    assert_same_run(whole, whole.parent / "parts")
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_a_folder_is_replaced_in_one_step(tmp_path, monkeypatch):
    """Between any two disk operations it holds either all of the old files or all of the new
    ones."""
    folder, seen = tmp_path / "adapter", set()

    def observe():
        seen.add(tuple(path.read_text() for path in sorted(folder.iterdir())))

    write_folder(folder, {"a": b"old", "b": b"old"})
    count_steps(monkeypatch, 10**9, observe)
    write_folder(folder, {"a": b"new", "b": b"new"})
    assert seen == {("old", "old"), ("new", "new")}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("swaps", [True, False])
def test_other_files_of_a_folder_stay(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    write_folder(tmp_path / "out", {"a": b"old"})
    write_folder(tmp_path / "out", {"a": b"newer"})
    assert (tmp_path / "out" / "a").read_bytes() == b"newer"
    (tmp_path / "out" / "README.md").write_text("mine")
    monkeypatch.chdir(tmp_path / "out")
    write_folder(".", {"a": b"newest"})
    assert {p.name: p.read_text() for p in (tmp_path / "out").iterdir()} == {
        "a": "newest",
        "README.md": "mine",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
