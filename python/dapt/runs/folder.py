"""The folder of a run, with everything it needs to resume after being killed at any moment.

config.yaml            the complete settings
metrics.jsonl          one line per epoch
adapter/               the adapter of the best epoch; backbone.safetensors for a pre-training
last.ckpt              the checkpoint to resume from
previous.ckpt          the checkpoint before it, whose best weights are in previous_adapter/
.lock                  held by the process that trains here
result.json            the result, once the run is complete
corruptions.json       scores on corrupted clouds, if a comparison asked for them
clouds.npy             the contribution of each cloud to the score, 1 if correct
tensorboard/           events
"""

import io
import json
import logging
import os
import platform
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from dapt.adapters import adapter_files
from dapt.errors import DaptError, UsageError
from dapt.files import remove, remove_leftovers, sync_folder, write_atomically, writing
from dapt.runs.paths import absolute
from dapt.runs.resuming import check_same
from dapt.runs.settings import Settings, settings_in
from dapt.runs.trees import dump, plain

log = logging.getLogger(__name__)

FORMAT = 1


class RunFolder:
    """The files of a run.

    Args:
        path: The folder; `begin` creates it.
        flags: Settings that replace those of the run when it is read.
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
            patience: The seconds to wait for another process to end.
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
        """Give another process a minute to end, in case it was stopped and is saving its state."""
        if self.path.exists():
            with self.locked(patience=60):
                pass

    def _clean(self) -> None:
        """Remove the half-written files of a killed run."""
        with writing(self.path):
            remove(self.fresh)
            written = (self.config, self.result, self.fresh, self.adapter, self.backbone)
            names = [path.name for path in (*written, self.clouds, self.corruptions)]
            staged = [f"next_{name}" for name in names]
            remove_leftovers(self.path, *names, *staged, ".lock.holder")
            remove_leftovers(self.adapter, *adapter_files.NAMES)

    def _is_begun(self) -> bool:
        """Whether there is anything to resume; a run without a step does not claim the folder."""
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
        """Claim the folder for a new run, or check that the run in it can resume.

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
            check_same(self.config, settings)
        tree = absolute(settings.but(resume=False).tree())
        write_atomically(self.config, dump(tree).encode())

    def settings(self) -> Settings:
        """The settings of the run; the paths of files that moved with it are updated."""
        return settings_in(self.path, self.flags)

    def append_metrics(self, line: Mapping) -> None:
        """Append an epoch's line; it is on disk when this returns.

        Args:
            line: Numbers by name.
        """
        with writing(self.metrics), open(self.metrics, "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def restore_metrics(self, state: Mapping | None) -> None:
        """Restore metrics.jsonl to its content at a checkpoint.

        Args:
            state: The state of the checkpoint; None for the start of the run.
        """
        if state is None:
            before = ""
        elif "metrics" in state:
            before = state["metrics"]
        else:  # an older version recorded only the length
            before = self._metrics_text()[: state["metrics_length"]]
        if before != self._metrics_text():
            write_atomically(self.metrics, before.encode())

    def _metrics_text(self) -> str:
        return self.metrics.read_text(errors="replace") if self.metrics.exists() else ""

    def write_result(self, result: Mapping) -> None:
        """Write result.json.

        Args:
            result: Numbers by name.
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
            scores: The scores at severities 0 to 5, by kind of corruption.
            about: The digest of the scored weights.
        """
        text = json.dumps({"about": about, "scores": scores}, indent=2) + "\n"
        write_atomically(self.corruptions, text.encode())

    def read_corruptions(self, about: str | None = None) -> dict[str, list[float]]:
        """Read corruptions.json; empty if it is missing.

        Args:
            about: The digest of the weights whose scores are wanted; None for any.
        """
        try:
            kept = json.loads(self.corruptions.read_text())
            if about not in (None, kept["about"]):
                return {}
            return {str(k): [float(v) for v in values] for k, values in kept["scores"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def save(self, state: Mapping) -> None:
        """Write a checkpoint and keep the previous one.

        Args:
            state: Anything that `torch.save` accepts.
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


def _read_checkpoint(path: Path) -> dict | None:
    """Read a checkpoint; None if it is damaged, as the checksums in torch's zip archive show."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file may raise any error
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return None
    return state
