"""PointGST (TPAMI 2025): adapters in the spectrum of the graph of the group centers."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dapt_ext
from dapt.errors import UsageError, check_at_least
from dapt.methods.frozen_stack import FrozenStack, Step
from dapt.methods.method import Method, register
from dapt.methods.replacements import Replacements, own_class_token, place_of
from dapt.models.blocks import BlockStack
from dapt.models.drop_path import drop_path_factor

CELLS = 100  # cells per unit of length along each axis, for the order on a curve
BITS = 16  # of a cell's index along an axis


@register("point_gst")
@dataclass(frozen=True)
class PointGst(Method):
    """Graph Spectral Tuning, on every scale of a backbone.

    Args:
        rank: r, hidden units of the adapters.
        local: Centers in a run along the curve, which has its own graph; the last run may be
            shorter.
        transform: "U" multiplies by the matrix of eigenvectors, as published, although its
            transpose gives the spectrum; "Ut" multiplies by the transpose.
        published: As released, measure distances relative to the smallest in the whole batch, so a
            cloud's prediction depends on its batch-mates; otherwise to the smallest in the cloud.
    """

    mixes: ClassVar[bool] = True

    rank: int = 36
    local: int = 32
    transform: Literal["U", "Ut"] = "U"
    published: bool = False

    def __post_init__(self):
        check_at_least(self, rank=1, local=1)
        if self.transform not in ("U", "Ut"):
            raise UsageError(f"transform must be 'U' or 'Ut', got {self.transform!r}")

    def owns(self, entry: str) -> bool:
        return not {"adapters", "cls_token", "cls_pos"}.isdisjoint(entry.split("."))

    def wrap(self, backbone: nn.Module, replacements: Replacements) -> None:
        own_class_token(backbone, replacements)
        for stack in backbone.stacks:
            replacements.put(*place_of(backbone, stack), PointGstStack(stack, self))


class Basis(NamedTuple):
    """Eigenvectors of the graphs of the centers, in columns; the same for all blocks of a stack.

    Args:
        whole: The basis of the graph of all centers [B, 1, G, G].
        runs: The bases of the graphs of runs of L centers [B, G / L, L, L]; the last run is
            separate if it is shorter.
        order: The centers in order along a curve, int64 [B, G].
        rank: The position of each center along the curve, int64 [B, G].
    """

    whole: Tensor  # [B, 1, G, G]
    runs: tuple[Tensor, ...]  # [B, G / L, L, L], and the last run if it is shorter
    order: Tensor  # int64 [B, G]
    rank: Tensor  # int64 [B, G]


@torch.no_grad()
def basis_of(
    centers: Tensor, local: int, published: bool, transform: str, dtype: torch.dtype
) -> Basis:
    """The basis of each run's graph.

    Args:
        centers: [B, G, 3].
        local: L, the number of centers in a run.
        published: As in `PointGst`.
        transform: "U" or "Ut", as in `PointGst`.
        dtype: The dtype of the basis.
    """
    order = curve_codes(centers).argsort(dim=1, stable=True)
    runs = cut(dapt_ext.gather(centers, order), local)
    [whole], runs = graph_bases([centers[:, None]], published), graph_bases(runs, published)
    if transform == "Ut":
        whole, runs = whole.mT, [run.mT for run in runs]
    runs = tuple(run.to(dtype) for run in runs)
    return Basis(whole.to(dtype), runs, order, order.argsort(dim=1))


def cut(rows: Tensor, length: int) -> list[Tensor]:
    """Cut rows [B, G, D] into runs [B, G / L, L, D], and the rest into one more run.

    Args:
        rows: [B, G, D].
        length: L, the number of rows in a run.
    """
    length = min(length, rows.shape[1])
    at = rows.shape[1] // length * length
    runs = [rows[:, :at].unflatten(1, (-1, length)), rows[:, None, at:]]
    return runs if at < rows.shape[1] else runs[:1]


def graph_bases(parts: list[Tensor], whole_batch: bool) -> list[Tensor]:
    """Eigenvectors of the normalized Laplacian of each run of centers, by ascending eigenvalue.

    They are computed in float64, because close eigenvalues have unstable eigenvectors. The entry
    of largest magnitude in a column is positive, so that the sign does not depend on the library.

    Args:
        parts: Centers [B, R, L, 3] of runs; each part has another length L.
        whole_batch: Whether distances are relative to the smallest in the batch, not in each cloud.

    Returns:
        For each part [B, R, L, L], in float64.
    """
    parts = [part.double() for part in parts]
    distances = [(part[:, :, :, None] - part[:, :, None]).norm(dim=-1) for part in parts]
    apart = [d.masked_fill(d == 0, torch.inf).amin((1, 2, 3)) for d in distances]
    smallest = torch.stack(apart).amin(0)  # [B]
    if whole_batch:
        smallest = smallest.amin().expand_as(smallest)
    return [_basis(distance, smallest[:, None, None, None]) for distance in distances]


def _basis(distance: Tensor, smallest: Tensor) -> Tensor:  # [B, R, L, L]
    weights = 1 / (distance / smallest).clamp(min=1)  # 1 for the nearest and for coincident ones
    scale = (weights.sum(-1) + 1e-6).rsqrt()
    identity = torch.eye(distance.shape[-1], dtype=distance.dtype, device=distance.device)
    vectors = torch.linalg.eigh(identity - scale[..., None] * weights * scale[..., None, :])[1]
    largest = vectors.abs().argmax(-2, keepdim=True)
    return vectors * vectors.gather(-2, largest).sign()


def curve_codes(centers: Tensor) -> Tensor:
    """Positions on a z-order curve, int64 [B, G], with y as the most significant axis.

    Args:
        centers: [B, G, 3].
    """
    x, y, z = (CELLS * centers).trunc().long().unbind(-1)  # negative cells in two's complement
    code = torch.zeros_like(x)
    for bit in range(BITS):
        for shift, axis in enumerate((z, x, y)):
            code |= (axis >> bit & 1) << (3 * bit + shift)
    return code


class PointGstStack(FrozenStack):
    """Frozen blocks with an adapter beside each MLP.

    Args:
        frozen: The backbone's blocks.
        config: The settings of the method.
    """

    def __init__(self, frozen: BlockStack, config: PointGst):
        super().__init__(frozen)
        self.local = config.local
        self.published = config.published
        self.transform = config.transform
        self.adapters = nn.ModuleList(SpectralAdapter(block.dim, config.rank) for block in frozen)

    def start(
        self, x: Tensor, positions: Tensor, mask: Tensor | None, centers: Tensor
    ) -> tuple[Tensor, Step]:
        basis = basis_of(centers, self.local, self.published, self.transform, x.dtype)

        def step(i: int, block: nn.Module, x: Tensor) -> Tensor:
            x = x + positions
            x = block.attend(x, mask, drop_path_factor(x, block.drop_path, self.training))
            return block.transform(x) + self.adapters[i](x, basis)

        return x, step


class SpectralAdapter(nn.Module):
    """A bottleneck whose hidden units are mixed over the whole graph and over its runs.

    Args:
        dim: C, the width of the tokens.
        rank: Hidden units.
    """

    def __init__(self, dim: int, rank: int):
        super().__init__()
        self.down = nn.Linear(dim, rank)
        self.up = nn.Linear(rank, dim)
        self.mix = nn.Linear(rank, rank)
        self.norm_whole = nn.LayerNorm(rank)
        self.norm_runs = nn.LayerNorm(rank)
        nn.init.xavier_uniform_(self.down.weight)
        for linear in (self.up, self.mix):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, basis: Basis) -> Tensor:  # [B, T, C]
        h = self.down(x)  # [B, T, r]
        front = x.shape[1] - basis.order.shape[1]
        patches = h[:, front:]
        whole = self._filtered(patches[:, None], basis.whole, self.norm_whole)[:, 0]
        runs = cut(dapt_ext.gather(patches, basis.order), basis.runs[0].shape[2])
        runs = [
            self._filtered(run, part, self.norm_runs).flatten(1, 2)
            for run, part in zip(runs, basis.runs, strict=True)
        ]
        mixed = whole + dapt_ext.gather(torch.cat(runs, 1), basis.rank)
        a = F.silu(h)
        return self.up(torch.cat([a[:, :front], a[:, front:] + mixed], 1))

    def _filtered(self, x: Tensor, basis: Tensor, norm: nn.LayerNorm) -> Tensor:  # [B, R, L, r]
        spectrum = basis.to(x.dtype) @ x
        return basis.mT.to(x.dtype) @ (spectrum + F.silu(self.mix(norm(spectrum))))
