"""Progress bars with the time left, on a terminal only."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 0.5  # seconds; shorter work gets no bar
WHOLE = "DAPT_WHOLE"  # tells a process which larger work it belongs to: "done/total/what"


def is_watched() -> bool:
    """Whether messages go to a terminal and rich is installed to draw on it."""
    return sys.stderr.isatty() and find_spec("rich") is not None


def watched(
    items: Iterable[T],
    what: str,
    total: int | Callable[[], int] | None = None,
    shown: bool = True,
) -> Iterator[T]:
    """Iterate over the items under a progress bar.

    Args:
        items: The items.
        what: The text before the bar.
        total: The number of items, or a function that counts them if a bar is drawn.
        shown: Whether this process shows the bar.
    """
    if not (shown and is_watched()):
        yield from items
        return
    with Bar(what, total() if callable(total) else total) as bar:
        for item in items:
            yield item
            bar.advance()


class Bar:
    """A progress bar at the bottom of the terminal, while its context lasts.

    Args:
        what: The text before the bar.
        total: The number of steps; None if it is not known.
        done: Steps already done.
        shown: Whether this process shows the bar.
        patience: Seconds before the bar appears.
    """

    def __init__(
        self,
        what: str,
        total: float | None = None,
        done: float = 0,
        shown: bool = True,
        patience: float = PATIENCE,
    ):
        self.what, self.total, self.done, self.note = what, total, done, ""
        self.shown, self.patience = shown and is_watched(), patience
        self._task: int | None = None

    def __enter__(self) -> "Bar":
        self._begun = time.monotonic()
        self.update()
        return self

    def __exit__(self, *_) -> None:
        if self._task is not None:
            _display.remove(self._task)
            self._task = None

    def advance(self, steps: float = 1) -> None:
        """Count more steps as done.

        Args:
            steps: The number of steps.
        """
        self.update(done=self.done + steps)

    def update(self, **changes) -> None:
        """Change `what`, `total`, `done` or `note`, the text after the time."""
        for name, value in changes.items():
            setattr(self, name, value)
        if not self.shown:
            return
        if self._task is None and time.monotonic() - self._begun >= self.patience:
            self._task = _display.add(self)
        if self._task is not None:
            _display.update(self._task, self)

    @property
    def speed(self) -> float:
        """The recent number of steps per second; 0 if nothing is drawn."""
        return 0.0 if self._task is None else _display.speed(self._task)


def part_of_whole(what: str, done: int, total: int) -> dict[str, str]:
    """The variable that tells a process which larger work it belongs to, whose bar it also draws.

    Args:
        what: The larger work.
        done: The number of complete parts.
        total: The number of parts.
    """
    return {WHOLE: f"{done}/{total}/{what}"}


def whole(shown: bool = True) -> Bar:
    """The bar of the larger work that this process belongs to, for the first caller only.

    Later callers, and processes without larger work, get a bar that is not shown.

    Args:
        shown: Whether this process shows the bar.
    """
    done, total, what = os.environ.pop(WHOLE, "0/1/").split("/", 2)
    return Bar(what, int(total), int(done), shown=shown and bool(what), patience=0)


def say(line: str) -> None:
    """Print a line of the log above all bars.

    Args:
        line: The text, without a newline.
    """
    print(line, file=sys.stderr, flush=True)


class _Display:
    """All bars of this process, one below the other, drawn by rich."""

    def __init__(self):
        self._lock, self._drawn, self._bars = threading.RLock(), None, 0

    def add(self, bar: Bar) -> int:
        with self._lock:
            if self._drawn is None:
                self._drawn = _drawing()
                self._drawn.start()
            self._bars += 1
            return self._drawn.add_task(bar.what, total=bar.total, completed=bar.done, note="")

    def update(self, task: int, bar: Bar) -> None:
        with self._lock:
            self._drawn.update(
                task, description=bar.what, total=bar.total, completed=bar.done, note=bar.note
            )

    def speed(self, task: int) -> float:
        with self._lock:
            return next((t.speed or 0.0 for t in self._drawn.tasks if t.id == task), 0.0)

    def remove(self, task: int) -> None:
        with self._lock:
            self._drawn.remove_task(task)
            self._bars -= 1
            if not self._bars:
                self._drawn.stop()
                self._drawn = None


def _drawing():
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # output to a file must not pass through the terminal
    )


_display = _Display()
