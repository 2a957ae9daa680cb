"""Put chunks into a store: each looked up first, what is new compressed on all cores and appended to packs, in order.

A chunk that the index names is believed only once it is seen in its pack's own rows, and the pack counts as new from then
on, so that a collection leaves it alone. Nothing written here is named by anything yet: a killed process leaves packs that
the next collection takes, and that the next adding finds again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol, Self

from flyball.errors import FlyballError
from flyball.stores.blobs import Blobs
from flyball.stores.pack_index import PackIndex, index_of
from flyball.stores.packs import Body, PackRef, PackWriter, body_of, new_compressor, read_rows

_AHEAD = 3  # batches that are compressed while an earlier one is written
_MOST_CONFIRMED = 512  # packs whose rows are held: those of 8 GiB
_MOST_WRITTEN = 500_000

Place = tuple[int, int]  # a pack's number in this session, a chunk's number in that pack


class Piece(Protocol):
    @property
    def digest(self) -> bytes: ...
    @property
    def data(self) -> bytes | memoryview: ...


class _Batch(NamedTuple):
    pieces: Sequence[Piece]
    known: list[Place | None]
    bodies: Future[list[Body]]
    new: list[int]
    done: Callable[[list[Place]], None]


class PackSession:
    """Everything that one adding puts into packs. ``stored_bytes`` is what was newly written, ``new_chunks`` how many.

    ``lasting`` are packs that a live snapshot names; they are looked into first. In a remote store an old pack that is
    none of them may be collected while we rely on it, so its chunks are stored again.
    """

    def __init__(self, blobs: Blobs, pool: ThreadPoolExecutor, *, lasting: Sequence[PackRef] = ()) -> None:
        self._blobs = blobs
        self._index: PackIndex = index_of(blobs)
        self._pool = pool
        self._lasting = {pack.digest for pack in lasting}
        self._index.learn(blobs, lasting)  # another machine may have written them
        self._thread = threading.local()
        self._batches: deque[_Batch] = deque()
        self._in_flight: set[bytes] = set()
        self._writer: PackWriter | None = None
        self._written: dict[bytes, Place] = {}
        self._open: list[bytes] = []  # digests of the pack that is written now
        self._opened = -1  # its number
        self._confirmed: OrderedDict[str, dict[bytes, int]] = OrderedDict()
        self._numbers: dict[str, int] = {}
        self.packs: list[PackRef | None] = []
        self.stored_bytes = 0
        self.new_chunks = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._writer is not None:
            self._writer.__exit__(*reason)
            self._writer = None

    def put(self, pieces: Sequence[Piece], done: Callable[[list[Place]], None]) -> None:
        """Take chunks in; ``done`` hears their places, in order of the calls, and then their bytes may go."""
        if len(self._written) > _MOST_WRITTEN:
            self.flush()
            self._close()
            self._written.clear()  # the index has them
        known = self._look_up(pieces)
        new: list[int] = []
        for number, (piece, place) in enumerate(zip(pieces, known, strict=True)):
            if place is None and piece.digest not in self._in_flight:
                new.append(number)
                self._in_flight.add(piece.digest)
        bodies = self._pool.submit(self._compress, [pieces[number].data for number in new])
        self._batches.append(_Batch(pieces, known, bodies, new, done))
        while len(self._batches) > _AHEAD:
            self._write(self._batches.popleft())

    def rely_on(self, pack: PackRef) -> int | None:
        """A pack's number, when it is still there and counts as new from now on."""
        if pack.digest not in self._numbers and not self._rows_of(pack):
            return None
        return self._number_of(pack)

    def flush(self) -> None:
        """Wait until everything that was put has its place."""
        while self._batches:
            self._write(self._batches.popleft())

    def finish(self) -> list[PackRef]:
        """Close the last pack; returns all packs by their number."""
        self.flush()
        self._close()
        return [pack for pack in self.packs if pack is not None]

    def _compress(self, chunks: Sequence[bytes | memoryview]) -> list[Body]:
        if not hasattr(self._thread, "compressor"):
            self._thread.compressor = new_compressor()
        return [body_of(chunk, self._thread.compressor) for chunk in chunks]

    def _look_up(self, pieces: Sequence[Piece]) -> list[Place | None]:
        known: list[Place | None] = [self._written.get(piece.digest) for piece in pieces]
        asked = [number for number, place in enumerate(known) if place is None]
        for number, pack in zip(asked, self._index.find([pieces[one].digest for one in asked]), strict=True):
            if pack is None:
                continue
            row = self._rows_of(pack).get(pieces[number].digest)
            if row is not None:
                known[number] = (self._number_of(pack), row)
        return known

    def _rows_of(self, pack: PackRef) -> dict[bytes, int]:
        if (found := self._confirmed.get(pack.digest)) is not None:
            return found
        found = self._confirm(pack)
        self._confirmed[pack.digest] = found
        if len(self._confirmed) > _MOST_CONFIRMED:
            self._confirmed.popitem(last=False)
        return found

    def _confirm(self, pack: PackRef) -> dict[bytes, int]:
        try:
            if not self._blobs.refresh(pack.digest) and pack.digest not in self._lasting:
                self._index.forget(pack)
                return {}
            return {row.digest: number for number, row in enumerate(read_rows(self._blobs, pack))}
        except FlyballError:
            self._index.forget(pack)  # gone or broken: its chunks are stored again
            return {}

    def _number_of(self, pack: PackRef) -> int:
        if pack.digest not in self._numbers:
            self._numbers[pack.digest] = len(self.packs)
            self.packs.append(pack)
        return self._numbers[pack.digest]

    def _write(self, batch: _Batch) -> None:
        bodies = batch.bodies.result()
        if batch.new:
            if self._writer is None:
                self._begin()
            assert self._writer is not None
            rows = []
            for number, body in zip(batch.new, bodies, strict=True):
                piece = batch.pieces[number]
                rows.append((piece.digest, len(piece.data), len(body)))
                self.stored_bytes += len(body)
            first = self._writer.add_all(rows, bodies)
            self.new_chunks += len(rows)
            for offset, (digest, _, _) in enumerate(rows):
                self._written[digest] = (self._opened, first + offset)
                self._open.append(digest)
                self._in_flight.discard(digest)
        places = [
            place if place is not None else self._written[piece.digest]
            for piece, place in zip(batch.pieces, batch.known, strict=True)
        ]
        batch.done(places)
        if self._writer is not None and self._writer.full:
            self._close()

    def _begin(self) -> None:
        self._writer = PackWriter(self._blobs)
        self._writer.__enter__()
        self._opened = len(self.packs)
        self.packs.append(None)

    def _close(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        try:
            pack = writer.keep()
        finally:
            writer.__exit__()
        self.packs[self._opened] = pack
        self._numbers.setdefault(pack.digest, self._opened)
        self._index.add(pack, self._open)
        self._open = []
