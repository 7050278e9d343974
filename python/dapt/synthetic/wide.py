"""The wider built-in world, to pre-train on: more kinds, bent and twisted, in any pose."""

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
    """The wider built-in world: no kind that the scan task asks for, in any pose.

    Args:
        families: Wide (all that there are) or names with commas between them.
        domain: Clean, scan (what a depth camera sees) or mixed.
        variant: of a scan: only, bg, hardest, or any for one of them drawn for each cloud.
        pose: upright, any, or mixed: half upright, a quarter leaning by up to 40 degrees, and a
            quarter in any pose.
        train_size: Clouds of the training split.
        test_size: Clouds of the test split; no test split with 0.
        num_points: Points of each cloud.
        seed: Another seed is another set of objects.
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
        """A split of it.

        Args:
            split: "train" or "test".
        """
        super().load(split)  # says whether there is such a split
        return WideDataset(self, split)


class WideDataset(SyntheticDataset):
    """Cloud i is a function of (seed, split, i) alone.

    Args:
        options: Which clouds.
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
    """Stretched, and half of the time tapered, twisted or bent along the vertical.

    Args:
        triangles: [T, 3, 3], within the unit ball.
        dice: What it is drawn from.
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
    """A rotation to be multiplied by from the right."""
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
