"""Point Transformer V3 as an encoder, in the form that Sonata, Concerto and Utonia use.

Points are sampled to the cells of a grid, one token per cell; five scales of blocks follow, each on
cells of twice the size. The cells of all scenes of a batch are packed without padding, [1, M, C].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_sizes
from dapt.models.blocks import init_weights
from dapt.models.compression import Storage
from dapt.models.drop_path import drop_path_rates
from dapt.models.ptv3_geometry import Cells, Geometry
from dapt.models.ptv3_layers import Pooling, SceneStack, scene_stack

CHANNELS = 9  # per point: coordinates, color from 0 to 1, normal


@dataclass(frozen=True)
class Ptv3Config(Storage):
    """The size of a PTv3 encoder; other fields are those of `Storage`.

    Args:
        grid_size: The side of a cell, in the unit of the points after scaling.
        scale: Factor by which the points are multiplied; Utonia halves scenes in meters.
        up: The axis of the points that is vertical; it was z in the pre-training.
        center: Whether each scene is moved as in the pre-training: the center of its ground area
            to the origin, its lowest point to height 0.
        dims: The number of channels in each scale.
        depths: The number of blocks in each scale.
        num_heads: The number of attention heads in each scale.
        patch_size: The number of cells in a patch; cells attend within their patch.
        curves: The space-filling curves along which patches are cut, one block after another in
            turn.
        shuffle_curves: Whether the order of the curves is shuffled for each scale in training.
        rope_base: The base of rotary positions in the attention; None for no rotary positions.
        enable_flash: Whether patches have their full size, as published; if not, no patch is larger
            than the smallest scene of the batch, so the scenes of a batch affect each other.
        mlp_ratio: The ratio of an MLP's hidden width to its channels.
        drop_path: The drop-path rate of the last block; rates grow linearly from 0 in the first.
    """

    grid_size: float = 0.02
    scale: float = 1.0
    up: Literal["x", "y", "z"] = "z"
    center: bool = False
    dims: tuple[int, ...] = (32, 64, 128, 256, 512)
    depths: tuple[int, ...] = (2, 2, 2, 6, 2)
    num_heads: tuple[int, ...] = (2, 4, 8, 16, 32)
    patch_size: int = 1024
    curves: tuple[str, ...] = dapt_ext.CURVES
    shuffle_curves: bool = True
    rope_base: float | None = None
    enable_flash: bool = True
    mlp_ratio: int = 4
    drop_path: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        for field in ("dims", "depths", "num_heads", "curves"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        check_sizes(self)
        for field in ("grid_size", "scale"):
            if not 0 < getattr(self, field) < float("inf"):
                raise UsageError(f"{field} must be above 0, got {getattr(self, field)}")
        if self.up not in ("x", "y", "z"):
            raise UsageError(f"up must be x, y or z, got {self.up!r}")
        for field in ("depths", "num_heads"):
            if len(getattr(self, field)) != len(self.dims) or not self.dims:
                raise UsageError(
                    f"{field} must have a value for each of the {len(self.dims)} scales, "
                    f"got {getattr(self, field)}"
                )
        unit = 1 if self.rope_base is None else 6
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            if heads < 1 or dim % (heads * unit):
                raise UsageError(
                    f"num_heads must divide dims into heads whose width is a multiple of {unit}, "
                    f"got {heads} for {dim}"
                )
        unknown = [curve for curve in self.curves if curve not in dapt_ext.CURVES]
        if unknown or not self.curves:
            known = ", ".join(dapt_ext.CURVES)
            raise UsageError(f"curves must be names of {known}, got {list(self.curves)}")

    def build(self) -> "Ptv3":
        """Build the network with fresh weights."""
        return Ptv3(self)


class CellEmbedding(nn.Module):
    """Embeds points as the tokens of cells; the first point in a cell represents it.

    Args:
        config: The settings of the network.
    """

    def __init__(self, config: Ptv3Config):
        super().__init__()
        self.grid_size, self.scale = config.grid_size, config.scale
        self.up, self.center = config.up, config.center
        self.project = nn.Linear(CHANNELS, config.dims[0])
        self.norm = nn.LayerNorm(config.dims[0])
        self.act = nn.GELU()

    in_channels = CHANNELS

    @property
    def dim(self) -> int:
        """The width of the tokens."""
        return self.project.out_features

    def forward(
        self, points: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Cells, Tensor]:  # [1, M, C], cells, int64 [B, N]
        """The tokens, their cells, and the cell of each point."""
        if points.dim() != 3 or points.shape[2] not in (3, 6, 9):
            raise UsageError(
                "points must be [B, N, 3], with color [B, N, 6], or with color and normal "
                f"[B, N, 9], got {list(points.shape)}"
            )
        place, color, normal = F.pad(points, (0, CHANNELS - points.shape[2])).split(3, 2)
        place, normal = self.scale * self._z_up(place), self._z_up(normal)
        if self.center:
            place = place - _middle_of_ground(place, lengths)
        cells = dapt_ext.grid_sample(place, self.grid_size, lengths)
        of_cells = torch.cat([place, color, normal], 2).flatten(0, 1)[cells.first]
        x = self.act(self.norm(self.project(of_cells.to(self.norm.weight.dtype)))[None])
        where = Cells(cells.cells, of_cells[:, :3], cells.scenes, len(points))
        return x, where, cells.inverse

    def _z_up(self, vectors: Tensor) -> Tensor:  # [B, N, 3]
        x, y, z = vectors.unbind(2)
        turned = {"x": (y, z, x), "y": (x, -z, y), "z": (x, y, z)}
        return torch.stack(turned[self.up], 2)


def _middle_of_ground(place: Tensor, lengths: Tensor | None) -> Tensor:  # [B, N, 3] -> [B, 1, 3]
    least = most = place
    if lengths is not None:
        past = torch.arange(place.shape[1], device=place.device) >= lengths[:, None]
        least = place.masked_fill(past[..., None], torch.inf)
        most = place.masked_fill(past[..., None], -torch.inf)
    least, most = least.amin(1, keepdim=True), most.amax(1, keepdim=True)
    return torch.cat([(least + most)[..., :2] / 2, least[..., 2:]], 2)


class SceneFeatures:
    """The output of a PTv3 encoder: like `Features`, with one token per point, and also available
    scale by scale with one token per cell.

    Args:
        points: The points as given, [B, N, 3].
        tokens: The tokens [M, C] of the cells of each scale.
        geometries: The geometry of each scale.
        rows: For each scale, the cell of each point, int64 [B, N]; -1 past a cloud's length.
        around: For each scale except the last, the coarser cell that contains each cell,
            int64 [M].
        wanted: The scales that `levels` returns.
    """

    cls = start = image = text = None

    def __init__(
        self,
        points: Tensor,
        tokens: Sequence[Tensor],
        geometries: Sequence[Geometry],
        rows: Sequence[Tensor],
        around: Sequence[Tensor],
        wanted: Sequence[int] = (),
    ):
        self.centers = points
        self.tokens = tuple(tokens)
        self.geometries = tuple(geometries)
        self.rows = tuple(rows)
        self.around = tuple(around)
        self.wanted = tuple(wanted)

    @property
    def prompts(self) -> Tensor:  # [B, 0, C]
        """Always empty: nothing is inserted among the tokens of a scene."""
        return self.tokens[-1].new_empty(len(self.centers), 0, self.tokens[-1].shape[1])

    @cached_property
    def patches(self) -> Tensor:  # [B, N, C]
        """The token of each point's cell in the last scale."""
        return self.of_points(-1)

    @property
    def levels(self) -> tuple[Tensor, ...]:  # each [B, N, C]
        """The tokens of each point in the requested scales."""
        return tuple(self.of_points(scale) for scale in self.wanted)

    def of_points(self, scale: int) -> Tensor:  # [B, N, C]
        """The token of each point's cell in a scale.

        Args:
            scale: The index of the scale, 0 for the finest.
        """
        tokens, rows = self.tokens[scale], self.rows[scale]
        of_points = dapt_ext.gather(tokens[None], rows.view(1, -1))
        return of_points.view(*rows.shape, tokens.shape[1])

    @property
    def patch_mean(self) -> Tensor:  # [B, C]
        """The mean over the cells of the last scale, regardless of their number of points."""
        return self._by_scene(lambda tokens: tokens.mean(0))

    @property
    def patch_max(self) -> Tensor:  # [B, C]
        """The maximum over the cells of the last scale."""
        return self._by_scene(lambda tokens: tokens.amax(0))

    def _by_scene(self, pool: Callable[[Tensor], Tensor]) -> Tensor:  # [B, C]
        """Pool the cells of each scene; a scene without points gives zeros."""
        scenes = self.tokens[-1].split(self.geometries[-1].sizes)
        pooled = [pool(tokens) if len(tokens) else tokens.sum(0) for tokens in scenes]
        return torch.stack(pooled) if pooled else self.prompts.sum(1)

    def upcast(self, first: int) -> Tensor:  # [M, sum of C]
        """For each cell of the finest scale, its tokens in the scales from ``first`` on,
        concatenated.

        Args:
            first: The finest scale to include.
        """
        tokens = self.tokens[-1]
        for scale in reversed(range(len(self.around))):
            coarse = dapt_ext.gather(tokens[None], self.around[scale][None])[0]
            tokens = torch.cat([self.tokens[scale], coarse], 1) if scale >= first else coarse
        return tokens


class Ptv3(nn.Module):
    """A PTv3 encoder for points [B, N, 3], with color [B, N, 6], or with color and normal
    [B, N, 9]; missing channels are zeros, as in the pre-training.

    Args:
        config: The size of the network.
    """

    packed = True  # the tokens of all clouds are packed in one row, so none can be inserted
    between_blocks = False
    num_class_tokens = 0
    head_tokens = ("patch:mean",)

    def __init__(self, config: Ptv3Config):
        super().__init__()
        self.config = config
        self.embedding = CellEmbedding(config)
        self.poolings = nn.ModuleList(
            Pooling(dim, out) for dim, out in zip(config.dims[:-1], config.dims[1:], strict=True)
        )
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        self.scales = nn.ModuleList(
            scene_stack(
                dim, heads, config.mlp_ratio, [next(rates) for _ in range(depth)], config.rope_base
            )
            for dim, heads, depth in zip(config.dims, config.num_heads, config.depths, strict=True)
        )
        self.norm = nn.Identity()  # the published encoders end without one
        init_weights(self)

    def forward(
        self, points: Tensor, levels: Sequence[int] = (), lengths: Tensor | None = None
    ) -> SceneFeatures:
        """Features of scenes.

        Args:
            points: [B, N, 3, 6 or 9].
            levels: The scales whose tokens to return for each point.
            lengths: The number of points in each scene, int64 [B]; the rest is padding.
        """
        x, cells, rows = self.embedding(points, lengths)
        geometries, tokens, all_rows, all_around = [self._geometry(cells)], [], [rows], []
        x = self.scales[0](x, geometries[0])
        for pooling, scale in zip(self.poolings, self.scales[1:], strict=True):
            tokens.append(x[0])
            cells, inside, around = cells.coarser()
            rows = dapt_ext.gather(around[None, :, None], rows.view(1, -1)).view_as(rows)
            rows = rows.masked_fill(all_rows[0] < 0, -1)
            x = pooling(x, inside)
            geometries.append(self._geometry(cells))
            x = scale(x, geometries[-1])
            all_rows.append(rows)
            all_around.append(around)
        tokens.append(self.norm(x)[0])
        return SceneFeatures(points[..., :3], tokens, geometries, all_rows, all_around, levels)

    def _geometry(self, cells: Cells) -> Geometry:
        config, curves = self.config, self.config.curves
        if self.training and config.shuffle_curves:
            curves = [curves[i] for i in torch.randperm(len(curves)).tolist()]
        return Geometry.of(cells, curves, config.patch_size, alike=not config.enable_flash)

    @property
    def dim(self) -> int:
        """C, the width of the last scale's tokens."""
        return self.config.dims[-1]

    @property
    def level_dims(self) -> tuple[int, ...]:
        """The width of each scale's tokens."""
        return self.config.dims

    @property
    def tokenizers(self) -> list[CellEmbedding]:
        """A single one, for the finest scale."""
        return [self.embedding]

    @property
    def stacks(self) -> list[SceneStack]:
        """One per scale."""
        return list(self.scales)
