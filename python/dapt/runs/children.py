"""Child processes: stopping a process stops its children, and none outlives its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from dapt.errors import Interrupted

PARENT = "DAPT_PARENT"  # in a child's environment: the process whose end it follows
SIGNALS = (signal.SIGINT, signal.SIGTERM)
AT_ONCE = 1.0  # seconds in which signals count as one: a terminal and a launcher may both send it


@contextmanager
def on_signals(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` when this process is asked to stop, once for signals that arrive together.

    Only the main thread receives signals; in any other thread this does nothing.

    Args:
        act: Called with the signal's number.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -AT_ONCE

    def handle(number: int, _) -> None:
        nonlocal last
        if time.monotonic() - last >= AT_ONCE:
            last = time.monotonic()
            act(number)

    handlers = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run_child(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command that ends with this process; stopping this process stops it and waits for it.

    Args:
        command: The program and its arguments.
        environment: Variables to add to this process's environment.

    Returns:
        Its exit code; a negative one is the signal that killed it.
    """
    child, asked = None, []

    def pass_on(number: int) -> None:
        asked.append(number)
        if child is not None:
            child.send_signal(number)

    with on_signals(pass_on):
        child = start_child(command, environment)
        if asked:
            child.send_signal(asked[0])
        code = child.wait()
    if asked:
        raise Interrupted("stopped: repeat the command to continue")
    return code


def start_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None, **options
) -> subprocess.Popen:
    """Start a command that ends with this process.

    Args:
        command: The program and its arguments.
        environment: Variables to add to this process's environment.
        options: Further options of `subprocess.Popen`.
    """
    own = {**os.environ, **(environment or {}), PARENT: str(os.getpid())}
    return subprocess.Popen(command, env=own, **options)


def threads(cores: int | None) -> dict[str, str]:
    """Variables that limit a child to its share of the cores, unless the user has set them.

    Args:
        cores: The number of cores; None for all.
    """
    names = () if cores is None else ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: str(cores) for name in names if name not in os.environ}


def end_with_parent() -> None:
    """In a child that must end with its parent: be asked to stop when the parent is gone."""
    parent = int(os.environ.pop(PARENT, "0"))
    if not parent:
        return
    told = sys.platform == "linux" and ctypes.CDLL(None).prctl(1, signal.SIGTERM) == 0  # PDEATHSIG
    if os.getppid() != parent:  # the parent was already gone
        _stop()
    elif not told:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    _stop()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
