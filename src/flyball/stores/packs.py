"""Packs: many chunks in one blob, so that a chunk of 4 KiB costs no file of its own.

``FBPACK1`` · the chunks' bodies · one row per chunk (digest, length, stored length) · the rows' digest and number ·
``FBPKEND``. A body is the chunk itself, or a zstd frame where that is shorter. A pack is a blob like any other, named by
the digest of all its bytes; its rows alone are read to know what is in it.
"""

from __future__ import annotations

import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
from blake3 import blake3

from flyball.errors import Refused
from flyball.stores.blob_writing import BlobWriter
from flyball.stores.blobs import Blobs

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

START, END = b"FBPACK1\n", b"FBPKEND\n"
PACK_BYTES = 16 << 20
MOST_CHUNKS = 1 << 15
_ROW = struct.Struct("<32sII")
_TRAILER = struct.Struct("<I32s8s")
_PROBE_BYTES = 4096
_WINDOW_BYTES = 1 << 20
_WORTH = 0.97  # a frame that saves less than 3 % costs its reader more than its place

Body = bytes | bytearray | memoryview


class PackRef(msgspec.Struct, frozen=True, array_like=True):
    """A pack as those name it who need it: with the digest of its rows, so that parts of it can be trusted."""

    digest: str
    size_bytes: int
    chunks: int
    rows_digest: bytes


class Chunk(NamedTuple):
    """One row of a pack: where the body lies, and what it must be."""

    digest: bytes
    length: int
    start: int
    stored: int


class PackWriter:
    """One pack in the making; use it in a ``with`` block, and :meth:`keep` it once.

    >>> blobs = Blobs.open("memory:")
    >>> with PackWriter(blobs) as writer:
    ...     number = writer.add(blake3(b"hello").digest(), 5, b"hello")
    ...     pack = writer.keep()
    >>> PackReader(blobs).chunk(pack, number)
    b'hello'
    """

    def __init__(self, blobs: Blobs) -> None:
        self._writer: BlobWriter = blobs.writer()
        self._rows: list[bytes] = []
        self.size_bytes = len(START)

    def __enter__(self) -> PackWriter:
        self._writer.__enter__()
        self._writer.write(START)
        return self

    def __exit__(self, *reason: object) -> None:
        self._writer.__exit__(*reason)

    @property
    def full(self) -> bool:
        return self.size_bytes >= PACK_BYTES or len(self._rows) >= MOST_CHUNKS

    def add(self, digest: bytes, length: int, body: Body) -> int:
        """Append one chunk's body as :func:`body_of` gave it; returns its number in the pack."""
        return self.add_all([(digest, length, len(body))], [body])

    def add_all(self, rows: Sequence[tuple[bytes, int, int]], bodies: Sequence[Body]) -> int:
        """Append several: (digest, length, stored length) of each, and their bodies, joined as it suits."""
        first = len(self._rows)
        self._writer.write_all(bodies)
        self._rows += [_ROW.pack(*row) for row in rows]
        self.size_bytes += sum(row[2] for row in rows)
        return first

    def keep(self) -> PackRef:
        """Write the rows and make it a blob."""
        rows = b"".join(self._rows)
        seal = blake3(rows).digest()
        self._writer.write(rows + _TRAILER.pack(len(self._rows), seal, END))
        digest = self._writer.keep()
        return PackRef(digest, self._writer.size_bytes, len(self._rows), seal)


def body_of(chunk: Body, compressor: zstd.ZstdCompressor) -> Body:
    """What is stored of a chunk: a zstd frame where that saves something; a sample tells of most that it won't."""
    if len(chunk) > 4 * _PROBE_BYTES:
        middle = len(chunk) // 2
        sample = chunk[middle : middle + _PROBE_BYTES]
        if len(compressor.compress(sample, compressor.FLUSH_FRAME)) > _WORTH * len(sample):
            return chunk
    frame = compressor.compress(chunk, compressor.FLUSH_FRAME)
    return frame if len(frame) < _WORTH * len(chunk) else chunk


def new_compressor() -> zstd.ZstdCompressor:
    """A compressor for one thread."""
    return zstd.ZstdCompressor(level=1)


def read_rows(blobs: Blobs, pack: PackRef) -> list[Chunk]:
    """The rows of a pack, checked against ``rows_digest``; changed ones are :class:`Refused`."""
    start = pack.size_bytes - _TRAILER.size - _ROW.size * pack.chunks
    return _rows_in(
        blobs.read_range(pack.digest, start, _ROW.size * pack.chunks), pack.rows_digest, pack.digest
    )


def find_pack(blobs: Blobs, digest: str, size_bytes: int) -> PackRef | None:
    """The pack in a blob, or ``None`` when the blob is none: what an index is rebuilt from."""
    if size_bytes < len(START) + _TRAILER.size:
        return None
    tail = blobs.read_range(digest, size_bytes - _TRAILER.size, _TRAILER.size)
    if len(tail) != _TRAILER.size or not tail.endswith(END):
        return None
    count, seal, _ = _TRAILER.unpack(tail)
    if count > MOST_CHUNKS or len(START) + _TRAILER.size + count * _ROW.size > size_bytes:
        return None
    return PackRef(digest, size_bytes, count, seal)


def _rows_in(rows: bytes, seal: bytes, digest: str) -> list[Chunk]:
    if blake3(rows).digest() != seal:
        raise Refused(f"the rows of pack {digest} have changed", _REPAIR, digest=digest)
    found = list(_ROW.iter_unpack(rows))
    starts = accumulate((stored for _, _, stored in found), initial=len(START))
    return [
        Chunk(name, length, start, stored)
        for (name, length, stored), start in zip(found, starts, strict=False)
    ]


_REPAIR = "flyball data verify REF --repair-from URL takes it from another store; flyball restore BACKUP from a backup"


class PackReader:
    """Reads chunks out of packs, each checked against its digest before it is given out.

    ``whole`` reads each pack at once and checks its own digest as well, as a verification does; otherwise only the
    parts that are asked for are read, neighbours together.
    """

    def __init__(self, blobs: Blobs, *, whole: bool = False, kept_packs: int = 2) -> None:
        self._blobs = blobs
        self._whole = whole
        self._kept_packs = kept_packs
        self._rows: dict[str, list[Chunk]] = {}
        self._bytes: OrderedDict[str, bytes] = OrderedDict()
        self._window: tuple[str, int, memoryview] = ("", 0, memoryview(b""))  # what was read ahead last

    def rows(self, pack: PackRef) -> list[Chunk]:
        """The rows of a pack, read once."""
        if (found := self._rows.get(pack.digest)) is None:
            if len(self._rows) > 4096:
                self._rows.clear()  # a TiB has 65,536 packs; their rows are cheap to read again
            found = self._rows[pack.digest] = read_rows(self._blobs, pack)
        return found

    def chunk(self, pack: PackRef, number: int) -> bytes:
        """One chunk's bytes."""
        rows = self.rows(pack)
        if not 0 <= number < len(rows):
            raise Refused(f"pack {pack.digest} has no chunk {number}", _REPAIR, digest=pack.digest)
        chunk = rows[number]
        return self._opened(pack, chunk, memoryview(self._part(pack, chunk.start, chunk.stored)))

    def run(self, pack: PackRef, first: int, count: int) -> Iterable[bytes]:
        """``count`` chunks from ``first`` on, one after the other."""
        chunks = self.rows(pack)[first : first + count]
        if len(chunks) < count:
            raise Refused(f"pack {pack.digest} has no chunk {first + count - 1}", _REPAIR, digest=pack.digest)
        start = chunks[0].start
        length = chunks[-1].start + chunks[-1].stored - start
        stored = memoryview(self._part(pack, start, length))
        for chunk in chunks:
            at = chunk.start - start
            yield self._opened(pack, chunk, stored[at : at + chunk.stored])

    def _part(self, pack: PackRef, start: int, length: int) -> bytes | memoryview:
        if not self._whole:
            return self._ahead(pack, start, length)
        if (data := self._bytes.get(pack.digest)) is None:
            data = self._blobs.get(pack.digest)
            self._bytes[pack.digest] = data
            if len(self._bytes) > self._kept_packs:
                self._bytes.popitem(last=False)
        else:
            self._bytes.move_to_end(pack.digest)
        return memoryview(data)[start : start + length]

    def _ahead(self, pack: PackRef, start: int, length: int) -> bytes | memoryview:
        """Neighbours are mostly wanted next: small parts come out of one larger reading."""
        digest, first, window = self._window
        if digest == pack.digest and first <= start and start + length <= first + len(window):
            return window[start - first : start - first + length]
        if length >= _WINDOW_BYTES:
            return self._blobs.read_range(pack.digest, start, length)
        data = memoryview(
            self._blobs.read_range(
                pack.digest, start, min(_WINDOW_BYTES, max(length, pack.size_bytes - start))
            )
        )
        self._window = (pack.digest, start, data)
        return data[:length]

    def _opened(self, pack: PackRef, chunk: Chunk, body: memoryview) -> bytes:
        data: bytes | memoryview = body
        if chunk.stored != chunk.length:
            try:
                data = zstd.ZstdDecompressor().decompress(body, chunk.length + 1)
            except zstd.ZstdError as error:
                raise _changed(pack, chunk) from error
        if len(data) != chunk.length or blake3(data).digest() != chunk.digest:
            raise _changed(pack, chunk)
        return data if isinstance(data, bytes) else bytes(data)


def _changed(pack: PackRef, chunk: Chunk) -> Refused:
    return Refused(
        f"chunk b3:{chunk.digest.hex()} in pack {pack.digest} has changed",
        _REPAIR,
        chunk="b3:" + chunk.digest.hex(),
        digest=pack.digest,
    )
