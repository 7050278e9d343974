"""The wider built-in world for pre-training: more kinds of object, deformed and in any pose."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from dapt.data.registry import register
from dapt.errors import UsageError
from dapt.synthetic.dataset import SETS, Synthetic, SyntheticDataset
from dapt.synthetic.families import FAMILIES, Family
from dapt.synthetic.grammars import KINDS
from dapt.synthetic.scan import scan
from dapt.synthetic.shapes import Dice, centered, sample, turn

POOL = {name: FAMILIES[name] for name in SETS["pretraining"]} | KINDS
_VARIANTS = ("only", "bg", "hardest")


@register("synthetic_wide")
@dataclass(kw_only=True)
class Wide(Synthetic):
    """The wider built-in world, in any pose and without the classes of the scan task.

    Args:
        families: The families: wide for all of them, or names separated by commas.
        domain: The kind of clouds: clean, scan (as a depth camera sees the object) or mixed.
        variant: The variant of scans: only, bg, hardest, or any to draw one of them for each cloud.
        pose: The pose of objects: upright, any, or mixed (half upright, a quarter leaning by up to
            40 degrees, and a quarter in any pose).
        train_size: Number of clouds in the training split.
        test_size: Number of clouds in the test split; 0 for no test split.
        num_points: Points per cloud.
        seed: The seed of all objects; another seed gives other objects.
    """

    families: str = "wide"
    domain: Literal["clean", "scan", "mixed"] = "mixed"
    variant: Literal["only", "bg", "hardest", "any"] = "any"
    pose: Literal["upright", "any", "mixed"] = "mixed"

    FAMILIES: ClassVar[Mapping[str, Family]] = POOL
    SETS: ClassVar[Mapping[str, list[str]]] = {"wide": sorted(POOL)}
    VARIANTS: ClassVar[tuple[str, ...]] = (*_VARIANTS, "any")

    def __post_init__(self):
        super().__post_init__()
        if self.pose not in ("upright", "any", "mixed"):
            raise UsageError(f"pose must be upright, any or mixed, got {self.pose!r}")

    def load(self, split: str) -> "WideDataset":
        """Load a split.

        Args:
            split: "train" or "test".
        """
        super().load(split)  # checks that there is such a split
        return WideDataset(self, split)


class WideDataset(SyntheticDataset):
    """Generated clouds. Cloud i depends only on (seed, split, i).

    Args:
        options: The options of the dataset.
        split: "train" or "test".
    """

    def points(
        self, triangles: np.ndarray, parts: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        dice, options = Dice(rng), self.options
        triangles = turn(centered(warp(triangles, dice)), "y", dice(0, 360))
        if options.domain == "scan" or (options.domain == "mixed" and dice.chance(0.5)):
            variant = dice.pick(*_VARIANTS) if options.variant == "any" else options.variant
            points, part = scan(triangles, parts, variant, options.num_points, rng)
        else:
            points, which = sample(triangles, options.num_points, rng)
            part = parts[which]
        return points @ _pose(options.pose, dice), part


def warp(triangles: np.ndarray, dice: Dice) -> np.ndarray:
    """Stretch an object and, half of the time, taper, twist or bend it along the vertical.

    Args:
        triangles: The triangles of the object, within the unit ball [T, 3, 3].
        dice: The source of random numbers.
    """
    points = triangles * np.exp([dice(-0.25, 0.25), dice(-0.25, 0.25), dice(-0.25, 0.25)])
    if dice.chance(0.5):
        return points
    y = points[..., 1:2]  # [T, 3, 1]
    across = points[..., ::2] * (1 + dice(-0.4, 0.4) * y)
    angle = dice(-0.6, 0.6) * y
    x, z = across[..., :1], across[..., 1:]
    x, z = x * np.cos(angle) - z * np.sin(angle), x * np.sin(angle) + z * np.cos(angle)
    lean = np.array([dice(-0.25, 0.25), dice(-0.25, 0.25)])
    return np.concatenate([x + lean[0] * y**2, y, z + lean[1] * y**2], -1)


def _pose(pose: str, dice: Dice) -> np.ndarray:  # [3, 3]
    """A rotation matrix to multiply from the right."""
    lot = {"upright": 0.0, "any": 1.0, "mixed": dice(0, 1)}[pose]
    if lot < 0.5:
        return np.eye(3)
    if lot < 0.75:
        lean, way = math.radians(dice(0, 40)), dice(0, 2 * math.pi)
        w, x, y, z = (
            math.cos(lean / 2),
            *(math.sin(lean / 2) * np.array([math.cos(way), 0, math.sin(way)])),
        )
    else:
        quaternion = dice.rng.standard_normal(4)
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
