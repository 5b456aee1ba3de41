"""Event files of TensorBoard, written and cut without TensorFlow."""

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from worklab.files import replacing
from worklab.tfrecords import scan_records, write_record

_logger = logging.getLogger(__name__)

_NAMES = "events.out.tfevents.*"


class EventFile:
    """A new event file in the folder of a TensorBoard run.

    It is open while an event is written, and not between: TensorBoard sees each event
    at once, a process that is killed loses none, and nothing has to be closed.

    Args:
        folder: Of the TensorBoard run; made if need be.

    Raises:
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _next_name(folder)
        self._write(Event(file_version="brain.Event:2"))

    def write_values(self, step: int, values: Sequence[Any]) -> None:
        """Write an event with `Summary.Value`s, as `tensorboard_values` makes them."""
        self._write(Event(step=step, summary=Summary(value=values)))

    def write_graph(self, step: int, graph: bytes) -> None:
        """Write an event with a serialised `GraphDef`."""
        self._write(Event(step=step, graph_def=graph))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        with open(self._path, "ab") as file:
            write_record(file, event.SerializeToString())


def _next_name(folder: Path) -> str:
    """Return a name after all that are in a folder.

    TensorBoard, and `cut_events`, read files in the order of their names, which begin
    with the time: also where a clock was set back, or several are made in a second.
    """
    now = f"{time.time():017.6f}.{socket.gethostname()}"
    prefix = _NAMES.removesuffix("*")
    last = max((path.name for path in folder.glob(_NAMES)), default="")
    if last < prefix + now:
        return prefix + now
    return f"{last}.{now}"


def cut_events(folder: Path, last_step: int) -> None:
    """Rewrite the event files of a folder up to a step, as one file.

    Raises:
        OSError: If one cannot be read or written.
    """
    paths = sorted(folder.glob(_NAMES))
    # Once each, also when this was killed half-way.
    kept = dict.fromkeys(
        record
        for path in paths
        for record in _whole_records(path)
        if Event.FromString(record).step <= last_step
    )
    if kept:
        with replacing(paths.pop(0)) as part, open(part, "wb") as file:
            for record in kept:
                write_record(file, record)
    for path in paths:
        path.unlink()


def _whole_records(path: Path) -> Iterator[bytes]:
    try:
        for _, record in scan_records(path):
            yield record
    except ValueError:
        # The disk was full, or the machine died; what stands before is whole.
        _logger.info("the last record of %s is torn, and taken away", path)
