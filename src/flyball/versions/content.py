"""Read a snapshot's files back: from packs or blobs, every byte checked on the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cached_property

from blake3 import blake3

from flyball.core.records import FileEntry, Snapshot
from flyball.errors import NotFound, Refused, nearest
from flyball.stores.blobs import Blobs
from flyball.stores.packs import PackReader
from flyball.versions import manifest
from flyball.versions.manifest import Held, Manifest, triples


class Content:
    """The files of one snapshot and their bytes, in bounded memory.

    >>> content = Content(snapshot, blobs)                     # doctest: +SKIP
    >>> content.read("2013/flights.csv")[:5]                   # doctest: +SKIP
    b'year,'
    """

    def __init__(self, snapshot: Snapshot, blobs: Blobs, *, reader: PackReader | None = None) -> None:
        self.snapshot = snapshot
        self._blobs = blobs
        self._reader = reader or PackReader(blobs)

    @classmethod
    def of_manifest(cls, kept: Manifest, blobs: Blobs) -> Content:
        """The content of a snapshot in the making."""
        content = cls(Snapshot(name="", number=0, digest="", files=(), created=_NEVER, made_by=""), blobs)
        content.__dict__["manifest"] = kept
        return content

    @cached_property
    def manifest(self) -> Manifest:
        return manifest.load(self._blobs, self.snapshot)

    @cached_property
    def held(self) -> dict[str, Held]:
        """Where the bytes of each file lie, by path, in order of path."""
        return {one.path: one for one in self.manifest.files}

    @cached_property
    def files(self) -> tuple[FileEntry, ...]:
        """All files, in order of path."""
        return self.snapshot.files or tuple(one.entry for one in self.manifest.files)

    def of(self, path: str) -> Held:
        """The file at a path inside the snapshot."""
        if path not in self.held:
            raise NotFound(f"no file {path!r} in {self.snapshot.ref}", nearest(path, list(self.held)))
        return self.held[path]

    def read(self, path: str) -> bytes:
        """A file's bytes, checked; changed ones are :class:`Refused`, never returned."""
        held = self.of(path)
        if held.runs is None:
            return self._blobs.get(held.entry.digest)
        if len(held.runs) == 3 and held.runs[2] == 1:
            pack = self.manifest.packs[held.runs[0]]
            if self._reader.rows(pack)[held.runs[1]].digest == held.digest:
                return self._reader.chunk(pack, held.runs[1])  # checked there: the one chunk is the file
            data = self._reader.chunk(pack, held.runs[1])
        else:
            data = b"".join(self._chunks(held))
        if blake3(data).digest() != held.digest:
            raise self._changed(held)
        return data

    def stream(self, path: str) -> Iterator[bytes]:
        """A file's bytes piece by piece; that the whole is what it was is known when the last has come."""
        held = self.of(path)
        whole = blake3()
        pieces = self._blobs.stream(held.entry.digest) if held.runs is None else self._chunks(held)
        for piece in pieces:
            whole.update(piece)
            yield piece
        if whole.digest() != held.digest:
            raise self._changed(held)

    def _chunks(self, held: Held) -> Iterator[bytes]:
        for pack, first, count in triples(held.runs or ()):
            for start in range(first, first + count, _AT_ONCE):
                yield from self._reader.run(
                    self.manifest.packs[pack], start, min(_AT_ONCE, first + count - start)
                )

    def _changed(self, held: Held) -> Refused:
        return Refused(
            f"{held.path} of {self.snapshot.ref} is not what it was: its bytes don't give {held.entry.digest}",
            "flyball data verify names what changed; --repair-from URL or flyball restore brings it back",
            path=held.path,
            digest=held.entry.digest,
        )


_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE = 64  # chunks read with one call: some 4 MiB
