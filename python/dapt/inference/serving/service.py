"""A request to predict, from its first byte to its answer, within the limits."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from dapt.errors import DaptError, said_of_the_machine, shown
from dapt.inference.serving.answers import written
from dapt.inference.serving.batching import Batcher
from dapt.inference.serving.intake import LONGEST, clouds_in, kind_of
from dapt.inference.serving.limits import Limits, Refused
from dapt.inference.serving.metrics import Metrics
from dapt.inference.serving.shelf import Served, Shelf
from dapt.inference.serving.work import (
    Labeled,
    Ready,
    check_category,
    goes_alone,
    labeled_alone,
    made_ready,
)

T = TypeVar("T")
READERS = 2  # threads that read requests
AGAIN_AFTER = "1"  # seconds after which a refused client may retry

log = logging.getLogger("dapt")


class Service:
    """Answers the requests of one server.

    Args:
        shelf: The adapters.
        limits: The limits of requests.
    """

    def __init__(self, shelf: Shelf, limits: Limits):
        self.shelf, self.limits = shelf, limits
        self.batcher = Batcher(limits.batch, lambda *counts: self.metrics.observe_batch(*counts))
        self.metrics = Metrics(lambda: len(self.batcher), lambda: len(shelf))
        self._open = 0
        self._reading = ThreadPoolExecutor(READERS, "dapt-requests")
        self._alone = ThreadPoolExecutor(1, "dapt-scenes")
        self._changing = ThreadPoolExecutor(1, "dapt-adapters")

    def close(self) -> None:
        """Stop the threads."""
        for pool in (self._reading, self._alone, self._changing):
            pool.shutdown(cancel_futures=True)
        self.batcher.close()

    async def change(self, work: Callable[[], T]) -> T:
        """Load or unload an adapter, one at a time.

        Args:
            work: The function that does it, called in a thread.
        """
        try:
            return await self._in(self._changing, work)
        except Exception as error:
            raise refusal_of(error) from error

    async def predict(
        self,
        request: Request,
        name: str,
        format: str,
        category: str,
        kind: str,
    ) -> bytes:
        """Label the clouds of a request and return the body of the answer.

        Args:
            request: The request, whose body holds the clouds.
            name: The name of the adapter; empty for the only one.
            format: The format of the body; empty to infer it from content type or file name.
            category: The category of the objects, for part segmentation; otherwise empty.
            kind: The format of the answer.
        """
        served, category = self.shelf.get(name), category or None
        async with self._admitted(served.name):
            check_category(served, category)
            content, format = await self._body(request, format)
            with self.batcher.expecting():
                work = await self._in(
                    self._reading, self._made_ready, served, content, format, category
                )
            del content
            if callable(work):
                labeled = await self._in_line(work)
            else:
                labeled = await self._batched(work)
            return await self._in(self._reading, written, served.name, labeled, kind)

    @asynccontextmanager
    async def _admitted(self, name: str) -> AsyncIterator[None]:
        """Count the request, and end it when its time is up."""
        if self._open >= self.limits.queue:
            self.metrics.requests.labels(name, 429).inc()
            raise Refused(
                429,
                f"{self._open} requests are in progress, and the server takes no more: try later",
                {"Retry-After": AGAIN_AFTER},
            )
        status, begun = 500, time.monotonic()
        self._open += 1
        self.metrics.in_progress.inc()
        try:
            async with within(self.limits.seconds):
                yield
            status = 200
        except Exception as error:
            refusal = refusal_of(error)
            status = refusal.status
            raise refusal from error
        finally:
            self._open -= 1
            self.metrics.in_progress.dec()
            self.metrics.requests.labels(name, status).inc()
            self.metrics.seconds.observe(time.monotonic() - begun)

    async def _body(self, request: Request, format: str) -> tuple[bytes, str]:
        """(bytes of the clouds, their format)"""
        most, content_type = self.limits.bytes, request.headers.get("content-type", "")
        declared = request.headers.get("content-length", "0")
        too_long = Refused(413, f"the request has more than {self.limits.megabytes} MiB")
        if int(declared) > most:
            raise too_long
        content = bytearray()
        async for chunk in request.stream():
            if len(content) + len(chunk) > most:
                raise too_long
            content += chunk
        if not content_type.startswith("multipart/form-data"):
            return bytes(content), kind_of(format, content_type=content_type)
        file, filename = await _file_of(request, bytes(content))
        return file, kind_of(format, filename)

    def _made_ready(
        self, served: Served, content: bytes, format: str, category: str | None
    ) -> list[Ready] | Callable[[threading.Event], list[Labeled]]:
        """The prepared clouds for a batch, or a function that labels clouds that go alone."""
        clouds = clouds_in(content, format, served.preprocessing, self.limits)
        if goes_alone(served, clouds):
            return lambda stop: labeled_alone(served, clouds, category, stop)
        return [made_ready(served, cloud, category) for cloud in clouds]

    async def _batched(self, clouds: Sequence[Ready]) -> list[Labeled]:
        waiting = [asyncio.wrap_future(self.batcher.submit(cloud.ticket)) for cloud in clouds]
        try:
            logits = await asyncio.gather(*waiting)
        except BaseException:
            for each in waiting:
                each.cancel()
            raise
        return [cloud.labeled(row) for cloud, row in zip(clouds, logits, strict=True)]

    async def _in_line(self, work: Callable[[threading.Event], list[Labeled]]) -> list[Labeled]:
        """Run the work after that of earlier scenes."""
        stop = threading.Event()
        try:
            return await self._in(self._alone, work, stop)
        finally:
            stop.set()

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """A context that raises TimeoutError if it takes too long.

    Args:
        seconds: The time limit.
    """
    import anyio

    with anyio.fail_after(seconds):
        yield


def refusal_of(error: Exception) -> Refused:
    """Turn an error into the response for the client.

    Args:
        error: The error; internal errors are logged.
    """
    if isinstance(error, Refused):
        return error
    if isinstance(error, TimeoutError):
        return Refused(
            503,
            "the request was not answered in time: the server is busy, or its clouds are too large",
            {"Retry-After": AGAIN_AFTER},
        )
    if isinstance(error, ClientDisconnect):
        return Refused(400, "the request ended before its body did")
    if isinstance(error, DaptError):
        return Refused(422, shown(" ".join(str(error).split()))[:LONGEST])
    sentence = said_of_the_machine(error)
    if sentence is not None:
        log.error("%s", sentence)
        return Refused(503, "the server has too little memory for this request now: try later")
    log.error("a request failed", exc_info=error)
    return Refused(500, "the server failed on this request; see its log")


async def _file_of(request: Request, content: bytes) -> tuple[bytes, str]:
    """(content, name) of the one file of a form."""

    async def stream():
        yield content

    parser = MultiPartParser(request.headers, stream(), max_files=1, max_fields=0)
    parser.spool_max_size = len(content) + 1  # keeps the file in memory
    try:
        form = await parser.parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise Refused(422, f"the form cannot be read: {shown(error)[:200]}") from None
    files = [value for _, value in form.multi_items() if hasattr(value, "filename")]
    if not files:
        raise Refused(422, "the form must hold one file")
    return await files[0].read(), files[0].filename or ""
