"""Write a run's numbers for TensorBoard."""

import platform
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from dapt.files import writing


class Events:
    """A file of events, written line by line, so that a disk error shows at once.

    Args:
        folder: The folder that TensorBoard reads.
    """

    def __init__(self, folder: Path):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary, self._writer = Event, Summary, RecordWriter
        now = time.time()
        self.path = folder / f"events.out.tfevents.{now:.6f}.{platform.node()}"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._append(Event(wall_time=now, file_version="brain.Event:2"))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        """Add numbers, by name.

        Args:
            step: Their position in a chart.
            numbers: The numbers to draw.
        """
        values = [
            self._summary.Value(tag=name, simple_value=value) for name, value in numbers.items()
        ]
        summary = self._summary(value=values)
        self._append(self._event(wall_time=time.time(), step=step, summary=summary))

    def _append(self, event) -> None:
        buffer = BytesIO()
        self._writer(buffer).write(event.SerializeToString())
        with writing(self.path), open(self.path, "ab") as file:
            file.write(buffer.getvalue())
