"""The write-ahead log of predictions, shadows and labels: records, frames, the writer of one process.

One append-only file (segment) per process at a time, in frames: length, CRC-32, MessagePack. A frame is handed to the
kernel by one ``write(2)`` before the answer leaves, so a killed process loses nothing that a client saw; ``fsync`` runs
on a timer, so a lost machine loses at most the last second. The writer holds an ``flock`` on its segment as long as it
lives: whoever gets that lock knows that the segment is closed. Workers import this file: no polars here.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import Unavailable

log = logging.getLogger(__name__)

SUFFIX = ".wal"
_MOST_BYTES = 64 * 1024 * 1024  # of a payload: above the largest body that is taken
_TRIED_BYTES = 64 * 1024
_HEAD = struct.Struct("<II")  # payload bytes, CRC-32 of the payload


class Prediction(msgspec.Struct, array_like=True, tag=1, gc=False):
    """One answered row. ``rho`` is the probability that it went to the candidate, decided before its outcome.

    ``assigned`` was drawn, ``model`` answered: they differ when the champion stood in (``fallback``), and then
    ``error`` says why. ``arm`` is "champion", "candidate" or "pinned" (the client named a version: no experiment).
    """

    id: str
    at_us: int
    endpoint: str
    assigned: str
    arm: str
    rho: float
    model: str
    output: float | None
    features: list[float | None]
    times_us: list[int | None]
    entities: dict[str, Any]
    fallback: bool = False
    error: str = ""
    latency_us: int = 0
    candidate_latency_us: int | None = None
    generation: int = 0
    pid: int = 0


class Shadow(msgspec.Struct, array_like=True, tag=2, gc=False):
    """What a model that did not answer would have said. ``latency_us`` is its share of a batch."""

    id: str  # of the prediction
    at_us: int
    endpoint: str
    model: str
    output: float | None
    error: str = ""
    latency_us: int = 0


class Label(msgspec.Struct, array_like=True, tag=3, gc=False):
    """What really happened to a prediction, when that became known, and when we heard."""

    id: str
    value: float
    known_us: int
    received_us: int


Record = Prediction | Shadow | Label

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Prediction | Shadow | Label] = msgspec.msgpack.Decoder(Record)


def frame(record: Record) -> bytes:
    """A record as it lies in a segment."""
    payload = _encoder.encode(record)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def unframe(data: bytes, start: int = 0) -> tuple[list[Record], int]:
    """The whole records from ``start`` on, and where the first incomplete or torn frame begins.

    >>> data = frame(Label("p_1", 1.0, 5, 6))
    >>> unframe(data + data[:7])
    ([Label(id='p_1', value=1.0, known_us=5, received_us=6)], 25)
    """
    was_on = gc.isenabled()
    gc.disable()  # records hold no cycles, and collecting while millions of them appear costs 40 % of the time
    try:
        return _unframe(data, start)
    finally:
        if was_on:
            gc.enable()


def _unframe(data: bytes, start: int) -> tuple[list[Record], int]:
    records: list[Record] = []
    add, decode, head, crc32 = records.append, _decoder.decode, _HEAD.unpack_from, zlib.crc32
    at, end, view = start, len(data), memoryview(data)
    while at + 8 <= end:
        size, checksum = head(data, at)
        stop = at + 8 + size
        if stop > end and size <= _MOST_BYTES:
            break  # its writer is not done, or was killed: the torn tail
        payload = view[at + 8 : stop]
        if not 0 < size <= _MOST_BYTES or crc32(payload) != checksum:
            found = _next_frame(view, at + 1, end)
            if found is None:
                break
            log.warning("%d damaged bytes of a prediction log were skipped", found - at)
            at = found
            continue
        at = stop
        try:
            add(decode(payload))
        except msgspec.DecodeError:
            log.warning("a record of an unknown kind was skipped; is this Flyball older than the writer?")
    return records, at


def _next_frame(view: memoryview, start: int, end: int) -> int | None:
    """Where the next whole frame begins behind damaged bytes; ``None`` when there is none."""
    for at in range(start, end - 8):
        size, checksum = _HEAD.unpack_from(view, at)
        if (
            0 < size <= min(_MOST_BYTES, end - at - 8)
            and zlib.crc32(view[at + 8 : at + 8 + size]) == checksum
        ):
            return at
    return None


def damaged(data: bytes) -> bool:
    """Whether bytes of a closed segment have changed; a torn tail alone is no damage.

    A frame that is whole but for its length looks torn, being shorter than it says; its checksum tells the two apart.

    >>> whole = frame(Label("p_1", 1.0, 5, 6))
    >>> damaged(whole + whole[:9]), damaged(whole[:-1] + b"x" + whole), damaged(b"\\xff" + whole[1:])
    (False, True, True)
    """
    at, end, view = 0, len(data), memoryview(data)
    while at + 8 <= end:
        size, checksum = _HEAD.unpack_from(view, at)
        stop = at + 8 + size
        if stop > end and size <= _MOST_BYTES:
            return _next_frame(view, at + 1, end) is not None or _has_another_length(view, at, end)
        if not 0 < size <= _MOST_BYTES or zlib.crc32(view[at + 8 : stop]) != checksum:
            return True
        at = stop
    return False


def _has_another_length(view: memoryview, at: int, end: int) -> bool:
    """Whether the frame at ``at`` is whole with another length than it says.

    Its payload may end anywhere before ``end`` (a torn frame may follow). A torn one passes by chance once in 2^32
    for each byte of it that is there; of a long one, only the whole rest is tried.
    """
    checksum: int = _HEAD.unpack_from(view, at)[1]
    if end - at - 8 > _TRIED_BYTES:
        return zlib.crc32(view[at + 8 : end]) == checksum
    found = 0
    for stop in range(at + 9, end + 1):
        found = zlib.crc32(view[stop - 1 : stop], found)
        if found == checksum:
            return True
    return False


class LogWriter:
    """Appends records for one process; safe from several threads.

    ``append`` returns when the kernel has the bytes; it raises :class:`Unavailable` when it has not (a full disk), and
    then the segment is cut back to its last whole frame, so that nothing acknowledged before is harmed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = 8 * 1024 * 1024,
        idle_s: float = 60.0,
        oldest_s: float = 600.0,
    ) -> None:
        self.folder = folder
        self._segment_bytes, self._idle_s, self._oldest_s = segment_bytes, idle_s, oldest_s
        self._lock = threading.Lock()
        self._fd = -1
        self._size = 0
        self._count = 0
        self._dirty = False
        self._opened = self._written = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, records: Sequence[Record]) -> None:
        """Hand all of them to the kernel in one ``write(2)``; all are written or none counts."""
        payload = frame(records[0]) if len(records) == 1 else b"".join(map(frame, records))
        with self._lock:
            try:
                if self._fd < 0 or self._size >= self._segment_bytes:
                    self._rotate()
                written = os.write(self._fd, payload)
            except OSError as error:
                raise self._full(error.strerror or str(error)) from error
            if written != len(payload):
                self._cut_back()
                raise self._full(f"only {written} of {len(payload)} bytes fitted")
            self._size += written
            self._dirty = True
            self._written = time.monotonic()

    def tend(self) -> None:
        """Flush to the disk, and close a segment that is idle or old. A timer calls this, off the hot path."""
        with self._lock:
            fd = os.dup(self._fd) if self._fd >= 0 and self._dirty else -1
            self._dirty = False
        if fd >= 0:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        with self._lock:
            now = time.monotonic()
            idle = now - self._written > self._idle_s or now - self._opened > self._oldest_s
            if self._fd >= 0 and self._size and idle:
                self._close()

    def close(self) -> None:
        """Flush and let go of the segment: from here on it may be compacted."""
        self.tend()
        with self._lock:
            self._close()

    def _rotate(self) -> None:
        if self._fd >= 0:
            os.fsync(self._fd)
        self._close()
        self._count += 1
        # Locked under another name first: a segment that can be seen without its lock would look closed.
        name = f"{time.time_ns() // 1000:016d}-{os.getpid()}-{self._count}{SUFFIX}"
        staged = self.folder / f".{name}"
        fd = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(fd, fcntl.LOCK_EX)
        staged.rename(self.folder / name)
        self._fd, self._size = fd, 0
        self._opened = self._written = time.monotonic()

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:  # the torn frame ends this segment; a reader stops there, and the next one is new
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _full(self, said: str) -> Unavailable:
        return Unavailable(
            f"the prediction log can't be written: {said}",
            f"free some space on the disk of {self.folder}; nothing acknowledged was lost",
        )


def segments(folder: Path) -> list[Path]:
    """All segments, oldest first."""
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX) and path.name[0] != ".")
    except FileNotFoundError:
        return []


def is_closed(segment: Path) -> bool:
    """Whether no living process writes here any more."""
    try:
        fd = os.open(segment, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def read_from(segment: Path, offset: int = 0) -> tuple[list[Record], int]:
    """The whole records of one segment from ``offset``, and the offset for the next time.

    Raises FileNotFoundError when it was compacted meanwhile: its records are in the tables by then.
    """
    with segment.open("rb", buffering=0) as file:
        if offset:
            file.seek(offset)
        data = file.read()
    records, used = unframe(data)
    return records, offset + used


class Tail:
    """Follows a log folder: each record once, over all segments, in rounds.

    A tail with a name keeps its place in ``<folder>/cursors/<name>.json`` when :meth:`save` is called, starts there
    next time, and compaction leaves the segments that it has not read to the end. Without a name the place is yours to
    keep (:meth:`cursor`), and segments compacted before they were read are not seen.
    """

    def __init__(self, folder: Path, *, name: str = "", cursor: dict[str, int] | None = None) -> None:
        self.folder = folder
        self._file = folder / "cursors" / f"{name}.json" if name else None
        if cursor is None and self._file is not None and self._file.is_file():
            cursor = load_cursor(self._file)
        self._offsets = dict(cursor or {})
        if self._file is not None:
            self.save()  # from now on compaction waits for us

    def cursor(self) -> dict[str, int]:
        """Segment name to bytes read: pass it to the next ``Tail`` to go on from here."""
        return dict(self._offsets)

    def save(self) -> None:
        """Keep the place of a named tail, atomically."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        staged = self._file.with_suffix(f".{os.getpid()}")
        staged.write_bytes(msgspec.json.encode(self._offsets))
        staged.replace(self._file)

    def read(self) -> list[Record]:
        """Everything new since the last call; empty when nothing is."""
        return [record for batch in self._batches() for record in batch]

    def _batches(self) -> Iterator[list[Record]]:
        present = segments(self.folder)
        names = {segment.name for segment in present}
        for gone in [name for name in self._offsets if name not in names]:
            del self._offsets[gone]
        for segment in present:
            offset = self._offsets.get(segment.name, 0)
            try:
                if segment.stat().st_size == offset:
                    continue
                records, self._offsets[segment.name] = read_from(segment, offset)
            except FileNotFoundError:
                continue
            yield records


def load_cursor(file: Path) -> dict[str, int]:
    """A saved cursor."""
    return msgspec.json.decode(file.read_bytes(), type=dict[str, int])
