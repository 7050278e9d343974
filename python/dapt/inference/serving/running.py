"""The process of a server: its socket, its handling of slow clients, its shutdown."""

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
PATIENCE = 20.0  # seconds for the head of a request, and for the next bytes of a response
SPARE = 32  # connections in addition to those with requests in progress
AFTER_LAST = 5.0  # seconds to send responses at shutdown, after the time limit of requests


def serve(
    shelf: Shelf,
    host: str,
    port: int,
    limits: Limits,
    token: str | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the requests in progress.

    Args:
        shelf: The adapters.
        host: The address to listen on; a loopback address accepts only this machine.
        port: The port; 0 for any free one.
        limits: The limits of requests.
        token: The token that allows loading and unloading adapters; None to forbid both.
        ready: Called with the server's URL when it is listening.
    """
    listening = _listen(host, port)
    server = server_of(shelf, limits, token, frozenset(LOOPBACK) if host in LOOPBACK else None)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again after its shutdown
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
    """Create a server that is ready to run.

    Args:
        shelf: The adapters.
        limits: The limits of requests.
        token: The token that allows loading and unloading adapters; None to forbid both.
        hosts: The host names that requests may use; None for any.
        patience: Seconds that a client may take for the head of a request and for receiving the
            next bytes of a response.
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
    """uvicorn's HTTP protocol with timeouts for slow clients.

    A connection is closed if the head of a request or the receipt of a response takes too long.
    Bodies count toward the time limit of their requests.

    Args:
        seconds: The timeout.
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
