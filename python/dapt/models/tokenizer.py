"""Points -> patches -> tokens: the mini-PointNet in front of the transformers."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError


def as_weights(x: Tensor, module: nn.Module) -> Tensor:
    """Cast a tensor to the dtype of a module's weights; coordinates are always float32.

    Args:
        x: Any tensor.
        module: A module with parameters.
    """
    return x.to(next(module.parameters()).dtype)


class PatchEncoder(nn.Module):
    """Encodes each patch as one token: a PointNet of two halves that each end in a maximum over the
    points.

    Args:
        in_dim: D, the number of channels per point.
        widths: The widths of the inner layers: two or more in the first half, one in the second.
        out_dim: C, the width of the tokens.
    """

    def __init__(self, in_dim: int, widths: tuple[int, ...], out_dim: int):
        super().__init__()
        self.in_dim = in_dim
        self.out_dim = out_dim
        if len(widths) < 2:
            raise UsageError(f"encoder_widths must be at least two numbers, got {list(widths)}")
        *inner, middle, last = widths
        layers = []
        for width in inner:
            layers += [nn.Linear(in_dim, width), nn.BatchNorm1d(width), nn.ReLU()]
            in_dim = width
        self.first = nn.Sequential(*layers, nn.Linear(in_dim, middle))
        self.second = nn.Sequential(
            nn.Linear(2 * middle, last), nn.BatchNorm1d(last), nn.ReLU(), nn.Linear(last, out_dim)
        )

    def forward(self, patches: Tensor) -> Tensor:  # [B, G, K, D] -> [B, G, C]
        patches = as_weights(patches, self)
        if self._learns(patches):
            return self._encode_layerwise(patches)
        *before, conv, norm, _, _ = self.first  # the fused op covers two layers of the first half
        for linear, its_norm in zip(before[::3], before[1::3], strict=True):
            patches = F.relu(F.linear(patches, *_fold(linear, its_norm)))
        return dapt_ext.patch_encoder(patches, self._folded_weights(conv, norm))

    def _learns(self, patches: Tensor) -> bool:
        """Whether batch norms update or a gradient flows, so that norms cannot be folded."""
        if any(norm.training for norm in (*self.first[1::3], self.second[1])):
            return True
        tensors = (patches, *self.parameters())
        return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)

    def _encode_layerwise(self, patches: Tensor) -> Tensor:
        B, G, K, _ = patches.shape
        points = self.first(patches.flatten(0, 2)).view(B * G, K, -1)  # [BG, K, middle]
        overall = points.amax(1)  # [BG, middle]

        # The published layer reads [overall, point]; its product with `overall` is the same for
        # every point of a patch, so it is computed once per patch.
        mix, norm, act, out = self.second
        overall_weight, point_weight = mix.weight.chunk(2, dim=1)
        hidden = F.linear(points, point_weight, mix.bias)
        hidden = hidden + F.linear(overall, overall_weight)[:, None]  # [BG, K, last]
        hidden = act(norm(hidden.flatten(0, 1)))
        return out(hidden).view(B, G, K, -1).amax(2)

    def _folded_weights(
        self, conv1: nn.Linear, norm1: nn.BatchNorm1d
    ) -> dapt_ext.PatchEncoderWeights:
        """The weights with the batch norms' running statistics folded in."""
        conv2 = self.first[-1]
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


NearOrigin = Literal["keep", "skip"]


class Tokenizer(nn.Module):
    """Groups a cloud into patches around sampled centers and encodes each patch as a token.

    Args:
        num_groups: G, the number of patches per cloud.
        group_size: K, the number of points per patch.
        encoder: Encodes each patch as a vector.
        project: Projects the encoder's width to the network's; an identity if they are equal.
        near_origin: "skip" samples no center near the origin, as the published networks do.
    """

    def __init__(
        self,
        num_groups: int,
        group_size: int,
        encoder: PatchEncoder,
        project: nn.Module,
        near_origin: NearOrigin = "keep",
    ):
        super().__init__()
        self.num_groups = num_groups
        self.group_size = group_size
        self.encoder = encoder
        self.project = project
        self.near_origin = near_origin

    def group(
        self, points: Tensor, num_groups: int | None = None, group_size: int | None = None
    ) -> dapt_ext.Groups:
        """Group points into the network's patches, or into another number and size of patches.

        Args:
            points: [B, N, 3].
            num_groups: G; None for the network's own.
            group_size: K; None for the network's own.
        """
        if points.dim() == 3 and points.shape[2] > 3:
            raise UsageError(
                f"points must be [B, N, 3], got {list(points.shape)}: this network reads "
                "coordinates only: pass points[..., :3]"
            )
        G, K = num_groups or self.num_groups, group_size or self.group_size
        return dapt_ext.group(points, G, K, near_origin=self.near_origin)

    def encode(self, patches: Tensor) -> Tensor:  # [B, G, K, D] -> [B, G, C]
        """Encode patches as tokens.

        Args:
            patches: [B, G, K, D].
        """
        return self.project(self.encoder(patches))

    @property
    def in_channels(self) -> int:
        """The number of channels per point that are read, the three coordinates included."""
        return self.encoder.in_dim

    @property
    def dim(self) -> int:
        """The width of the tokens."""
        identity = isinstance(self.project, nn.Identity)
        return self.encoder.out_dim if identity else self.project.out_features

    def extra_repr(self) -> str:
        skips = ", near_origin='skip'" if self.near_origin == "skip" else ""
        return f"num_groups={self.num_groups}, group_size={self.group_size}{skips}"


def near_origin_of(tokenizer: nn.Module) -> NearOrigin:
    """How a tokenizer samples near the origin, for methods that sample points themselves.

    Args:
        tokenizer: A tokenizer; "keep" for one of another library.
    """
    return getattr(tokenizer, "near_origin", "keep")


class ChannelTokenizer(Tokenizer):
    """For points with extra channels: groups by coordinates and encodes all channels. Points with
    coordinates only get zeros for the rest."""

    def group(
        self, points: Tensor, num_groups: int | None = None, group_size: int | None = None
    ) -> dapt_ext.Groups:
        D = self.in_channels
        if points.dim() != 3 or points.shape[2] not in (3, D):
            raise UsageError(
                f"points must be [B, N, {D}], or [B, N, 3] without the further channels, "
                f"got {list(points.shape)}"
            )
        groups = super().group(points[..., :3], num_groups, group_size)
        more = F.pad(points, (0, D - points.shape[2]))[..., 3:].to(groups.patches.dtype)
        beside = dapt_ext.gather(more.contiguous(), groups.patch_idx)  # [B, G, K, D - 3]
        return groups._replace(patches=torch.cat([groups.patches, beside], 3))


class ColorTokenizer(Tokenizer):
    """For points with color: groups by coordinates and encodes both.

    Points without color get the gray that the published networks use.
    """

    gray = 0.4

    def group(
        self, points: Tensor, num_groups: int | None = None, group_size: int | None = None
    ) -> dapt_ext.Groups:
        if points.dim() != 3 or points.shape[2] not in (3, 6):
            raise UsageError(
                f"points must be [B, N, 3] or, with color, [B, N, 6], got {list(points.shape)}"
            )
        groups = super().group(points[..., :3], num_groups, group_size)
        if points.shape[2] == 3:
            colors = torch.full_like(groups.patches, self.gray)
        else:
            self._check_colors(points)
            colors = dapt_ext.gather(points[..., 3:].to(groups.patches.dtype), groups.patch_idx)
        return groups._replace(patches=torch.cat([groups.patches, colors], 3))

    @staticmethod
    def _check_colors(points: Tensor) -> None:
        if not points.is_cpu or torch.compiler.is_compiling() or not points.numel():
            return  # the check would synchronize with the device
        least, most = (bound.item() for bound in points[..., 3:].aminmax())
        if not -1 <= least <= most <= 2:  # leaves room for augmentation
            raise UsageError(f"colors must lie in 0 to 1, got {least:g} to {most:g}")


class WalkTokenizer(Tokenizer):
    """Orders the patches along a walk that always goes to the nearest one left."""

    def group(
        self, points: Tensor, num_groups: int | None = None, group_size: int | None = None
    ) -> dapt_ext.Groups:
        groups = super().group(points, num_groups, group_size)
        order = walk(groups.centers)
        rows = torch.arange(order.shape[0], device=order.device)[:, None]
        return dapt_ext.Groups(
            dapt_ext.gather(groups.patches.flatten(2), order).view_as(groups.patches),
            dapt_ext.gather(groups.centers, order),
            groups.patch_idx[rows, order],
            groups.center_idx[rows, order],
        )


@torch.no_grad()
def walk(centers: Tensor) -> Tensor:  # [B, G, 3] -> [B, G]
    """Order centers along a walk: from the first one always to the nearest not yet visited.

    Ties go to the lowest index.

    Args:
        centers: [B, G, 3].

    Returns:
        The indices of the centers in walk order, int64 [B, G].
    """
    B, G, _ = centers.shape
    distance = (centers[:, :, None] - centers[:, None]).square().sum(-1)  # [B, G, G]
    rows = torch.arange(B, device=centers.device)
    current = rows.new_zeros(B)
    order = [current]
    for _ in range(G - 1):
        distance[rows, :, current] = torch.inf
        current = distance[rows, current].argmin(1)
        order.append(current)
    return torch.stack(order, 1)


class WalkPositions(nn.Module):
    """Sine and cosine of 2 pi times each coordinate, repeated to fill the width.

    PointGPT and ReCon++ use a multi-frequency encoding with a temperature of one, which makes all
    frequencies the same: only six distinct numbers describe a center.

    Args:
        dim: C, the width to fill.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, centers: Tensor) -> Tensor:  # [B, G, 3] -> [B, G, C]
        angles = 2 * torch.pi * centers
        pair = torch.stack([angles.sin(), angles.cos()], -1)[..., None, :]  # [B, G, 3, 1, 2]
        encoded = pair.expand(*pair.shape[:-2], self.dim // 6, 2).flatten(-3)
        return F.pad(encoded, (0, self.dim - encoded.shape[-1]))

    def extra_repr(self) -> str:
        return str(self.dim)


class SinCosEmbedding(nn.Sequential):
    """PCP-MAE's positions: two layers over sines and cosines of the centers.

    There are C/6 frequencies, 10000^(-k / (C/6)). Each axis gives all sines, then all cosines; the
    coordinates are not scaled.

    Args:
        dim: C, the width of the tokens; must be divisible by 6.
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
    """Create Point-MAE's positions: two layers over the centers.

    Args:
        hidden: The width of the first layer.
        dim: C, the width of the tokens.
    """
    return nn.Sequential(nn.Linear(3, hidden), nn.GELU(), nn.Linear(hidden, dim))
