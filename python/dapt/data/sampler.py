"""The order of samples: a pure function of (seed, epoch, step), divided among processes."""

from collections.abc import Iterator

import numpy as np
from torch import Generator
from torch.utils.data import DataLoader

from dapt.data.dataset import PointDataset
from dapt.errors import UsageError


class BatchSampler:
    """Yields lists of sample indices, one list per step.

    `batch_size` counts the samples of all processes: rank r gets the r-th part of each batch, so
    the parts of all ranks together are the batch that a single process would get. Every rank takes
    the same number of steps. With `drop_last=False`, every sample occurs exactly once per epoch;
    the parts of the last batch may then differ by one sample, or be empty.

    Iterating again repeats the epoch; `set_position` moves on, or resumes in the middle.

    Args:
        length: The number of samples in the dataset.
        batch_size: The number of samples per step, over all processes.
        seed: The seed of the order.
        shuffle: Whether samples are shuffled differently in each epoch.
        drop_last: Whether to drop an incomplete last batch.
        rank: The rank of this process.
        world_size: The number of processes.
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
        """Let the next iteration start at a step of an epoch.

        Args:
            epoch: The epoch, from 0.
            step: The step in this epoch, from 0.
        """
        if not 0 <= step <= len(self):
            raise UsageError(f"step must lie in 0 to {len(self)}, got {step}")
        self.epoch = epoch
        self.step = step

    def __len__(self) -> int:
        """The number of steps in an epoch."""
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
    """Create a loader of batches in the sampler's order.

    Without workers, a batch of a memory-mapped dataset is one gather in this process; workers are
    worthwhile for datasets that compute their clouds. The global random state is not changed.

    Args:
        dataset: The dataset.
        sampler: Chooses the samples of each batch.
        num_workers: The number of worker processes; 0 loads in this process.
        pin_memory: Whether batches are in pinned memory, from which a GPU copies at full speed.
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
