"""The process of a server: its socket, clients that are slow, how it stops."""

import asyncio
import signal
import socket
from collections.abc import Callable

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dapt.errors import DaptError
from dapt.inference.serving.app import create_app
from dapt.inference.serving.limits import Limits
from dapt.inference.serving.shelf import Shelf

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 20.0  # seconds for the head of a request, and for the next bytes of an answer
SPARE = 32  # connections beside those whose requests are under way
AFTER_LAST = 5.0  # seconds after the time of a request, in which answers leave


def serve(
    shelf: Shelf,
    host: str,
    port: int,
    limits: Limits,
    token: str | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; what is under way then is finished.

    Args:
        shelf: The adapters.
        host: The address; that of this machine alone keeps others out.
        port: 0 for any free one.
        limits: What the server takes on.
        token: Of whoever may load and unload adapters.
        ready: Is told the server's URL when it listens.
    """
    listening = _listen(host, port)
    server = server_of(shelf, limits, token, frozenset(LOOPBACK) if host in LOOPBACK else None)
    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn sends once more at its end
        signal.signal(number, lambda *_: None)
    name = f"[{host}]" if ":" in host else host
    ready(f"http://{name}:{listening.getsockname()[1]}")
    server.run(sockets=[listening])


def server_of(
    shelf: Shelf,
    limits: Limits,
    token: str | None = None,
    hosts: frozenset[str] | None = None,
    patience: float = PATIENCE,
) -> uvicorn.Server:
    """A server that waits to be run.

    Args:
        shelf: The adapters.
        limits: What it takes on.
        token: Of whoever may load and unload adapters.
        hosts: The names that it may be called by, or any.
        patience: Seconds that clients have for the head of a request and for taking an answer.
    """
    config = uvicorn.Config(
        create_app(shelf, limits, token, hosts),
        http=patient(patience),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.queue + SPARE,
        timeout_graceful_shutdown=int(limits.seconds + AFTER_LAST),
        timeout_keep_alive=int(patience) + 1,
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DaptError(f"cannot serve on {host} port {port}: {reason}") from None


def patient(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which lets go of a client that takes so long over the head of a request
    or over taking its answer. Bodies are within the time of their requests.

    Args:
        seconds: How long.
    """

    class Patient(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _taking: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._await_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._head, self._taking):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
            self._head = self.loop.call_later(seconds, self._give_up_on_head)

        def _give_up_on_head(self) -> None:
            if self.conn.their_state is h11.IDLE:
                self.transport.abort()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taking = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._taking is not None:
                self._taking.cancel()

    return Patient
