"""The training clouds that a method reads before it trains, in batches."""

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor

from dapt.data import PointDataset
from dapt.errors import UsageError

BATCH = 32  # clouds


def batches_of(clouds: Tensor | PointDataset | Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the clouds in batches [B, N, 3].

    Args:
        clouds: A tensor [S, N, 3], a dataset, or batches, each [B, N, 3] or a dictionary with
            such `points`.
    """
    if isinstance(clouds, Tensor):
        if clouds.ndim != 3:
            raise UsageError(f"clouds must be [S, N, 3], got {list(clouds.shape)}")
        yield from clouds.split(BATCH)
    elif isinstance(clouds, PointDataset):
        for begin in range(0, len(clouds), BATCH):
            rows = range(begin, min(begin + BATCH, len(clouds)))
            yield clouds.batch(rows)["points"]
    else:
        for batch in clouds:
            yield batch["points"] if isinstance(batch, Mapping) else batch
