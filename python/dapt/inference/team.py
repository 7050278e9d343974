"""Divide work among processes, and exchange the results."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dapt.errors import DataError

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Team:
    """This process's view of the processes that label together; a single one by default.

    Args:
        rank: The rank of this process.
        size: The number of processes.
        gather: Returns the values of all processes, in rank order; waits for all of them.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[object], list] = lambda value: [value]

    @property
    def speaks(self) -> bool:
        """Whether this is the process that prints."""
        return self.rank == 0

    def each(self, items: Sequence[T], work: Callable[[T], U]) -> list[U | DataError]:
        """Apply a function to all items, divided among the processes; return results or errors.

        Args:
            items: The items, the same in all processes.
            work: The function. Items that are DataErrors skip it; a DataError that it raises
                becomes the item's result.
        """

        def attempted(item: T) -> U | DataError:
            try:
                return item if isinstance(item, DataError) else work(item)
            except DataError as error:
                return error

        return self.together(items, lambda mine: map(attempted, mine))

    def together(self, items: Sequence[T], work: Callable[[Sequence[T]], Iterable[U]]) -> list[U]:
        """Apply a function to each process's part of the items; return the results of all items.

        Args:
            items: The items, the same in all processes.
            work: The function, from a part of the items to as many results, in order.
        """
        shared = self.gather(list(work(items[self.rank :: self.size])))
        return [shared[number % self.size][number // self.size] for number in range(len(items))]

    def my_share(self, items: Sequence[T], work: Callable[[T], float]) -> list[T]:
        """This process's share of items of different cost, in order.

        Args:
            items: The items, the same in all processes.
            work: The cost of an item.
        """
        loads, owner = [0.0] * self.size, {}
        for number in sorted(range(len(items)), key=lambda number: -work(items[number])):
            owner[number] = least = loads.index(min(loads))
            loads[least] += work(items[number])
        return [item for number, item in enumerate(items) if owner[number] == self.rank]
