"""The network by which GAPrompt shifts the points of a cloud."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.models.tokenizer import near_origin_of

FREQUENCIES = 4  # in the embedding of the points
SHAPE_WIDTH = 8  # channels of each coarse center, which form the shape feature


class ShiftNetwork(nn.Module):
    """A PointNet++ with two levels of centers that predicts a factor for each coordinate.

    Args:
        tokenizer: The backbone's tokenizer; the finer level has its groups.
        coarse: Number of groups of the coarser level.
        perturbation: How far points are shifted.
        interpolate_from: Number of coarse centers that the shift of a point is interpolated from.
    """

    def __init__(
        self, tokenizer: nn.Module, coarse: int, perturbation: float, interpolate_from: int
    ):
        super().__init__()
        self.perturbation = perturbation
        self.interpolate_from = interpolate_from
        self.near_origin = near_origin_of(tokenizer)
        self.fine_groups = (tokenizer.num_groups, tokenizer.group_size)
        self.coarse_groups = (coarse, max(tokenizer.group_size // 2, 1))
        embedded = 3 * (1 + 2 * FREQUENCIES)
        self.to_fine = Layers(embedded, 64, 32, 64)
        self.to_coarse = Layers(64, 64, 32, SHAPE_WIDTH)
        self.at_fine = Layers(64 + SHAPE_WIDTH, 64, 32)
        self.at_points = Layers(embedded + 32, 32, 32)
        self.out = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 3))
        for layer in self.out:
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The shifted points, and the features of the coarse centers: [B, G / 2, SHAPE_WIDTH]."""
        x = embedded(points)  # [B, N, 27]
        fine = dapt_ext.group(points, *self.fine_groups, near_origin=self.near_origin)
        x_fine = self.to_fine(dapt_ext.gather(x, fine.patch_idx)).amax(2)  # [B, G, 64]
        coarse = dapt_ext.group(fine.centers, *self.coarse_groups, near_origin=self.near_origin)
        x_coarse = self.to_coarse(dapt_ext.gather(x_fine, coarse.patch_idx)).amax(2)

        back = self._interpolated(fine.centers, coarse.centers, x_coarse)
        x_fine = self.at_fine(torch.cat([x_fine, back], 2))
        x = self.at_points(torch.cat([x, self._interpolated(points, fine.centers, x_fine)], 2))
        return points + self.perturbation * self.out(x) * points, x_coarse

    def _interpolated(self, at: Tensor, centers: Tensor, values: Tensor) -> Tensor:
        k = min(self.interpolate_from, centers.shape[1])
        return dapt_ext.interpolate(at, centers, values, k, epsilon=1e-4)


def embedded(points: Tensor) -> Tensor:
    """Concatenate [x, sin x, cos x, sin 2x, cos 2x, sin 4x, ...] in the last dimension.

    Args:
        points: [..., 3].
    """
    waves = [wave(2**k * points) for k in range(FREQUENCIES) for wave in (torch.sin, torch.cos)]
    return torch.cat([points, *waves], -1)


class Layers(nn.Module):
    """Linear, batch norm and ReLU, repeated."""

    def __init__(self, *widths: int):
        super().__init__()
        pairs = list(pairwise(widths))
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for _, b in pairs)

    def forward(self, x: Tensor) -> Tensor:  # [..., D]
        shape = x.shape[:-1]
        x = x.flatten(0, -2)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = F.relu(norm(linear(x)))
        return x.unflatten(0, shape)
