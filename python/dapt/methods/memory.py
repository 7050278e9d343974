"""A memory of pre-trained features of the training clouds, the source of Point-PEFT's prompts."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from dapt.errors import UsageError


class Memory(nn.Module):
    """Features of the training clouds from the pre-trained network, to compare clouds with.

    Args:
        pretrained: The backbone as it was before the adapter.
        prompts: P, the rows of its output: a cloud's own feature, the mean of the nearest entries,
            and the P - 2 nearest.
    """

    def __init__(self, pretrained: nn.Module, prompts: int):
        super().__init__()
        self.pretrained = pretrained
        self.num_nearest = prompts - 2
        self.register_buffer("bank", torch.zeros(0, pretrained.dim))  # [S, C], rows of length one

    def train(self, mode: bool = True) -> "Memory":
        super().train(mode)
        self.pretrained.eval()
        return self

    def fill(self, clouds: Iterable[Tensor]) -> None:
        """Keep one feature per cloud, over all processes.

        Args:
            clouds: Batches, each [B, N, 3].
        """
        features = [self.feature(points.to(self.bank.device)) for points in clouds]
        if not features:
            raise UsageError("clouds must hold at least one batch to fill the memory")
        self.bank = _of_all_processes(F.normalize(torch.cat(features), dim=1))

    @torch.no_grad()
    def feature(self, points: Tensor) -> Tensor:  # [B, N, 3] -> [B, C]
        """The maximum over a cloud's patches, in the pre-trained network.

        Args:
            points: [B, N, 3].
        """
        return self.pretrained(points).patches.amax(1).to(self.bank.dtype)

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        """The prior [B, P, C]: the feature, the mean of the nearest by similarity, the nearest.

        A smaller memory repeats its entries.
        """
        if len(self.bank) == 0:
            raise UsageError(
                "the memory of point_peft is empty: call model.prepare with the training clouds"
            )
        feature = self.feature(points)
        with torch.autocast(points.device.type, enabled=False):
            unit = F.normalize(feature, dim=1)
            nearest = (unit @ self.bank.T).topk(min(self.num_nearest, len(self.bank))).indices
            again = torch.arange(self.num_nearest, device=points.device) % nearest.shape[1]
            rows = self.bank[nearest[:, again]]  # [B, P - 2, C]
            # recomputed row by row, so it does not depend on the rest of the memory
            weights = (rows * unit[:, None]).sum(-1, keepdim=True).softmax(1)
            mean = (weights * rows).sum(1, keepdim=True)
            return torch.cat([feature[:, None], mean, rows], 1)


def _of_all_processes(rows: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized()):
        return rows
    counts = [
        torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())
    ]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    most = int(max(counts))
    padded = F.pad(rows, (0, 0, 0, most - len(rows)))
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
