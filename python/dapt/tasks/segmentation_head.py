"""The head that labels points: tokens from three depths, interpolated from centers to points."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError
from dapt.models.transformer import Features

CATEGORY_DIM = 64


def thirds(depth: int) -> tuple[int, ...]:
    """The blocks that end each third of the network: the fourth, eighth and twelfth of twelve.

    Args:
        depth: Blocks.
    """
    return tuple(sorted({max(depth * third // 3 - 1, 0) for third in (1, 2, 3)}))


def levels_of(backbone: nn.Module) -> tuple[tuple[int, ...], int]:
    """(levels to read, width of their concatenated tokens).

    All scales of a backbone that gives their widths, otherwise three depths of its last stack.

    Args:
        backbone: of any kind.
    """
    dims = getattr(backbone, "level_dims", None)
    if dims is not None:
        return tuple(range(len(dims))), sum(dims)
    levels = thirds(len(backbone.stacks[-1]))
    return levels, backbone.dim * len(levels)


class SegmentationHead(nn.Module):
    """Computes logits for each point; with categories, for objects of a known category.

    A point's features depend only on its position and the tokens around it, so points that the
    backbone has not seen can be labeled, too.

    Args:
        dim: C, the width of the tokens; the widths of the layers follow it.
        num_labels: Logits of a point.
        levels: The levels of the backbone to read.
        num_categories: The number of object categories; 0 for none.
        dropout: The dropout rate before the last layer.
        token_dim: Width of the concatenated levels; C times their number by default.
    """

    def __init__(
        self,
        dim: int,
        num_labels: int,
        levels: Sequence[int],
        num_categories: int = 0,
        dropout: float = 0.5,
        token_dim: int | None = None,
    ):
        super().__init__()
        self.levels = tuple(levels)
        self.num_categories = num_categories
        token_dim = dim * len(self.levels) if token_dim is None else token_dim
        wide, spread, hidden, last = 4 * dim, 8 * dim // 3, 4 * dim // 3, 2 * dim // 3
        if num_categories:
            self.category = nn.Sequential(
                nn.Linear(num_categories, CATEGORY_DIM, bias=False),
                nn.BatchNorm1d(CATEGORY_DIM),
                nn.LeakyReLU(0.2),
            )
        overall_dim = 2 * token_dim + (CATEGORY_DIM if num_categories else 0)
        self.near = nn.Linear(3 + token_dim, wide)  # the point's position and the tokens around it
        self.spread = nn.Sequential(
            *(nn.BatchNorm1d(wide), nn.ReLU()),
            *(nn.Linear(wide, spread), nn.BatchNorm1d(spread), nn.ReLU()),
        )
        self.mix = nn.Linear(spread + overall_dim, hidden)  # the point and the whole cloud
        self.layers = nn.Sequential(
            *(nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, last), nn.BatchNorm1d(last), nn.ReLU()),
            nn.Linear(last, num_labels),
        )

    def forward(
        self, features: Features, points: Tensor, categories: Tensor | None = None
    ) -> Tensor:  # [B, N, 3], [B] -> [B, N, num_labels]
        B, N, _ = points.shape
        tokens = torch.cat(features.levels, 2)  # [B, G, len(levels) * C]
        x = self._near(points, features.centers, tokens).flatten(0, 1)
        x = self.spread(x).view(B, N, -1)

        # what all points of a cloud share is multiplied once per cloud
        point_weight, overall_weight = self.mix.weight.split(
            [x.shape[2], self.mix.in_features - x.shape[2]], 1
        )
        overall = F.linear(self._overall(tokens, categories), overall_weight, self.mix.bias)
        x = F.linear(x, point_weight) + overall[:, None]  # [B, N, hidden]
        return self.layers(x.flatten(0, 1)).view(B, N, -1)

    def _near(self, points: Tensor, centers: Tensor, tokens: Tensor) -> Tensor:
        """Apply the layer over [position, interpolated tokens] before the interpolation.

        Both are linear, and there are fewer tokens than points."""
        position_weight, token_weight = self.near.weight.split([3, tokens.shape[2]], 1)
        spread = dapt_ext.interpolate(
            points, centers, F.linear(tokens, token_weight), k=min(3, centers.shape[1])
        )
        return spread + F.linear(points.to(spread.dtype), position_weight, self.near.bias)

    def _overall(self, tokens: Tensor, categories: Tensor | None) -> Tensor:
        parts = [tokens.amax(1), tokens.mean(1)]
        if self.num_categories:
            parts.append(self._embedded(categories, tokens))
        return torch.cat(parts, 1)  # [B, overall_dim]

    def _embedded(self, categories: Tensor | None, tokens: Tensor) -> Tensor:
        if categories is None or categories.shape != tokens.shape[:1]:
            got = "none" if categories is None else list(categories.shape)
            raise UsageError(
                f"categories must be [{len(tokens)}], one number from 0 to "
                f"{self.num_categories - 1} for each cloud, got {got}"
            )
        # on a GPU, this check would wait for the device
        checks = not torch.compiler.is_compiling() and categories.is_cpu and len(categories)
        if checks and not 0 <= categories.min() <= categories.max() < self.num_categories:
            raise UsageError(
                f"categories must lie in 0 to {self.num_categories - 1}, got {categories.tolist()}"
            )
        each = torch.arange(self.num_categories, device=categories.device)
        return self.category((categories[:, None] == each).to(tokens.dtype))
