"""A run folder: what a run writes, so that it can be killed at any moment and resume.

config.yaml            the settings, complete
metrics.jsonl          one line per epoch
adapter/               the best epoch's adapter; backbone.safetensors for a pre-training
last.ckpt              to resume from; previous.ckpt is the one before, with previous_adapter/
.lock                  held by the process that trains here
result.json            the result, when the run is complete
corruptions.json       scores on corrupted clouds, if a comparison asked for them
clouds.npy             the contribution of each cloud to the score, 1 if correct
tensorboard/           events
"""

import dataclasses
import io
import json
import logging
import os
import platform
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from dapt.adapters import adapter_files
from dapt.adapters.hub import Provenance
from dapt.data.file_dataset import FileDataset
from dapt.errors import DaptError, UsageError
from dapt.files import remove, remove_leftovers, sync_folder, write_atomically, writing
from dapt.runs.options import TrainOptions
from dapt.runs.paths import absolute, found
from dapt.runs.settings import Settings, settings_in
from dapt.runs.trees import dump, flatten, plain, read_yaml

log = logging.getLogger(__name__)

FORMAT = 1
SCORES = ("accuracy", "miou")  # what the names of scores end in


class RunFolder:
    """The files of a run.

    Args:
        path: The folder; `begin` creates it.
        flags: Settings that replace those of the run for the reader.
    """

    def __init__(self, path: str | Path, flags: Sequence[str] = ()):
        self.path, self.flags = Path(path), tuple(flags)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.clouds = self.path / "clouds.npy"
        self.corruptions = self.path / "corruptions.json"
        self.adapter = self.path / "adapter"
        self.backbone = self.path / "backbone.safetensors"
        self.tensorboard = self.path / "tensorboard"
        self.last = self.path / "last.ckpt"
        self.previous = self.path / "previous.ckpt"
        self.fresh = self.path / "next.ckpt"

    @contextmanager
    def locked(self, patience: float = 0.0) -> Iterator[None]:
        """Keep other processes from training here; the system releases a dead process's lock.

        Args:
            patience: Seconds to wait for another process to end.
        """
        lock, holder = FileLock(self.path / ".lock"), self.path / ".lock.holder"
        is_new = not self.path.exists()
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=patience)
            except Timeout:
                who = holder.read_text() if holder.is_file() else "another process"
                raise UsageError(
                    f"{self.path} is in use by {who}: wait for it to end, or choose another --out"
                ) from None
        try:
            self._clean()
            write_atomically(holder, f"process {os.getpid()} on {platform.node()}".encode())
            yield
        except BaseException:
            self._forget()
            raise
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
            if is_new and not self._is_begun():
                self._leave_nothing()

    def wait(self) -> None:
        """Give another process a minute to end: a stopped one is still saving its state."""
        if self.path.exists():
            with self.locked(patience=60):
                pass

    def _clean(self) -> None:
        """Remove half-written files of a killed run."""
        with writing(self.path):
            remove(self.fresh)
            written = (self.config, self.result, self.fresh, self.adapter, self.backbone)
            names = [path.name for path in (*written, self.clouds, self.corruptions)]
            staged = [f"next_{name}" for name in names]
            remove_leftovers(self.path, *names, *staged, ".lock.holder")
            remove_leftovers(self.adapter, *adapter_files.NAMES)

    def _is_begun(self) -> bool:
        """Whether there is anything to resume: a run without a step does not claim the folder."""
        files = (self.last, self.previous, self.result, self.adapter, self.backbone)
        return any(path.exists() for path in (*files, *self.path.glob("fold_*")))

    def _forget(self) -> None:
        """Remove the traces of a failed start, so that the next one can begin."""
        if self.config.exists() and not self._is_begun():
            for path in (self.config, self.metrics, self.tensorboard):
                remove(path)

    def _leave_nothing(self) -> None:
        (self.path / ".lock").unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds other files
            self.path.rmdir()

    def begin(self, settings: Settings) -> None:
        """Claim the folder for a run, or check that the run in it can resume.

        Args:
            settings: The settings of the run.
        """
        self._forget()
        if self.config.exists():
            if not settings.training.resume:
                raise UsageError(
                    f"{self.path} already holds a run: add --resume to continue it, "
                    "or choose another --out"
                )
            self.check_same(settings)
        tree = absolute(settings.but(resume=False).tree())
        write_atomically(self.config, dump(tree).encode())

    def check_same(self, settings: Settings) -> None:
        """Refuse other settings than the run has, except those that do not change its result.

        Args:
            settings: The settings to resume with.
        """
        before, now = (found(tree, self.path) for tree in (read_yaml(self.config), settings.tree()))
        before, now = _defaults(settings.training) | flatten(before), flatten(now)
        for key in sorted(before.keys() | now.keys()):
            if key in settings.training.FREE or before.get(key) == now.get(key):
                continue
            if key == "epochs":
                self._check_longer(settings, int(before[key]))
                continue
            raise UsageError(
                f"the run in {self.path} has {key}={before.get(key)}, not {now.get(key)}: "
                "a run resumes with its own settings; to change them, choose another --out"
            )

    def _check_longer(self, settings: Settings, before: int) -> None:
        """More epochs continue a run only if its learning rate does not decay."""
        training = settings.training
        if training.epochs > before and training.min_learning_rate == training.learning_rate:
            return
        raise UsageError(
            f"the run in {self.path} has epochs={before}, not {training.epochs}: its learning rate "
            f"decays over {before} epochs, so {training.epochs} need another --out; only a run "
            "with min_learning_rate equal to learning_rate can be extended"
        )

    def settings(self) -> Settings:
        """The run's settings, with the paths of files that moved with it."""
        return settings_in(self.path, self.flags)

    def provenance(self) -> dict[str, str]:
        """The data and scores of the run, as far as recorded; empty if there is no run."""
        told = {}
        if self.config.is_file():
            data = read_yaml(self.config).get("data")
            if isinstance(data, dict):
                fields = {k: v for k, v in data.items() if v is not None and k != "name"}
                listed = ", ".join(f"{key}={value}" for key, value in fields.items())
                told["data"] = f"{data.get('name')}: {listed}"
        score = self._score()
        return told | ({"score": score} if score else {})

    def _score(self) -> str | None:
        """The score in the result; None if there is no complete one."""
        known = self._result()
        if known is None:
            return None
        name = known["metric"]
        return f"{name} {known[name]:.4f} on the {known['split']} split, seed {known['seed']}"

    def _result(self) -> dict | None:
        """The result; None if there is no complete one."""
        try:
            result = json.loads(self.result.read_text())
            float(result[result["metric"]]), result["split"], result["seed"]
            return result
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def card(self) -> Provenance:
        """The run's data and scores for publication, without paths on this machine."""
        data = self.settings().data
        files = [Path(data.get(key)).name for key in FileDataset.PATHS if data.get(key)]
        told = f"{data.name} ({', '.join(files)})" if files else data.name
        result = self._result()
        if result is None:
            return Provenance(told)
        first = result["metric"]
        scores = {
            key: value
            for key, value in result.items()
            if isinstance(value, float) and key.endswith(SCORES) and "validation" not in key
        }
        return Provenance(told, {first: float(result[first])} | scores, result["split"])

    def append_metrics(self, line: Mapping) -> None:
        """Append an epoch's line; it is on disk when this returns.

        Args:
            line: Numbers by their names.
        """
        with writing(self.metrics), open(self.metrics, "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def restore_metrics(self, state: Mapping | None) -> None:
        """Restore the metrics to those at the checkpoint, whatever is in the file.

        Args:
            state: The state of the checkpoint; None starts from the beginning.
        """
        if state is None:
            before = ""
        elif "metrics" in state:
            before = state["metrics"]
        else:  # old checkpoints that recorded only the length
            before = self._metrics_text()[: state["metrics_length"]]
        if before != self._metrics_text():
            write_atomically(self.metrics, before.encode())

    def _metrics_text(self) -> str:
        return self.metrics.read_text(errors="replace") if self.metrics.exists() else ""

    def write_result(self, result: Mapping) -> None:
        """Write result.json.

        Args:
            result: Numbers by their names.
        """
        write_atomically(self.result, (json.dumps(plain(result), indent=2) + "\n").encode())

    def write_clouds(self, clouds: np.ndarray) -> None:
        """Write clouds.npy.

        Args:
            clouds: [S], in the order of the data.
        """
        buffer = io.BytesIO()
        np.save(buffer, clouds, allow_pickle=False)
        write_atomically(self.clouds, buffer.getvalue())

    def read_clouds(self) -> np.ndarray | None:
        """Read clouds.npy; None if it is missing or incomplete."""
        try:
            return np.load(self.clouds, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None

    def write_corruptions(self, scores: Mapping[str, Sequence[float]], about: str) -> None:
        """Write corruptions.json.

        Args:
            scores: By kind, the scores at severities 0 to 5.
            about: The digest of the scored weights.
        """
        text = json.dumps({"about": about, "scores": scores}, indent=2) + "\n"
        write_atomically(self.corruptions, text.encode())

    def read_corruptions(self, about: str | None = None) -> dict[str, list[float]]:
        """Read corruptions.json; empty if it is missing.

        Args:
            about: The digest that the scored weights must have; None for any.
        """
        try:
            kept = json.loads(self.corruptions.read_text())
            if about not in (None, kept["about"]):
                return {}
            return {str(k): [float(v) for v in values] for k, values in kept["scores"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def save(self, state: Mapping) -> None:
        """Write a checkpoint, and keep the previous one.

        Args:
            state: What `torch.save` takes.
        """
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "metrics": self._metrics_text(), **state}, buffer)
        write_atomically(self.fresh, buffer.getvalue())
        with writing(self.last):
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(self.fresh, self.last)
            sync_folder(self.path)

    def load(self) -> dict | None:
        """Load the newest undamaged checkpoint; None if the run has none yet."""
        present = [path for path in (self.last, self.previous) if path.exists()]
        for path in present:
            state = _read_checkpoint(path)
            if state is not None:
                return state
            log.warning("%s is damaged: ignoring it", path)
        if present:
            raise DaptError(
                f"every checkpoint in {self.path} is damaged: start again with another --out"
            )
        return None


def _defaults(training: TrainOptions) -> dict:
    """What older runs did before an option existed."""
    fields = dataclasses.fields(training)
    return {each.name: each.default for each in fields if each.default is not MISSING}


def _read_checkpoint(path: Path) -> dict | None:
    """Read a checkpoint; None if a checksum in torch's zip archive is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file may raise anything
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return None
    return state
