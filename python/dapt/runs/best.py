"""The best epoch's weights, kept in step with the checkpoints."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from dapt.files import put_in_place, remove, writing


class Best:
    """The weights of the best epoch, and those of the best one before.

    New weights are first written next to the old ones, and replace them once a checkpoint that
    refers to them is on disk. So each of the two checkpoints always finds its own.

    Args:
        path: The file or folder of the weights.
        weights: The file in the folder whose content identifies the weights.
    """

    def __init__(self, path: Path, weights: str = ""):
        self.path, self._weights = path, weights
        self.fresh = path.with_name(f"next_{path.name}")
        self.before = path.with_name(f"previous_{path.name}")

    @property
    def file(self) -> Path:
        """Where the weights are."""
        return self.path / self._weights

    def stage(self, write: Callable[[Path], None]) -> str:
        """Write weights without publishing them yet; returns their digest.

        Args:
            write: Writes the weights to a path.
        """
        with writing(self.path):
            remove(self.fresh)
        write(self.fresh)
        return digest_of(self.fresh / self._weights)

    def publish(self) -> None:
        """Make the staged weights those of the run."""
        if self.fresh.exists():
            with writing(self.path):
                put_in_place(self.fresh, self.path, self.before)

    def restore(self, digest: str | None) -> bool:
        """Restore the weights that a checkpoint refers to; False if they are damaged or missing.

        Args:
            digest: The digest of their file; None if the run had none yet.
        """
        found = digest is None or digest_of(self.file) == digest
        with writing(self.path):
            for candidate in (self.fresh, self.before):
                if not found and digest_of(candidate / self._weights) == digest:
                    put_in_place(candidate, self.path)
                    found = True
            remove(self.fresh)
        return found

    def is_whole(self, digest: str | None) -> bool:
        """Whether the weights are unchanged since they were written.

        Args:
            digest: The digest of the file when it was written; None if it was not recorded.
        """
        return digest is None or digest_of(self.file) == digest


def digest_of(path: Path) -> str | None:
    """The SHA-256 of a file's content; None if there is no file.

    Args:
        path: The file.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
