"""How the training clouds of a network were prepared, so that new ones can be prepared alike."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import dapt_ext
from dapt.data.channels import COLUMNS, Channels, all_upright, check_channels
from dapt.data.clouds import check_up, unit_ball
from dapt.data.dataset import PointDataset
from dapt.data.transforms import FarthestPoints
from dapt.errors import check_at_least

MUCH = 4.0  # factor in size or spacing; clouds of one dataset differ by less
MEASURED = 64  # training clouds, and points of each, to measure
_POINTS_MEASURED = 2048

log = logging.getLogger("dapt")


@dataclass(frozen=True)
class Preprocessing:
    """How training clouds were prepared, and how large and how dense they were.

    Args:
        num_points: Points of a cloud, or of a block of a scene, that the network sees.
        normalize: Whether clouds, or blocks, are moved and scaled into the unit ball.
        up: The axis of the files that points up; it is rotated to y.
        channels: What a point has besides its coordinates, in this order: color for [N, 6], normal
            for color and normal [N, 9].
        block: Side of a scene's blocks, in the unit of the scenes; None for objects.
        extent: The distance of the farthest point from the center of a prepared cloud, as a median
            over training clouds.
        spacing: The distance from a point to its nearest neighbor, likewise.
    """

    num_points: int
    normalize: bool = True
    up: str = "y"
    channels: Channels = "xyz"
    block: float | None = None
    extent: float | None = None
    spacing: float | None = None

    def __post_init__(self):
        check_at_least(self, num_points=1)
        check_up(self.up)
        check_channels(self.channels)

    @classmethod
    def of(cls, options: Mapping[str, object], num_points: int) -> "Preprocessing":
        """Take it from the options of a dataset.

        Args:
            options: The options of a run's `data` section.
            num_points: The number of points that the network sees.
        """
        fields = ("normalize", "up", "channels", "block")
        return cls(num_points, **{name: options[name] for name in fields if name in options})

    def measured(self, dataset: PointDataset) -> "Preprocessing":
        """A copy with the size and spacing of a training set's clouds.

        Args:
            dataset: The training set.
        """
        rows = np.unique(np.linspace(0, len(dataset) - 1, MEASURED).astype(int))
        seen = FarthestPoints(self.num_points)(dataset.batch(rows)["points"], None)
        extent, spacing = measures(seen)
        return replace(self, extent=extent, spacing=spacing)

    @property
    def columns(self) -> int:
        """D of the clouds [N, D] that the network sees."""
        return COLUMNS[self.channels]

    def ready(self, points: np.ndarray) -> Tensor:  # [N, D] -> [1, N, D]
        """Prepare all points of a cloud for the network, [1, N, D].

        Args:
            points: [N, D], as in the file.
        """
        points = all_upright(np.asarray(points, np.float64), self.up)
        if self.normalize:
            points = np.concatenate([unit_ball(points[:, :3]), points[:, 3:]], 1)
        return torch.from_numpy(points.astype(np.float32))[None]

    def compare(self, where: str, seen: Tensor) -> None:  # [B, N, D]
        """Warn if clouds differ much from those of the training.

        Args:
            where: The name to use in warnings.
            seen: [B, N, D], as the network sees them.
        """
        remark = self.remark(where, seen)
        if remark is not None:
            log.warning("%s", remark)

    def remark(self, where: str, seen: Tensor) -> str | None:
        """Describe how clouds differ from the training clouds, if labels may suffer; otherwise
        None.

        Args:
            where: The name to use in the sentence.
            seen: [B, N, D], as the network sees them.
        """
        if self.extent is None or not seen.numel():
            return None
        extent, spacing = measures(seen)
        larger, wider = _times(extent, self.extent), _times(spacing, self.spacing)
        if not self.normalize and not 1 / MUCH <= larger <= MUCH:
            return (
                f"{where} is {_said(larger, 'as large')} as the training clouds: labels "
                "may be wrong, give it in the training's unit"
            )
        if not 1 / MUCH <= wider <= MUCH:
            return (
                f"{where} has points {_said(wider, 'as far apart')} as the training's clouds had "
                f"({spacing:.2g} for {self.spacing:.2g}): labels may be wrong"
            )
        return None


def measures(clouds: Tensor) -> tuple[float, float]:  # [B, N, D]
    """(extent, spacing): medians over clouds.

    Args:
        clouds: [B, N, D].
    """
    place = clouds[..., :3].float()
    extent = (place - place.mean(1, keepdim=True)).norm(dim=2).amax(1)
    some = place[:, :_POINTS_MEASURED].contiguous()
    if some.shape[1] < 2:
        return float(extent.median()), 0.0
    squared, _ = dapt_ext.knn(some, place.contiguous(), 2)
    return float(extent.median()), float(squared[..., 1].median(1).values.median().sqrt())


def _times(one: float, other: float | None) -> float:
    return one / other if one and other else 1.0


def _said(times: float, what: str) -> str:
    number = max(times, 1 / times)
    text = f"{number:.0f}" if number >= 10 else f"{number:.1f}"
    return f"{text} times {what}" if times > 1 else f"1/{text} {what}"
