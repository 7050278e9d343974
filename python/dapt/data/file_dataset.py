"""The base of all datasets of files: their common options, and reading through the cache."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

from dapt.data.cache import load_converted
from dapt.data.convert import Source, write_arrays
from dapt.data.dataset import ArrayDataset
from dapt.errors import DataError, UsageError, reading


@dataclass(kw_only=True)
class FileDataset:  # not an ABC: the config parser would not treat it as a plain dataclass
    """The base class of datasets of files, which add `files`, `read` and their own options.

    Args:
        cache: The folder for the converted copy; by default `dapt_cache` beside the source files.
        num_points: The number of points to keep per cloud, by farthest point sampling; all by
            default.
        normalize: Whether each cloud is centered and scaled to the unit ball.
    """

    cache: Path | None = None
    num_points: int | None = None
    normalize: bool = True

    PATHS = ("cache", "root", "train", "test", "groups")

    def __post_init__(self):
        for field in self.PATHS:
            if getattr(self, field, None) is not None:
                setattr(self, field, Path(getattr(self, field)).expanduser())
        if self.num_points is not None and self.num_points < 1:
            raise UsageError(f"num_points must be at least 1, got {self.num_points}")

    @abstractmethod
    def files(self, split: str) -> list[Path]:
        """The source files; if one of them changes, the copy is rebuilt.

        Args:
            split: "train" or "test".
        """

    @abstractmethod
    def read(self, split: str) -> Source:
        """The content of the files.

        Args:
            split: "train" or "test".
        """

    def home(self, split: str) -> Path:
        """The folder of the source files, where the copy is stored by default.

        Args:
            split: "train" or "test".
        """
        return self.root

    def label(self, split: str) -> str:
        """The readable part of the copy's name.

        Args:
            split: "train" or "test".
        """
        return f"{self.name}-{split}"

    def load(self, split: str) -> ArrayDataset:
        """Load a split from its converted copy.

        Args:
            split: "train" or "test".
        """
        return load_converted(
            files=self.files(split),
            options={key: value for key, value in vars(self).items() if key not in self.PATHS},
            label=self.label(split),
            home=self.home(split),
            chosen=self.cache,
            convert=lambda folder: write_arrays(
                self.read(split), self.num_points, self.normalize, folder
            ),
        )


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file, without blank ones.

    Args:
        path: The text file.
    """
    with reading(path):
        lines = [line.strip() for line in path.read_text().splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path} is empty")
    return lines
