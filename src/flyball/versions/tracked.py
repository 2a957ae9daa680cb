"""What this machine remembers of files it has read: their digests, for as long as the file system says "unchanged".

Size, modification and change time, and inode must all be what they were. A file that was written so shortly before it was
read that a second write could carry the same time is not believed (git's "racy" entries): it is read again.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from flyball.core.hashing import digest_bytes
from flyball.stores.blobs import Blobs

_FINE_NS = 20_000_000  # the tick of a kernel that writes nanoseconds, and a margin
_COARSE_NS = 2_000_000_000  # FAT, and network file systems that keep seconds

Mark = tuple[int, int, int, int]  # size, mtime, ctime (ns), inode


class _Seen(msgspec.Struct, array_like=True):
    mark: Mark
    digest: bytes
    read_at_ns: int


class _File(msgspec.Struct):
    root: str
    seen: dict[str, _Seen]


_decoder = msgspec.msgpack.Decoder(_File)
_encoder = msgspec.msgpack.Encoder()


def mark_of(status: os.stat_result) -> Mark:
    """What must be equal for a file to be unchanged."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def young_for_ns(status: os.stat_result, now_ns: int) -> int:
    """How long a write from now on could still carry this file's time; 0 or less when it can't any more."""
    latest = max(status.st_mtime_ns, status.st_ctime_ns)
    tick = _FINE_NS if latest % 1_000_000 else _COARSE_NS
    return latest + tick - now_ns


class Tracked:
    """Digests of files below one folder. Lost or broken, it is empty, and the files are read again."""

    def __init__(self, path: Path | None, root: Path) -> None:
        self._path = path
        self._root = str(root)
        self._seen: dict[str, _Seen] = {}
        self._changed = False
        if path is not None:
            with suppress(OSError, msgspec.DecodeError):
                found = _decoder.decode(path.read_bytes())
                self._seen = found.seen if found.root == self._root else {}

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
        if seen is None or seen.mark != mark_of(status) or young_for_ns(status, seen.read_at_ns) > 0:
            return None
        return seen.digest

    def remember(
        self, inside: str, status: os.stat_result, digest: bytes, read_at_ns: int | None = None
    ) -> None:
        """Keep a digest of a file, with what the file system said *before* it was read (at ``read_at_ns``)."""
        self._seen[inside] = _Seen(mark_of(status), digest, read_at_ns or time.time_ns())
        self._changed = True

    def save(self) -> None:
        """Write what was learnt; a disk that does not take it costs reading again, nothing else."""
        if self._path is None or not self._changed:
            return
        staged = self._path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            staged.write_bytes(_encoder.encode(_File(self._root, self._seen)))
            staged.replace(self._path)
        self._changed = False
