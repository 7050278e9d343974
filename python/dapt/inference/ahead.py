"""Read items in a thread while something else computes."""

import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """Iterate over items in a background thread and yield them in order.

    An error is raised after all items that precede it.

    Args:
        items: The iterable to consume in the thread.
        count: The largest number of items to read ahead.
    """
    line: SimpleQueue = SimpleQueue()  # of (item, whether there is one, the error that ended them)
    room, left = threading.Semaphore(count), threading.Event()

    def fill() -> None:
        error = None
        try:
            for item in items:
                room.acquire()
                if left.is_set():
                    return
                line.put((item, True, None))
        except BaseException as reason:  # raised again in the consumer
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
