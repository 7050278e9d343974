"""Clouds that wait go through the network together, whichever adapters they are for."""

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

PATIENCE = 0.01  # seconds that a cloud waits for others which are being made ready


@dataclass(eq=False)
class Ticket:
    """A cloud, as the network sees it, that waits for what the adapter says of it.

    Args:
        served: The adapter.
        seen: [1, n, D].
        inputs: What the head asks for beside the points, a row each.
        queries: [1, N, 3], the points to label; None where whole clouds are.
        result: The result of the head's logits, [classes] or [N, labels].
    """

    served: Served
    seen: Tensor
    inputs: tuple[Tensor, ...] = ()
    queries: Tensor | None = None
    result: "Future[Tensor]" = field(default_factory=Future)

    @cached_property
    def kin(self) -> tuple:
        """What clouds have in common that go through the network together."""
        adapter = self.served.adapter
        method = None if is_packed(adapter.network) else adapter.method.kin()
        alike = id(adapter) if method is None else repr(method)
        labeled = None if self.queries is None else self.queries.shape
        return id(self.served.model), alike, self.seen.shape, len(self.inputs), labeled


class Batcher:
    """A thread that takes what waits, as many clouds as fit together, and runs them.

    A cloud that comes alone waits for nobody. While others are being made ready it waits for them,
    but not for long.

    Args:
        most: Clouds in a batch.
        observe: Is told how many clouds each batch had, and of how many adapters.
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
        """In this context a request is being made ready."""
        with self._change:
            self._coming += 1
        try:
            yield
        finally:
            with self._change:
                self._coming -= 1
                self._change.notify()

    def submit(self, ticket: Ticket) -> "Future[Tensor]":
        """Line a cloud up.

        Args:
            ticket: The cloud.
        """
        with self._change:
            self._waiting.append(ticket)
            self._change.notify()
        return ticket.result

    def close(self) -> None:
        """Run what waits, and end."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            run(batch)
            self.observe(len(batch), len({ticket.served.adapter for ticket in batch}))

    def _next(self) -> list[Ticket]:
        """The oldest ticket and its kin; nothing at the end."""
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
    """Answer tickets of a kin; where a batch fails, each has its own answer or its own error.

    Args:
        tickets: Some may have been canceled.
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
