"""Which pack probably holds a chunk: hints only, confirmed in the pack's own rows, and rebuilt from the packs at any time.

In LMDB beside the workspace, shared by its processes; in memory where there is no folder to keep it in. A lost, stale or
broken index costs stored bytes, never data: what it says is looked up in the pack before anything relies on it.
"""

from __future__ import annotations

import os
import shutil
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from flyball.core.hashing import digest_bytes
from flyball.errors import FlyballError, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.packs import PackRef, find_pack, read_rows

_MAP_BYTES = 1 << 30  # address space, not disk; doubled when it is full
_PACK = struct.Struct(">BI")  # the key of a pack's number: shorter than any digest
_NUMBER = struct.Struct("<I")
_NEXT = b"next"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(PackRef).decode


class PackIndex:
    """Chunk to pack, by digest."""

    def find(self, digests: Sequence[bytes]) -> list[PackRef | None]:
        """The pack that should hold each chunk."""
        raise NotImplementedError

    def add(self, pack: PackRef, digests: Iterable[bytes]) -> None:
        """Remember what a pack holds."""
        raise NotImplementedError

    def knows(self, pack: PackRef) -> bool:
        """Whether a pack was added."""
        raise NotImplementedError

    def forget(self, pack: PackRef) -> None:
        """Don't name this pack any more: it was collected."""
        raise NotImplementedError

    def learn(self, blobs: Blobs, packs: Iterable[PackRef]) -> None:
        """Add packs that it does not know yet, from their rows; what can't be read is left out."""
        for pack in packs:
            if not self.knows(pack):
                try:
                    self.add(pack, [row.digest for row in read_rows(blobs, pack)])
                except FlyballError:
                    continue  # collected, or broken: verify says so, adding works without it


class InMemory(PackIndex):
    """The index of a store that lives no longer than its process."""

    def __init__(self) -> None:
        self._packs: dict[str, PackRef] = {}
        self._chunks: dict[bytes, str] = {}

    def find(self, digests: Sequence[bytes]) -> list[PackRef | None]:
        return [self._packs.get(self._chunks.get(digest, "")) for digest in digests]

    def add(self, pack: PackRef, digests: Iterable[bytes]) -> None:
        self._packs[pack.digest] = pack
        self._chunks.update(dict.fromkeys(digests, pack.digest))

    def knows(self, pack: PackRef) -> bool:
        return pack.digest in self._packs

    def forget(self, pack: PackRef) -> None:
        self._packs.pop(pack.digest, None)


class OnDisk(PackIndex):
    """The index in LMDB: a chunk's digest to its pack's number, the number to the pack."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._lock = threading.RLock()
        self._packs: dict[bytes, PackRef | None] = {}

    def find(self, digests: Sequence[bytes]) -> list[PackRef | None]:
        with self._lock:
            self._packs.clear()
            with self._reading() as tx:
                return [self._pack(tx, tx.get(digest)) for digest in digests]

    def _reading(self) -> Any:
        try:
            return self._env.begin()
        except lmdb.MapResizedError:  # another process made the map larger
            self._env.set_mapsize(0)
            return self._env.begin()

    def _pack(self, tx: Any, number: bytes | None) -> PackRef | None:
        if number is None or len(number) != _NUMBER.size:
            return None
        if number not in self._packs:
            content = tx.get(_PACK.pack(1, *_NUMBER.unpack(number)))
            try:
                self._packs[number] = None if content is None else _decode(content)
            except msgspec.DecodeError:
                self._packs[number] = None
        return self._packs[number]

    def add(self, pack: PackRef, digests: Iterable[bytes]) -> None:
        rows = sorted(digests)  # in order of key: half the pages touched

        def write(tx: Any) -> None:
            taken = tx.get(pack.digest.encode())
            if taken is None:
                found = tx.get(_NEXT)
                number = _NUMBER.unpack(found)[0] if found else 1
                tx.put(_NEXT, _NUMBER.pack(number + 1))
                taken = _NUMBER.pack(number)
                tx.put(pack.digest.encode(), taken)
            tx.put(_PACK.pack(1, *_NUMBER.unpack(taken)), _encode(pack))
            with tx.cursor() as cursor:
                cursor.putmulti([(digest, taken) for digest in rows])

        self._writing(write)

    def knows(self, pack: PackRef) -> bool:
        with self._lock, self._reading() as tx:
            return self._pack(tx, tx.get(pack.digest.encode())) is not None

    def forget(self, pack: PackRef) -> None:
        def write(tx: Any) -> None:
            taken = tx.get(pack.digest.encode())
            if taken is not None:
                tx.delete(_PACK.pack(1, *_NUMBER.unpack(taken)))

        self._writing(write)

    def _writing(self, write: Any) -> None:
        with self._lock:
            self._packs.clear()
            for _ in range(40):
                try:
                    with self._env.begin(write=True) as tx:
                        write(tx)
                    return
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)
                except lmdb.MapFullError:
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
                except lmdb.Error as error:
                    raise Unavailable(f"the index of chunks can't be written: {error}", _AGAIN) from error


_AGAIN = (
    "free some space; nothing was lost, and the index is rebuilt from the packs when its folder is removed"
)
_open: dict[tuple[str, int], PackIndex] = {}
_opening = threading.Lock()


def index_of(blobs: Blobs) -> PackIndex:
    """The index of a blob store on this machine, opened once per process; begun anew when its file is broken."""
    place = _place(blobs)
    with _opening:
        if place is None:
            found = getattr(blobs, "_pack_index", None)
            if found is None:
                found = InMemory()
                blobs._pack_index = found  # type: ignore[attr-defined]  # lives as long as its store
            return found
        key = (str(place), os.getpid())  # an LMDB environment does not survive a fork, nor is it opened twice
        if key not in _open:
            _open[key] = OnDisk(_environment(place))
        return _open[key]


def rebuild(blobs: Blobs, index: PackIndex) -> int:
    """Learn every pack of a store; returns how many there are."""
    packs = [find_pack(blobs, one.digest, one.size_bytes) for one in blobs.stats()]
    found = [pack for pack in packs if pack is not None]
    index.learn(blobs, found)
    return len(found)


def _place(blobs: Blobs) -> Path | None:
    if blobs.state is not None:
        return blobs.state / "cache" / f"chunks-{digest_bytes(blobs.url.encode())[3:15]}"
    return None if blobs.folder is None else blobs.folder / ".chunks"


def _environment(place: Path) -> Any:
    try:
        place.mkdir(parents=True, exist_ok=True)
        try:
            return _lmdb(place)
        except lmdb.Error:
            shutil.rmtree(place)  # a cache: what it held is in the packs
            place.mkdir(parents=True)
            return _lmdb(place)
    except (lmdb.Error, OSError) as error:
        raise Unavailable(f"the index of chunks in {place} can't be opened: {error}", _AGAIN) from error


def _lmdb(place: Path) -> Any:
    # Not synced: after a power cut hints may be lost or broken, and are then found out at the packs.
    return lmdb.open(
        str(place), map_size=_MAP_BYTES, sync=False, metasync=False, readahead=False, max_readers=512
    )
