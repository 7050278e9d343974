"""Points -> patches -> tokens: the mini-PointNet that stands in front of every network here."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext


class PatchEncoder(nn.Module):
    """One token per patch: a PointNet of two halves, each ending in a maximum over the points."""

    def __init__(self, in_dim: int, widths: tuple[int, int, int], out_dim: int):
        super().__init__()
        self.out_dim = out_dim
        first, middle, last = widths
        self.first = nn.Sequential(
            nn.Linear(in_dim, first), nn.BatchNorm1d(first), nn.ReLU(), nn.Linear(first, middle)
        )
        self.second = nn.Sequential(
            nn.Linear(2 * middle, last), nn.BatchNorm1d(last), nn.ReLU(), nn.Linear(last, out_dim)
        )

    def forward(self, patches: Tensor) -> Tensor:  # [B, G, K, D] -> [B, G, C]
        if self._learns(patches):
            return self._encode_layerwise(patches)
        return dapt_ext.patch_encoder(patches, self.folded_weights())

    def _learns(self, patches: Tensor) -> bool:
        """Whether batch norms count, or a gradient flows: then no weight can be folded."""
        if self.first[1].training or self.second[1].training:
            return True
        tensors = (patches, *self.parameters())
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def _encode_layerwise(self, patches: Tensor) -> Tensor:
        B, G, K, _ = patches.shape
        points = self.first(patches.flatten(0, 2)).view(B * G, K, -1)  # [BG, K, middle]
        overall = points.amax(1)  # [BG, middle]

        # The published layer sees [overall, point]; its product with `overall` is the same for
        # every point of a patch, so it is made once per patch.
        mix, norm, act, out = self.second
        overall_weight, point_weight = mix.weight.chunk(2, dim=1)
        hidden = F.linear(points, point_weight, mix.bias)
        hidden = hidden + F.linear(overall, overall_weight)[:, None]  # [BG, K, last]
        hidden = act(norm(hidden.flatten(0, 1)))
        return out(hidden).view(B, G, K, -1).amax(2)

    def folded_weights(self) -> dapt_ext.PatchEncoderWeights:
        """The weights with the batch norms' running statistics folded in."""
        conv1, norm1, _, conv2 = self.first
        conv3, norm2, _, conv4 = self.second
        weight1, bias1 = _fold(conv1, norm1)
        weight3, bias3 = _fold(conv3, norm2)
        overall_weight, point_weight = weight3.chunk(2, dim=1)
        return dapt_ext.PatchEncoderWeights(
            weight1, bias1, conv2.weight, conv2.bias,
            overall_weight, point_weight, bias3, conv4.weight, conv4.bias,
        )  # fmt: skip


def _fold(linear: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    return dapt_ext.fold_batch_norm(
        linear.weight,
        linear.bias,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
    )


class Tokenizer(nn.Module):
    """Groups a cloud into patches around sampled centers and encodes each patch as a token."""

    def __init__(self, num_groups: int, group_size: int, encoder: PatchEncoder, project: nn.Module):
        super().__init__()
        self.num_groups = num_groups
        self.group_size = group_size
        self.encoder = encoder
        self.project = project  # encoder width -> network width; an identity where they agree

    def group(self, points: Tensor) -> dapt_ext.Groups:
        return dapt_ext.group(points, self.num_groups, self.group_size)

    def encode(self, patches: Tensor) -> Tensor:  # [B, G, K, D] -> [B, G, C]
        return self.project(self.encoder(patches))

    @property
    def dim(self) -> int:
        """Width of the tokens."""
        identity = isinstance(self.project, nn.Identity)
        return self.encoder.out_dim if identity else self.project.out_features

    def extra_repr(self) -> str:
        return f"num_groups={self.num_groups}, group_size={self.group_size}"


class SinCosEmbedding(nn.Sequential):
    """Two layers over sines and cosines of the centers, as PCP-MAE has them.

    C/6 frequencies, 10000^(-k / (C/6)); per axis all sines, then all cosines; the coordinates are
    not scaled.
    """

    def __init__(self, dim: int):
        super().__init__(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.num_frequencies = dim // 6

    def forward(self, centers: Tensor) -> Tensor:  # [B, G, 3] -> [B, G, C]
        steps = torch.arange(self.num_frequencies, device=centers.device, dtype=torch.float64)
        frequencies = 10000.0 ** (-steps / self.num_frequencies)
        angles = centers[..., None] * frequencies.to(centers.dtype)
        return super().forward(torch.cat([angles.sin(), angles.cos()], -1).flatten(-2))


def position_embedding(hidden: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, dim))
