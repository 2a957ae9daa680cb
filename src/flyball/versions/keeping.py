"""Keep the bytes of files: each read once, checked for changes while it is read, cut, and put into packs.

A few small files stay blobs of their own (they can be linked, and looked at with any tool); many small ones share packs,
and larger ones are cut by their content. Every file keeps the digest of all its bytes, so ``b3sum`` tells it.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from blake3 import blake3

from flyball.errors import Conflict, FlyballError, Invalid, NotFound, Unavailable
from flyball.stores.blob_writing import read_pieces
from flyball.stores.blobs import Blobs
from flyball.stores.pack_session import PackSession, Place
from flyball.versions import parquet
from flyball.versions.chunking import LEAST_BYTES, SEGMENT_BYTES, Cutter, Piece, cut_bytes
from flyball.versions.manifest import Held, Manifest, Runs, compact, runs_of, triples
from flyball.versions.sources import Source
from flyball.versions.tracked import Mark, Tracked, mark_of, young_for_ns

log = logging.getLogger(__name__)

FEW_FILES = 32
SMALL_BYTES = 128 << 10
TRIES = 4
_BATCH_BYTES = 4 << 20
_BATCH_FILES = 512
_CUT_AHEAD = 3  # files of at most SEGMENT_BYTES that are cut at a time


class Keeper:
    """One adding: takes files, gives a manifest. ``stored_bytes`` is what the store grew by.

    >>> blobs = Blobs.open("memory:")
    >>> with Keeper(blobs) as keeper:
    ...     keeper.keep_bytes("numbers.txt", b"1 2 3")
    ...     manifest = keeper.finish()
    >>> [one.path for one in manifest.files]
    ['numbers.txt']
    """

    def __init__(
        self,
        blobs: Blobs,
        *,
        before: Manifest | None = None,
        tracked: Tracked | None = None,
        packed: bool = True,
        whole: bool = False,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._blobs = blobs
        self._cutter = Cutter()
        self._hashing = ThreadPoolExecutor(1, thread_name_prefix="flyball-hash")
        self._session = PackSession(blobs, self._cutter.pool, lasting=before.packs if before else ())
        self._before: Mapping[bytes, Held] = {one.digest: one for one in before.files} if before else {}
        self._before_packs = before.packs if before else ()
        self._tracked = tracked
        self._packed = packed
        self._whole = whole
        self._pause = pause
        self._held: list[Held] = []
        self._waiting: list[tuple[str, Piece]] = []
        self._waiting_bytes = 0
        self._unfinished: list[tuple[str, bytes, int, list[int]]] = []
        self._cutting: deque[tuple[Future[list[Piece]], list[int]]] = deque()
        self._own_bytes = 0
        self.read_bytes = 0
        self._marks: dict[str, Mark] = {}

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._cutter.__exit__()
        self._hashing.shutdown()
        self._session.__exit__(*reason)

    @property
    def stored_bytes(self) -> int:
        return self._session.stored_bytes + self._own_bytes

    def keep(self, source: Source) -> None:
        """Keep one file; one that goes on changing is :class:`Conflict` rather than half of each content."""
        if self._unchanged(source):
            self._marks[source.inside] = mark_of(source.status)
            return
        for again in range(TRIES):
            with _readable(source):
                handle = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if self._keep_once(source, handle):
                        return
                finally:
                    os.close(handle)
            log.warning("%s changed while it was added; trying again", source.path)
            self._pause(0.05 * 4**again)
        raise Conflict(
            f"{source.path} changed while it was added, {TRIES} times",
            "wait until its writer is done and add it again",
            path=source.path,
        )

    def keep_bytes(self, path: str, data: bytes) -> bytes:
        """Keep bytes as a file; returns their digest."""
        self.read_bytes += len(data)
        digest = blake3(data).digest()
        if self._whole or (not self._packed and len(data) <= SMALL_BYTES):
            name = "b3:" + digest.hex()
            self._own_bytes += 0 if name in self._blobs else len(data)
            self._blobs.put(data)
            self._held.append(Held(path, digest, len(data), None))
        elif len(data) <= LEAST_BYTES:
            self._waiting.append((path, Piece(digest, memoryview(data))))
            self._waiting_bytes += len(data)
            if self._waiting_bytes >= _BATCH_BYTES or len(self._waiting) >= _BATCH_FILES:
                self._put_waiting()
        else:
            runs: list[int] = []
            self._unfinished.append((path, digest, len(data), runs))
            self._cutting.append((self._cutter.pool.submit(cut_bytes, data, _forced(data)), runs))
            if len(self._cutting) > _CUT_AHEAD:
                self._put_cut()
        return digest

    def _put_waiting(self) -> None:
        """Small files are one chunk each; hundreds of them are one batch."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return

        def done(places: list[Place]) -> None:
            for (path, piece), (pack, number) in zip(waiting, places, strict=True):
                self._held.append(Held(path, piece.digest, len(piece.data), (pack, number, 1)))

        self._session.put([piece for _, piece in waiting], done)

    def _put_cut(self) -> None:
        """The file whose cutting was begun first; others are cut meanwhile."""
        pieces, runs = self._cutting.popleft()
        self._session.put(pieces.result(), lambda places: runs_of(places, runs))

    def is_as_kept(self, inside: str, path: Path) -> bool:
        """Whether a file still is what was kept of it, as far as the file system tells."""
        try:
            return mark_of(path.stat()) == self._marks[inside]
        except OSError:
            return False

    def as_listed(self, files: Sequence[Source]) -> bool:
        """Whether every file was kept as it was when the files were listed."""
        return all(self._marks.get(one.inside) == mark_of(one.status) for one in files)

    def finish(self) -> Manifest:
        """Everything has its place; the manifest of what was kept."""
        self._put_waiting()
        while self._cutting:
            self._put_cut()
        packs = self._session.finish()
        for path, digest, size_bytes, runs in self._unfinished:
            self._held.append(Held(path, digest, size_bytes, tuple(runs)))
        self._unfinished = []
        return compact(packs, self._held)

    def _unchanged(self, source: Source) -> bool:
        """Whether the file is what it was in the snapshot before, by what the file system says of it."""
        digest = self._tracked.digest(source.inside, source.status) if self._tracked else None
        held = self._before.get(digest) if digest is not None else None
        if held is None:
            return False
        if held.runs is None:
            if not self._blobs.refresh("b3:" + held.digest.hex()):
                return False
            self._held.append(Held(source.inside, held.digest, held.size_bytes, None))
            return True
        runs: list[int] = []
        for pack, first, count in triples(held.runs):
            number = self._session.rely_on(self._before_packs[pack])
            if number is None:
                return False
            runs += (number, first, count)
        self._held.append(Held(source.inside, held.digest, held.size_bytes, tuple(runs)))
        return True

    def _keep_once(self, source: Source, handle: int) -> bool:
        before = os.fstat(handle)
        if (young_ns := young_for_ns(before, time.time_ns())) > 0:
            self._pause(min(young_ns, 20_000_000) / 1e9)  # else a write in the same tick would not be seen
            before = os.fstat(handle)
        read_at_ns = time.time_ns()
        if before.st_size <= SEGMENT_BYTES:
            data = _read(handle, before.st_size)
            if mark_of(os.fstat(handle)) != mark_of(before) or len(data) != before.st_size:
                return False
            digest = self.keep_bytes(source.inside, data)
        elif (large := self._keep_large(source, handle, before)) is not None:
            digest = large
        else:
            return False
        self._marks[source.inside] = mark_of(before)
        if self._tracked is not None:
            self._tracked.remember(source.inside, before, digest, read_at_ns)
        return True

    def _keep_large(self, source: Source, handle: int, before: os.stat_result) -> bytes | None:
        if self._whole:
            with self._blobs.writer() as writer:
                for piece in read_pieces(handle):
                    writer.write(piece)
                same = mark_of(os.fstat(handle)) == mark_of(before) and writer.size_bytes == before.st_size
                if not same:
                    return None
                digest = bytes.fromhex(writer.keep()[3:])
                self._own_bytes += writer.size_bytes if writer.new else 0
            self._held.append(Held(source.inside, digest, before.st_size, None))
            return digest
        runs, digest, size_bytes = self._cut_and_put(handle)
        if mark_of(os.fstat(handle)) != mark_of(before) or size_bytes != before.st_size:
            return None
        self._held.append(Held(source.inside, digest, size_bytes, runs))
        return digest

    def _cut_and_put(self, handle: int) -> tuple[Runs, bytes, int]:
        """Cut on the pool, hash the whole on a thread of its own, write here: three stages of a pipeline."""
        whole = blake3()
        runs: list[int] = []
        size_bytes = 0
        with os.fdopen(os.dup(handle), "rb") as file:
            forced = parquet.column_bounds(file, os.fstat(handle).st_size)
        for segment in self._cutter.cut(handle, forced):
            size_bytes += len(segment.data)
            hashed = self._hashing.submit(whole.update, segment.data)

            def done(places: list[Place], segment=segment, hashed=hashed) -> None:  # type: ignore[no-untyped-def]
                runs_of(places, runs)
                hashed.result()
                segment.release()

            self._session.put(segment.pieces, done)
        self._session.flush()
        self.read_bytes += size_bytes
        return tuple(runs), whole.digest(), size_bytes


def _forced(data: bytes) -> list[int]:
    """Where chunks of a file end whatever the content says: at the columns of Parquet (decision 006 has the figures)."""
    return parquet.column_bounds(io.BytesIO(data), len(data)) if data.endswith(parquet.MAGIC) else []


def _read(handle: int, size_bytes: int) -> bytes:
    """A small file's bytes, and one more when it has grown."""
    data = os.read(handle, size_bytes + 1)
    while len(data) < size_bytes and (more := os.read(handle, size_bytes + 1 - len(data))):
        data += more
    return data


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(
            f"{source.path} went away while it was added", "add it again when it is complete"
        ) from error
    except UnicodeEncodeError as error:
        raise Invalid(f"the name {source.path!r} is not UTF-8", "rename the file") from error
    except (PermissionError, IsADirectoryError) as error:
        raise Unavailable(f"{source.path} can't be read: {error.strerror}", "check its rights") from error
    except OSError as error:
        if isinstance(error, FlyballError):
            raise
        raise Unavailable(f"{source.path} can't be read: {error.strerror}", "check its disk") from error
