"""The best epoch's weights, kept in step with the checkpoints."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from dapt.files import put_in_place, remove, writing


class Best:
    """The weights of the best epoch, and those of the best one before.

    New ones are written beside; they take their place once a checkpoint that knows them is on the
    disk. So each of the two checkpoints finds its own, wherever the run is killed.

    Args:
        path: The file or folder of the weights.
        weights: The file whose content tells them from others, within the folder.
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
        """Weights that are not yet those of the run; returns their digest.

        Args:
            write: Leaves them at a path.
        """
        with writing(self.path):
            remove(self.fresh)
        write(self.fresh)
        return digest_of(self.fresh / self._weights)

    def publish(self) -> None:
        """What was staged becomes the run's."""
        if self.fresh.exists():
            with writing(self.path):
                put_in_place(self.fresh, self.path, self.before)

    def restore(self, digest: str | None) -> bool:
        """Put those weights in place that a checkpoint knows; False where they are damaged or gone.

        Args:
            digest: Of their file; None where the run had none yet.
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
        """Whether the weights are those that were written.

        Args:
            digest: of the file when it was written; None where that was not noted.
        """
        return digest is None or digest_of(self.file) == digest


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file's content; None where there is no file.

    Args:
        path: of the file.
    """
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
