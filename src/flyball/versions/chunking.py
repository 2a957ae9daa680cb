"""Cut a file where its content says so: a changed byte changes one chunk, an inserted row moves no other.

FastCDC, on all cores: each segment of the file is cut by itself from its start, and joined to the one before by cutting
on over the seam until both agree. Once two ways of cutting share one cut they share all that follow, so the chunks are
exactly those of one pass from the beginning.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple

from blake3 import blake3
from pyfastcdc import FastCDC

AVERAGE_BYTES = 64 << 10
LEAST_BYTES = AVERAGE_BYTES // 4
MOST_BYTES = AVERAGE_BYTES * 4
SEGMENT_BYTES = 8 << 20
_SEAM_BYTES = 1 << 20
_IN_USE = 6  # segments that a caller may hold unreleased at a time
THREADS = min(8, max(2, os.cpu_count() or 1))


class Piece(NamedTuple):
    """One chunk of a file: its digest and its bytes, good until its segment is released."""

    digest: bytes
    data: memoryview


class Segment(NamedTuple):
    """Part of a file in order, with the chunks that end in it."""

    data: memoryview
    pieces: list[Piece]
    release: Callable[[], None]


class Cutter:
    """Cuts files into chunks in bounded memory: some ten segments at once.

    >>> with Cutter() as cutter, open("/etc/hosts", "rb") as file:
    ...     whole = b"".join(piece.data for one in cutter.cut(file.fileno()) for piece in one.pieces)
    >>> whole == open("/etc/hosts", "rb").read()
    True
    """

    def __init__(self, threads: int = THREADS, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="flyball-cut")
        self._ahead = threads + 1
        self._segment_bytes = segment_bytes
        self._buffers: SimpleQueue[bytearray | None] = SimpleQueue()
        for _ in range(self._ahead + _IN_USE):
            self._buffers.put(None)  # made when first needed

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def cut(self, handle: int, forced: Sequence[int] = ()) -> Iterator[Segment]:
        """Segments of an open file, in order, until its end. Each is to be released once its chunks are done with.

        ``forced`` are offsets, in order, where a chunk ends whatever the content says.
        """
        size_bytes = os.fstat(handle).st_size
        starts = iter(range(0, max(size_bytes, 1), self._segment_bytes))
        waiting: list[Future[_Cut]] = []
        seam = _Seam(forced)
        done = False
        try:
            while not done:
                while len(waiting) < self._ahead and (start := next(starts, None)) is not None:
                    buffer = self._buffers.get() or bytearray(self._segment_bytes)
                    waiting.append(self.pool.submit(self._read_and_cut, handle, start, buffer, forced))
                if not waiting:
                    return
                cut = waiting.pop(0).result()
                # a file cut short ends here; one that grew is told from its size by who added it
                done = cut.start + len(cut.data) >= size_bytes or len(cut.data) < self._segment_bytes
                yield Segment(cut.data, seam.joined(cut, last=done), self._release(cut.buffer))
        finally:
            for future in waiting:
                future.cancel()
                if not future.cancelled():
                    self._buffers.put(future.result().buffer)
                else:
                    self._buffers.put(None)

    def _release(self, buffer: bytearray) -> Callable[[], None]:
        return lambda: self._buffers.put(buffer)

    def _read_and_cut(self, handle: int, start: int, buffer: bytearray, forced: Sequence[int]) -> _Cut:
        view = memoryview(buffer)
        filled = 0
        while filled < len(view) and (read := os.preadv(handle, [view[filled:]], start + filled)):
            filled += read
        data = view[:filled]
        within = forced[bisect_right(forced, start) : bisect_left(forced, start + filled)]
        pieces = cut_bytes(data, [one - start for one in within])
        return _Cut(start, data, pieces, buffer)


class _Cut(NamedTuple):
    start: int
    data: memoryview
    pieces: list[Piece]
    buffer: bytearray


def cut_bytes(data: memoryview | bytes, forced: Sequence[int] = ()) -> list[Piece]:
    """The chunks of bytes in memory, from their first to their last.

    >>> [len(piece.data) for piece in cut_bytes(bytes(300_000))]
    [262144, 37856]
    """
    view = memoryview(data)
    pieces: list[Piece] = []
    for start, end in zip((0, *forced), (*forced, len(view)), strict=True):
        cutter = FastCDC(AVERAGE_BYTES, min_size=LEAST_BYTES, max_size=MOST_BYTES)
        pieces += [
            Piece(blake3(chunk.data).digest(), chunk.data) for chunk in cutter.cut_buf(view[start:end])
        ]
    return pieces


class _Seam:
    """Joins segments that were cut each by itself; holds the chunk that the last one did not end."""

    def __init__(self, forced: Sequence[int]) -> None:
        self._forced = forced
        self._ends = frozenset(forced)
        self._open = b""

    def joined(self, cut: _Cut, *, last: bool) -> list[Piece]:
        """The chunks that end in this segment (all that are left, when it is the last)."""
        end = cut.start + len(cut.data)
        pieces = self._over_the_seam(cut) if self._open else list(cut.pieces)
        if last or not pieces or end in self._ends or len(pieces[-1].data) == MOST_BYTES:
            self._open = b""
            return pieces
        self._open = bytes(pieces.pop().data)
        return pieces

    def _over_the_seam(self, cut: _Cut) -> list[Piece]:
        head_bytes = len(self._open)
        ends: dict[int, int] = {}  # where a chunk of the segment ends, and how many chunks that are
        at = 0
        for number, piece in enumerate(cut.pieces, 1):
            at += len(piece.data)
            ends[at] = number
        taken = min(_SEAM_BYTES, len(cut.data))
        while True:
            joint = self._open + bytes(cut.data[:taken])
            base = cut.start - head_bytes
            within = self._forced[
                bisect_right(self._forced, base) : bisect_left(self._forced, base + len(joint))
            ]
            forced = [one - base for one in within]
            pieces: list[Piece] = []
            at = 0
            cutter = cut_bytes(joint, forced)
            for piece in cutter[:-1] if taken < len(cut.data) else cutter:
                pieces.append(piece)
                at += len(piece.data)
                if at >= head_bytes and (at == head_bytes or at - head_bytes in ends):
                    return pieces + cut.pieces[ends.get(at - head_bytes, 0) :]
            if taken == len(cut.data):
                return pieces
            taken = min(taken * 8, len(cut.data))
