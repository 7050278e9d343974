"""What is read while something else computes."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in their order, made by a thread of its own. Its error comes when its turn does.

    Args:
        items: What is gone through in that thread.
        count: How many may wait for whoever takes them.
    """
    line: SimpleQueue = SimpleQueue()  # of (item, whether it is one, the error that ended them)
    room, left = threading.Semaphore(count), threading.Event()

    def fill() -> None:
        error = None
        try:
            for item in items:
                room.acquire()
                if left.is_set():
                    return
                line.put((item, True, None))
        except BaseException as reason:  # of whatever kind, it belongs to whoever waits
            error = reason
        line.put((None, False, error))

    thread = threading.Thread(target=fill, name="dapt-reading", daemon=True)
    thread.start()
    try:
        while True:
            item, is_item, error = line.get()
            if error is not None:
                raise error
            if not is_item:
                return
            room.release()
            yield item
    finally:
        left.set()
        room.release()
        thread.join()
