"""What this machine remembers of files it has read: their digests, for as long as the file system says "unchanged".

Size, modification and change time, and inode must all be what they were. A file that was written so shortly before it was
read that a second write could carry the same time is not believed (git's "racy" entries): it is read again.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import msgspec
from blake3 import blake3

from flyball.core.hashing import digest_bytes
from flyball.stores.blobs import Blobs
from flyball.versions.sources import Source

_FINE_NS = 20_000_000  # the tick of a kernel that writes nanoseconds, and a margin
_COARSE_NS = 2_000_000_000  # FAT, and network file systems that keep seconds

_SIGNED = (1 << 63) - 1  # inodes of some network file systems use the last bit

Mark = tuple[int, int, int, int]  # size, mtime, ctime (ns), inode


class _Seen(msgspec.Struct, array_like=True, gc=False):
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digest: bytes
    read_at_ns: int


class _File(msgspec.Struct):
    root: str
    seen: dict[str, _Seen]


class _Whole(msgspec.Struct):
    """All files below the folder at once: the digest of a snapshot they are, and of their marks when they were."""

    root: str
    snapshot: str
    marks: bytes
    latest_ns: int
    read_at_ns: int


_decoder = msgspec.msgpack.Decoder(_File)
_whole_decoder = msgspec.msgpack.Decoder(_Whole)
_encoder = msgspec.msgpack.Encoder()


def mark_of(status: os.stat_result) -> Mark:
    """What must be equal for a file to be unchanged."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def young_for_ns(status: os.stat_result, now_ns: int) -> int:
    """How long a write from now on could still carry this file's time; 0 or less when it can't any more."""
    latest = max(status.st_mtime_ns, status.st_ctime_ns)
    return latest + _tick_ns(latest) - now_ns


def _tick_ns(at_ns: int) -> int:
    return _FINE_NS if at_ns % 1_000_000 else _COARSE_NS


class Tracked:
    """Digests of files below one folder. Lost or broken, it is empty, and the files are read again."""

    def __init__(self, path: Path | None, root: Path) -> None:
        self._path = path
        self._root = str(root)
        self._changed = False

    @cached_property
    def _seen(self) -> dict[str, _Seen]:
        if self._path is not None:
            with suppress(OSError, msgspec.DecodeError):
                found = _decoder.decode(self._path.read_bytes())
                if found.root == self._root:
                    return found.seen
        return {}

    @classmethod
    def open(cls, blobs: Blobs, root: Path) -> Tracked:
        """What is remembered of the files below ``root``; nothing where the store has no place to keep it."""
        root = root.resolve()
        if blobs.state is None:
            return cls(None, root)
        name = digest_bytes(os.fsencode(root))[3:35]
        return cls(blobs.state / "cache" / "tracked" / name, root)

    def digest(self, inside: str, status: os.stat_result) -> bytes | None:
        """The digest of an unchanged file, or ``None``: it must be read."""
        seen = self._seen.get(inside)
        if (
            seen is None
            or seen.mtime_ns != status.st_mtime_ns
            or seen.size != status.st_size
            or seen.ctime_ns != status.st_ctime_ns
            or seen.inode != status.st_ino
            or young_for_ns(status, seen.read_at_ns) > 0
        ):
            return None
        return seen.digest

    def are(self, snapshot: str, files: Sequence[Source]) -> bool:
        """Whether all files are as they were when they were found to be this snapshot; one look at a short note."""
        try:
            whole = _whole_decoder.decode(self._note.read_bytes()) if self._path is not None else None
        except (OSError, msgspec.DecodeError):
            return False
        return (
            whole is not None
            and whole.root == self._root
            and whole.snapshot == snapshot
            and whole.latest_ns + _tick_ns(whole.latest_ns) <= whole.read_at_ns
            and whole.marks == _marks(files)
        )

    def note(self, snapshot: str, files: Sequence[Source], read_at_ns: int) -> None:
        """These files (as they were listed at ``read_at_ns``) are this snapshot."""
        if self._path is None or not files:
            return
        latest_ns = max(max(one.status.st_mtime_ns, one.status.st_ctime_ns) for one in files)
        whole = _Whole(self._root, snapshot, _marks(files), latest_ns, read_at_ns)
        self._write(self._note, _encoder.encode(whole))

    @property
    def _note(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".all")

    def remember(
        self, inside: str, status: os.stat_result, digest: bytes, read_at_ns: int | None = None
    ) -> None:
        """Keep a digest of a file, with what the file system said *before* it was read (at ``read_at_ns``)."""
        self._seen[inside] = _Seen(*mark_of(status), digest, read_at_ns or time.time_ns())
        self._changed = True

    def save(self) -> None:
        """Write what was learnt; a disk that does not take it costs reading again, nothing else."""
        if self._path is None or not self._changed:
            return
        self._write(self._path, _encoder.encode(_File(self._root, self._seen)))
        self._changed = False

    def _write(self, path: Path, content: bytes) -> None:
        staged = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(content)
            staged.replace(path)


def _marks(files: Sequence[Source]) -> bytes:
    numbers = array("q")
    for one in files:
        status = one.status
        numbers.extend((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & _SIGNED))
    return blake3("\n".join([one.inside for one in files]).encode() + numbers.tobytes()).digest()
