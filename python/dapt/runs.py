"""A run folder: what a run writes, so that it can be killed at any moment and go on.

config.yaml            the settings, complete
metrics.jsonl          a line for each epoch
adapter/               the best epoch's adapter; of a pre-training backbone.safetensors
last.ckpt              to resume from; previous.ckpt is the one before
result.json            what came out, when the run is complete
tensorboard/           events
"""

import errno
import io
import json
import logging
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from dapt.config import Tree, dump, plain, read_yaml
from dapt.errors import DaptError, UsageError

log = logging.getLogger(__name__)

FORMAT = 1


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file when the system refuses to write it."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or error
        raise DaptError(f"cannot write {path}: {what}") from None


def write_atomically(path: Path, content: bytes) -> None:
    """All of the content or none of it, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)


class RunFolder:
    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.result = self.path / "result.json"
        self.adapter = self.path / "adapter"
        self.backbone = self.path / "backbone.safetensors"
        self.tensorboard = self.path / "tensorboard"
        self.last = self.path / "last.ckpt"
        self.previous = self.path / "previous.ckpt"

    def begin(self, tree: Tree, resume: bool, free: tuple[str, ...]) -> None:
        """Claim the folder for a run with these settings, or find that it goes on with them."""
        if self.config.exists():
            if not resume:
                raise UsageError(
                    f"{self.path} already holds a run: add --resume to go on with it, "
                    "or choose another --out"
                )
            self.check_same(tree, free)
        write_atomically(self.config, dump(tree).encode())

    def check_same(self, tree: Tree, free: tuple[str, ...]) -> None:
        before, now = flatten(read_yaml(self.config)), flatten(plain(tree))
        for key in sorted(before.keys() | now.keys()):
            if key not in free and before.get(key) != now.get(key):
                raise UsageError(
                    f"the run in {self.path} has {key}={before.get(key)}, not {now.get(key)}: "
                    "a run goes on with its own settings, or another --out starts a new one"
                )

    def settings(self) -> Tree:
        if not self.config.is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.yaml")
        return read_yaml(self.config)

    def append_metrics(self, line: Mapping) -> None:
        with writing(self.metrics), open(self.metrics, "a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics_length(self) -> int:
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def truncate_metrics(self, length: int) -> None:
        """Forget the epochs after the checkpoint that the run goes on from."""
        with writing(self.metrics), open(self.metrics, "ab") as file:
            file.truncate(length)

    def write_result(self, result: Mapping) -> None:
        write_atomically(self.result, (json.dumps(plain(result), indent=2) + "\n").encode())

    def save(self, state: Mapping) -> None:
        """Write a checkpoint; the one before is kept until the next."""
        buffer = io.BytesIO()
        length = self.metrics_length()
        torch.save({"format": FORMAT, "metrics_length": length, **state}, buffer)
        fresh = self.path / "next.ckpt"
        write_atomically(fresh, buffer.getvalue())
        with writing(self.last):
            if self.last.exists():
                os.replace(self.last, self.previous)
            os.replace(fresh, self.last)

    def load(self) -> dict | None:
        """The newest checkpoint that is whole, None where the run has not come to one."""
        present = [path for path in (self.last, self.previous) if path.exists()]
        for path in present:
            state = _read_checkpoint(path)
            if state is not None:
                return state
            log.warning("%s is damaged: it is left aside", path)
        if present:
            raise DaptError(f"no checkpoint in {self.path} is whole: start anew with another --out")
        return None


def _read_checkpoint(path: Path) -> dict | None:
    """torch.save writes a zip archive, whose entries carry checksums; None where one is wrong."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file fails in any way
        return None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        return None
    return state


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """{"data": {"train": x}} -> {"data.train": x}"""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
