"""Which samples come when: a pure function of (seed, epoch, step), shared out over processes."""

from collections.abc import Iterator

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader

from dapt.data.dataset import PointDataset
from dapt.errors import UsageError


class BatchSampler:
    """Lists of sample indices, one list per step.

    `batch_size` is that of all processes together: rank r gets the r-th part of each batch, so
    the parts of all ranks are the batch that a single process gets. Every rank takes the same
    number of steps. With `drop_last=False` every sample comes exactly once per epoch; parts of
    the last batch may then differ by one sample, or be empty.

    Iterating again repeats the epoch; `set_position` moves on, or resumes in the middle.

    Args:
        length: Samples of the dataset.
        batch_size: Of all processes together.
        seed: The seed of the order.
        shuffle: Whether each epoch has an order of its own.
        drop_last: Whether a last batch that is not full is left out.
        rank: Number of this process.
        world_size: How many processes there are.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ):
        if not 0 <= rank < world_size:
            raise UsageError(f"rank must lie in 0 to {world_size - 1}, got {rank}")
        if batch_size < world_size or batch_size % world_size:
            raise UsageError(
                f"batch_size must be a multiple of the {world_size} processes, got {batch_size}"
            )
        if drop_last and length < batch_size:
            raise UsageError(
                f"{length} samples do not fill one batch of {batch_size}: make batch_size smaller"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.set_position(epoch=0, step=0)

    def set_position(self, epoch: int, step: int = 0) -> None:
        """The next iteration starts at this step of this epoch.

        Args:
            epoch: Counted from 0.
            step: Likewise.
        """
        if not 0 <= step <= len(self):
            raise UsageError(f"step must lie in 0 to {len(self)}, got {step}")
        self.epoch = epoch
        self.step = step

    def __len__(self) -> int:
        """Steps in a whole epoch."""
        if self.drop_last:
            return self.length // self.batch_size
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(order)
        for step in range(self.step, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield np.array_split(batch, self.world_size)[self.rank].tolist()


def loader(
    dataset: PointDataset, sampler: BatchSampler, num_workers: int = 0, pin_memory: bool = False
) -> DataLoader:
    """Batches of the dataset in the sampler's order.

    Without workers a batch of a memory-mapped dataset is one gather in this process; workers pay
    for datasets that compute their clouds. The global random state is left alone.

    Args:
        dataset: What the batches are of.
        sampler: Which samples they hold.
        num_workers: Processes that load them; 0 for this one.
        pin_memory: Whether batches lie where a GPU copies from at full speed.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=Generator(),
    )


def _as_is(batch: dict) -> dict:
    return batch
