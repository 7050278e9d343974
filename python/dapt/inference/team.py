"""Processes that share work: who takes what, and what all of them know."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dapt.errors import DataError

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Team:
    """This process among those that label together; alone by default.

    Args:
        rank: Its number.
        size: How many there are.
        gather: Gives every process's value, in their order, to all of them; it waits for the last.
    """

    rank: int = 0
    size: int = 1
    gather: Callable[[object], list] = lambda value: [value]

    @property
    def speaks(self) -> bool:
        """Whether this is the process that prints."""
        return self.rank == 0

    def each(self, items: Sequence[T], work: Callable[[T], U]) -> list[U | DataError]:
        """What the processes make of the items, each of one, or the error of an item that is bad.

        Args:
            items: The same in all processes.
            work: What is made of one; a DataError is handed through.
        """

        def attempted(item: T) -> U | DataError:
            try:
                return item if isinstance(item, DataError) else work(item)
            except DataError as error:
                return error

        return self.together(items, lambda mine: map(attempted, mine))

    def together(self, items: Sequence[T], work: Callable[[Sequence[T]], Iterable[U]]) -> list[U]:
        """What the processes make of the items, each of its part of them.

        Args:
            items: The same in all processes.
            work: What is made of a part: as many results, in their order.
        """
        shared = self.gather(list(work(items[self.rank :: self.size])))
        return [shared[number % self.size][number // self.size] for number in range(len(items))]

    def my_share(self, items: Sequence[T], work: Callable[[T], float]) -> list[T]:
        """This process's share of work that differs, in the order of the items.

        Args:
            items: The same in all processes.
            work: How much an item takes.
        """
        loads, owner = [0.0] * self.size, {}
        for number in sorted(range(len(items)), key=lambda number: -work(items[number])):
            owner[number] = least = loads.index(min(loads))
            loads[least] += work(items[number])
        return [item for number, item in enumerate(items) if owner[number] == self.rank]
