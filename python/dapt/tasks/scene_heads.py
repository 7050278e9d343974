"""Heads that label the points of scenes from the cells of a PTv3 encoder."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.models.blocks import init_weights
from dapt.models.drop_path import drop_path_rates
from dapt.models.ptv3 import Ptv3Config, SceneFeatures
from dapt.models.ptv3_layers import Unpooling, scene_stack

DECODER_WIDTH = 64  # largest width of the finest scale


class SceneHead(nn.Module):
    """Computes logits for the cells of the finest scale, and from these for points."""

    levels = ()  # it reads the cells themselves

    @abstractmethod
    def of_cells(self, features: SceneFeatures) -> Tensor:  # [M, num_labels]
        """Logits of the cells of the finest scale.

        Args:
            features: The features of the backbone.
        """

    def forward(self, features: SceneFeatures, points: Tensor) -> Tensor:
        """Logits [B, N, num_labels] for points [B, N, 3].

        A point that the encoder saw has the logits of its cell; any other point has those of
        the nearest three."""
        of_cells, rows = self.of_cells(features), features.rows[0]
        logits = dapt_ext.gather(of_cells[None], rows.view(1, -1)).view(*rows.shape, -1)
        seen = features.centers
        if points.data_ptr() == seen.data_ptr() and points.shape == seen.shape:
            return logits
        return dapt_ext.interpolate(points, seen, logits, k=min(3, seen.shape[1]))


class LinearSceneHead(SceneHead):
    """One layer over the concatenated tokens of all scales, as in the published linear probes.

    Args:
        dims: The widths of the scales' tokens.
        num_labels: Logits of a point.
    """

    def __init__(self, dims: Sequence[int], num_labels: int):
        super().__init__()
        self.dims = tuple(dims)
        self.layer = nn.Linear(sum(dims), num_labels)
        nn.init.trunc_normal_(self.layer.weight, std=0.02)
        nn.init.zeros_(self.layer.bias)

    def of_cells(self, features: SceneFeatures) -> Tensor:
        # multiplied per scale, where there are fewer cells, and then brought to the finest
        weights = self.layer.weight.split(self.dims, 1)
        logits = F.linear(features.tokens[-1], weights[-1], self.layer.bias)
        for scale in reversed(range(len(features.around))):
            coarse = dapt_ext.gather(logits[None], features.around[scale][None])[0]
            logits = F.linear(features.tokens[scale], weights[scale]) + coarse
        return logits


class DecoderSceneHead(SceneHead):
    """The published decoder: per scale, the features of the coarser cells, then blocks, then a
    layer.

    Args:
        config: The settings of the encoder, whose scales and kind of blocks the decoder has.
        num_labels: Logits of a point.
        depth: Blocks of each scale.
    """

    def __init__(self, config: Ptv3Config, num_labels: int, depth: int = 2):
        super().__init__()
        head_dim = config.dims[0] // config.num_heads[0]
        widths = decoder_widths(config)
        rates = drop_path_rates(config.drop_path, depth * len(widths))
        self.ups, self.scales = nn.ModuleList(), nn.ModuleList()
        for scale, width in enumerate(widths):
            coarse = widths[scale + 1] if scale + 1 < len(widths) else config.dims[-1]
            own = rates[scale * depth : (scale + 1) * depth]
            self.ups.append(Unpooling(coarse, config.dims[scale], width))
            self.scales.append(
                scene_stack(width, width // head_dim, config.mlp_ratio, own[::-1], config.rope_base)
            )
        self.layer = nn.Linear(widths[0] if widths else config.dims[-1], num_labels)
        init_weights(self)

    def of_cells(self, features: SceneFeatures) -> Tensor:
        x = features.tokens[-1][None]
        for scale in reversed(range(len(self.ups))):
            x = self.ups[scale](x, features.tokens[scale][None], features.around[scale])
            x = self.scales[scale](x, features.geometries[scale])
        return self.layer(x[0])


def decoder_widths(config: Ptv3Config) -> tuple[int, ...]:
    """The published widths of a decoder.

    They are those of the encoder, but the finest scale has up to 64 channels, in whole heads, if
    the next one has as many.

    Args:
        config: The settings of the backbone.
    """
    head_dim = config.dims[0] // config.num_heads[0]
    *finer, _ = config.dims
    if len(finer) > 1:
        finer[0] = max(min(DECODER_WIDTH, finer[1]) // head_dim * head_dim, head_dim)
    return tuple(finer)


def lovasz_loss(logits: Tensor, truth: Tensor, ignored: int) -> Tensor:
    """The Lovász extension of the Jaccard loss (Berman et al. 2018), a surrogate for 1 - mean IoU.

    It is averaged over the classes that occur.

    Args:
        logits: [P, K].
        truth: int64 [P].
        ignored: The label of points to ignore.
    """
    counts = truth != ignored
    chances, truth = logits[counts].float().softmax(1), truth[counts]
    losses = []
    for label in truth.unique().tolist():
        is_label = (truth == label).float()
        errors, order = (is_label - chances[:, label]).abs().sort(descending=True, stable=True)
        hit = is_label[order]
        total = hit.sum()
        jaccard = 1 - (total - hit.cumsum(0)) / (total + (1 - hit).cumsum(0))
        steps = torch.cat([jaccard[:1], jaccard.diff()])
        losses.append((errors * steps).sum())
    return torch.stack(losses).mean() if losses else logits.sum() * 0.0
