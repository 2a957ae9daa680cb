"""A snapshot's manifest: its files in order of path, and of which chunks in which packs each of them is made.

One blob per snapshot, named by the snapshot's record; it names the packs. Runs of neighbours make it short: a file of one
GiB that was added at once is some 64 numbers. What a collection must follow from a manifest is :func:`mentions`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from flyball.core.records import FileEntry, Snapshot
from flyball.errors import Refused
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.stores.pack_session import Place
from flyball.stores.packs import PackRef

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"FBFILES1"
Runs = tuple[int, ...]  # pack, first chunk, how many; and so on


class Held(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file: ``runs`` of chunks in packs, or ``None`` where its bytes are a blob of their own."""

    path: str
    digest: bytes
    size_bytes: int
    runs: Runs | None

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.path, "b3:" + self.digest.hex(), self.size_bytes)


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """The files of a snapshot and the packs they lie in."""

    packs: tuple[PackRef, ...]
    files: tuple[Held, ...]

    def encoded(self) -> bytes:
        """The bytes of its blob."""
        return MAGIC + zstd.compress(_encoder.encode(self), level=3)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Manifest)


def decode(content: bytes) -> Manifest:
    """A manifest from its blob's bytes."""
    try:
        if content.startswith(MAGIC):
            return _decoder.decode(zstd.decompress(content[len(MAGIC) :]))
    except (zstd.ZstdError, msgspec.DecodeError) as error:
        raise Refused(f"a manifest can't be read: {error}", "flyball restore BACKUP") from error
    raise Refused("these bytes are no manifest", "is this another store, or a newer Flyball's?")


def load(blobs: Blobs, snapshot: Snapshot) -> Manifest:
    """The manifest of a snapshot, checked against its digest; built from the record where that holds everything."""
    if snapshot.manifest:
        return decode(blobs.get(snapshot.manifest))
    return Manifest(
        (),
        tuple(Held(one.path, bytes.fromhex(one.digest[3:]), one.size_bytes, None) for one in snapshot.files),
    )


def runs_of(places: Sequence[Place], runs: list[int]) -> None:
    """Append places to runs; a neighbour of the last one makes its run longer."""
    for pack, number in places:
        if runs and runs[-3] == pack and runs[-2] + runs[-1] == number:
            runs[-1] += 1
        else:
            runs += (pack, number, 1)


def triples(runs: Runs) -> Iterator[tuple[int, int, int]]:
    """Runs as (pack, first chunk, how many)."""
    return zip(runs[::3], runs[1::3], runs[2::3], strict=True)


def compact(packs: Sequence[PackRef], files: Iterable[Held]) -> Manifest:
    """A manifest of these files (in order of path) that names only the packs they use, each once."""
    held = sorted(files, key=lambda one: one.path)
    used = {pack for one in held if one.runs for pack in one.runs[::3]}
    numbers: dict[str, int] = {}
    kept: list[PackRef] = []
    new: dict[int, int] = {}
    for pack in sorted(used):
        digest = packs[pack].digest
        if digest not in numbers:
            numbers[digest] = len(kept)
            kept.append(packs[pack])
        new[pack] = numbers[digest]
    renamed = [
        one if not one.runs else Held(one.path, one.digest, one.size_bytes, _renumbered(one.runs, new))
        for one in held
    ]
    return Manifest(tuple(kept), tuple(renamed))


def _renumbered(runs: Runs, new: dict[int, int]) -> Runs:
    if len(runs) == 3:
        return (new[runs[0]], runs[1], runs[2])
    return tuple(number for pack, first, count in triples(runs) for number in (new[pack], first, count))


def mentions(blobs: Blobs, digest: str) -> set[str]:
    """Every blob that a manifest names, by its digest: packs, and files that are blobs of their own."""
    manifest = decode(blobs.get(digest))
    return {pack.digest for pack in manifest.packs} | {
        "b3:" + one.digest.hex() for one in manifest.files if one.runs is None
    }


def reach(ledger: Ledger, blobs: Blobs) -> set[str]:
    """Every blob that a snapshot needs which is not forgotten: manifests, packs, files. What a collection keeps."""
    found: set[str] = set()
    for snapshot in ledger.ls("snapshot", Snapshot):
        if snapshot.forgotten:
            continue
        if snapshot.manifest and snapshot.manifest not in found:
            found |= {snapshot.manifest} | mentions(blobs, snapshot.manifest)
        elif not snapshot.manifest:
            found |= {one.digest for one in snapshot.files}
    return found
