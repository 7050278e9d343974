"""The built-in dataset: each object is generated on the fly from a seed and an index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from dapt.data.clouds import unit_ball
from dapt.data.dataset import PointDataset
from dapt.data.registry import register
from dapt.errors import UsageError, listed
from dapt.synthetic.families import FAMILIES, Family
from dapt.synthetic.scan import scan
from dapt.synthetic.shapes import centered, sample, turn

# ScanObjectNN's classes
SCAN = "bag bin box cabinet chair desk display door shelf table bed pillow sink sofa toilet".split()
# families with three or more parts that are worth distinguishing
PARTS = (
    "airplane bed bicycle bottle car chair desk fan guitar person plant quadruped sink table_lamp "
    "teapot toilet"
).split()
SETS = {
    "all": sorted(FAMILIES),
    "scan": SCAN,
    "pretraining": sorted(set(FAMILIES) - set(SCAN)),
    "parts": PARTS,
}
KEPT_BYTES = 256 << 20  # a split of at most this size is kept in memory once generated


BOUNDS = (  # of the numeric options
    ("train_size", 1, 2**31),
    ("test_size", 0, 2**31),
    ("num_points", 1, 2**22),
    ("seed", 0, 2**63 - 1),
)


@register("synthetic")
@dataclass(kw_only=True)
class Synthetic:
    """Procedural objects of many families; nothing is downloaded or stored.

    Args:
        families: The families: scan (the 15 classes of ScanObjectNN), pretraining (the other
            families), parts (families for part segmentation), all, or names separated by commas.
        domain: The kind of clouds: clean (CAD-like, upright), scan (as a depth camera sees the
            object) or mixed.
        variant: The variant of scans: only (the object alone), bg (with background) or hardest (the
            box around the object is also shifted, turned and scaled).
        train_size: Number of clouds in the training split.
        test_size: Number of clouds in the test split; 0 for no test split.
        num_points: Points per cloud.
        seed: The seed of all objects; another seed gives other objects.
    """

    families: str = "scan"
    domain: Literal["clean", "scan", "mixed"] = "scan"
    variant: Literal["only", "bg", "hardest"] = "hardest"
    train_size: int = 3000
    test_size: int = 1500
    num_points: int = 2048
    seed: int = 0

    FAMILIES: ClassVar[Mapping[str, Family]] = FAMILIES
    SETS: ClassVar[Mapping[str, list[str]]] = SETS
    VARIANTS: ClassVar[tuple[str, ...]] = ("only", "bg", "hardest")

    def __post_init__(self):
        if self.domain not in ("clean", "scan", "mixed"):
            raise UsageError(f"domain must be clean, scan or mixed, got {self.domain!r}")
        if self.variant not in self.VARIANTS:
            *others, last = self.VARIANTS
            choice = f"{', '.join(others)} or {last}"
            raise UsageError(f"variant must be {choice}, got {self.variant!r}")
        for name, least, most in BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:
                bound = f"least {least}" if value < least else f"most {most:,}"
                raise UsageError(f"{name} must be at {bound}, got {value}")

    @property
    def test(self) -> int | None:
        """The number of test clouds; None for no test split."""
        return self.test_size or None

    def names(self) -> list[str]:
        """The names of the families in the dataset."""
        names = self.SETS.get(self.families) or [n.strip() for n in self.families.split(",")]
        for name in names:
            if name not in self.FAMILIES:
                raise UsageError(
                    f"no family of objects is called {name!r}: choose {', '.join(self.SETS)} or "
                    f"some of {listed(sorted(self.FAMILIES), 100)}"
                )
        return names

    def load(self, split: str) -> "SyntheticDataset":
        """Load a split.

        Args:
            split: "train" or "test".
        """
        if split == "test" and not self.test_size:
            raise UsageError("there is no test split with a test_size of 0")
        return SyntheticDataset(self, split)


class SyntheticDataset(PointDataset):
    """Generated clouds. Cloud i depends only on (seed, split, i), not on order, batch or process.

    Parts are numbered across all classes; clean clouds have them as `part_labels`.

    Args:
        options: The options of the dataset.
        split: "train" or "test".
    """

    digested = 4  # a few suffice: clouds are determined by the options

    def __init__(self, options: Synthetic, split: str):
        self.options, self.split = options, split
        self.families = [options.FAMILIES[name] for name in options.names()]
        size = options.train_size if split == "train" else options.test_size
        ends = np.cumsum([0] + [len(family.parts) for family in self.families])
        class_parts = [list(range(a, b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        part_names = [f"{f.name} {part}" for f in self.families for part in f.parts]
        self.first_parts = ends[:-1]
        has_parts = options.domain == "clean"
        super().__init__(
            np.arange(size) % len(self.families),
            [family.name for family in self.families],
            options.num_points,
            part_names if has_parts else (),
            class_parts if has_parts else None,
        )
        kept = size * options.num_points * 12 <= KEPT_BYTES
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if kept else None

    def batch(self, indices) -> dict[str, torch.Tensor]:
        clouds = [self._cloud(int(index)) for index in indices]
        batch = {
            "points": np.stack([points for points, _ in clouds]) if clouds else self._nothing(),
            "labels": self.labels[np.asarray(indices, dtype=np.int64)],
        }
        if self.num_parts:
            parts = [parts for _, parts in clouds]
            batch["part_labels"] = np.stack(parts) if clouds else self._nothing()[..., 0]
            batch["part_labels"] = batch["part_labels"].astype(np.int64)
        return {key: torch.from_numpy(values) for key, values in batch.items()}

    def _nothing(self) -> np.ndarray:
        return np.empty((0, self.num_points, 3), np.float32)

    def _cloud(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._kept is None:
            return self.make(index)
        if index not in self._kept:
            self._kept[index] = self.make(index)
        return self._kept[index]

    def make(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Generate points [N, 3] in the unit ball and their part labels [N], -1 for background.

        Args:
            index: The index of the cloud.
        """
        label, rng = int(self.labels[index]), self.rng(index)
        triangles, parts = self.families[label].surfaces(rng)
        points, part = self.points(centered(triangles), parts, rng)
        part_labels = np.where(part < 0, -1, part + self.first_parts[label])
        return unit_ball(points).astype(np.float32), part_labels

    def rng(self, index: int) -> np.random.Generator:
        """The random generator of everything about a cloud.

        Args:
            index: The index of the cloud.
        """
        key = [self.options.seed, 2 * index + (self.split == "test")]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    def points(
        self, triangles: np.ndarray, parts: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sample points [N, 3] of an object and the part of each [N].

        Args:
            triangles: The triangles of the object, within the unit ball [T, 3, 3].
            parts: The part of each triangle [T].
            rng: The random generator of the cloud.
        """
        options = self.options
        scanned = options.domain == "scan" or (options.domain == "mixed" and rng.random() < 0.5)
        if scanned:
            triangles = turn(triangles, "y", 360 * rng.random())
            return scan(triangles, parts, options.variant, options.num_points, rng)
        points, which = sample(triangles, options.num_points, rng)
        return points, parts[which]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": None if self._kept is None else {}}
