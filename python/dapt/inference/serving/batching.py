"""Batch the waiting clouds of all adapters, and run them through the network together."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from dapt.inference.serving.shelf import Served
from dapt.methods.method import is_packed

PATIENCE = 0.01  # seconds that a cloud waits for others that are being prepared


@dataclass(eq=False)
class Ticket:
    """A prepared cloud that waits for its logits.

    Args:
        served: The adapter.
        seen: The points that the network reads [1, n, D].
        inputs: Further inputs of the head, one row each.
        queries: The points to label [1, N, 3]; None if whole clouds are labeled.
        result: The future of the logits, [classes] or [N, labels].
    """

    served: Served
    seen: Tensor
    inputs: tuple[Tensor, ...] = ()
    queries: Tensor | None = None
    result: "Future[Tensor]" = field(default_factory=Future)

    @cached_property
    def kin(self) -> tuple:
        """What clouds must have in common to go through the network together."""
        adapter = self.served.adapter
        method = None if is_packed(adapter.network) else adapter.method.kin()
        alike = id(adapter) if method is None else repr(method)
        labeled = None if self.queries is None else self.queries.shape
        return id(self.served.model), alike, self.seen.shape, len(self.inputs), labeled


class Batcher:
    """A thread that runs waiting clouds in batches.

    A cloud that arrives alone runs at once. While others are being prepared, it waits for them for
    a short time.

    Args:
        most: The largest number of clouds in a batch.
        observe: Called with the number of clouds and of adapters in each batch.
    """

    def __init__(self, most: int, observe: Callable[[int, int], None] = lambda *_: None):
        self.most, self.observe = most, observe
        self._waiting: deque[Ticket] = deque()
        self._coming = 0
        self._closed = False
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="dapt-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """A context in which the clouds of a request are being prepared."""
        with self._change:
            self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1
                self._change.notify()

    def submit(self, ticket: Ticket) -> "Future[Tensor]":
        """Add a cloud to the queue and return the future of its logits.

        Args:
            ticket: The cloud.
        """
        with self._change:
            self._waiting.append(ticket)
            self._change.notify()
        return ticket.result

    def close(self) -> None:
        """Run the waiting clouds and stop the thread."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            run(batch)
            self.observe(len(batch), len({ticket.served.adapter for ticket in batch}))

    def _next(self) -> list[Ticket]:
        """The oldest ticket and others of its kin; an empty list after closing."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            until = time.monotonic() + PATIENCE
            while self._coming and len(self._waiting) < self.most and time.monotonic() < until:
                self._change.wait(until - time.monotonic())
            kin = self._waiting[0].kin
            taken = [ticket for ticket in self._waiting if ticket.kin == kin][: self.most]
            for ticket in taken:
                self._waiting.remove(ticket)
            return taken


def run(tickets: list[Ticket]) -> None:
    """Answer tickets of one kin; if the batch fails, run them one by one for individual errors.

    Args:
        tickets: The tickets, some of which may have been canceled.
    """
    tickets = [ticket for ticket in tickets if ticket.result.set_running_or_notify_cancel()]
    if not tickets:
        return
    try:
        rows = list(_logits(tickets))
    except Exception as error:
        if len(tickets) == 1:
            tickets[0].result.set_exception(error)
            return
        for ticket in tickets:
            try:
                (row,) = _logits([ticket])
                ticket.result.set_result(row)
            except Exception as own_error:
                ticket.result.set_exception(own_error)
        return
    for ticket, row in zip(tickets, rows, strict=True):
        ticket.result.set_result(row)


@torch.no_grad()
def _logits(tickets: list[Ticket]) -> Tensor | list[Tensor]:
    points = torch.cat([ticket.seen for ticket in tickets])  # [B, n, D]
    inputs = [torch.cat(rows) for rows in zip(*(ticket.inputs for ticket in tickets), strict=True)]
    labeled = [ticket.queries for ticket in tickets if ticket.queries is not None]
    queries = torch.cat(labeled) if labeled else None  # [B, N, 3]
    adapters = [ticket.served.adapter for ticket in tickets]
    out = tickets[0].served.model(points, *inputs, queries=queries, adapters=adapters)
    return [row.float().cpu() for row in out]
