"""A backup's file: a plain tar that any tool can open, and that we can tell whole from torn, and true from changed.

Entries come one after the other, each with its BLAKE3 digest in its own header (``FLYBALL.b3``; a blob's name is its
digest). The last entry, ``flyball-end.json``, says how many there are and holds the digest over all their names, sizes
and digests: without it the file is torn, and with it no entry can be changed, taken out or slipped in unseen.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import msgspec
from blake3 import blake3

from flyball.errors import FlyballError, NotFound, Refused, Unavailable

FIRST, LAST = "flyball-backup.json", "flyball-end.json"
_HEADER = "FLYBALL.b3"
_BLOBS = "blobs/"
_PIECE = 1 << 20
_MOST_BYTES_OF_JSON = 1 << 20
_TORN = "this file is no backup any more; take another one: flyball backup FILE"


class End(msgspec.Struct, frozen=True):
    """The last entry."""

    entries: int
    bytes: int
    digest: str


class Entry(msgspec.Struct, frozen=True):
    """One entry, as it was read."""

    name: str
    size_bytes: int
    digest: str


class Writer:
    """Writes a backup beside its place and names it when it is whole, on the disk and read back.

    >>> with Writer(Path("w.flyball")) as writer:                    # doctest: +SKIP
    ...     writer.add_bytes("project/flyball.toml", b"")
    ...     writer.finish()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.staged = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._sum = _Sum()
        self._tar: tarfile.TarFile | None = None
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with _writable(self.path):
            handle = os.open(self.staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
            self._file = os.fdopen(handle, "w+b")
            self._tar = tarfile.TarFile(
                fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=_PIECE
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self.staged.unlink(missing_ok=True)

    def add_bytes(self, name: str, content: bytes) -> None:
        """An entry from memory."""
        self.add(name, len(content), "b3:" + blake3(content).hexdigest(), iter([content]))

    def add_file(self, name: str, path: Path, size: int | None = None) -> None:
        """An entry from the first ``size`` bytes of a file (all of it): what is appended meanwhile stays out."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size if size is None else size
            hashed = blake3()
            for piece in _pieces(file, size):
                hashed.update(piece)
            file.seek(0)
            self.add(name, size, "b3:" + hashed.hexdigest(), _pieces(file, size))

    def add(self, name: str, size: int, digest: str, pieces: Iterable[bytes]) -> None:
        """An entry whose size and digest are known before; bytes that are not those are :class:`Refused`."""
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(time.time())
        if name != _BLOBS + digest.removeprefix("b3:"):
            info.pax_headers = {_HEADER: digest}
        reading = _Reading(pieces)
        with _writable(self.path):
            self._tar.addfile(info, reading)
        if reading.digest != digest:
            raise Refused(
                f"{name} is not what it was: its bytes have changed since they were stored",
                "flyball restore an earlier backup, or mend it; this one was not written",
                entry=name,
            )
        self._sum.add(Entry(name, size, digest))

    def finish(self) -> End:
        """Write the end, bring all to the disk, read it back, and give it its name."""
        assert self._tar is not None
        assert self._file is not None
        end = self._sum.end()
        content = msgspec.json.encode(end)
        info = tarfile.TarInfo(LAST)
        info.size, info.mode, info.mtime = len(content), 0o600, int(time.time())
        with _writable(self.path):
            self._tar.addfile(info, io.BytesIO(content))
            self._tar.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            read(self.staged)
            self.staged.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        return end


Take = Callable[[str, int, Iterator[bytes]], None]


def read(path: Path, take: Take | None = None) -> list[Entry]:
    """Read a backup through, every byte checked; ``take`` is given each entry's name, size and bytes on the way.

    What it was given counts only when this returns: a torn or changed file is :class:`Refused`, naming the entry.
    Returns the entries that are no blobs, and the first and the last of all.
    """
    summed, kept, ended = _Sum(), [], False
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for info in tar:
                if ended:
                    raise _refused(path, info.name, "comes after the end")
                if info.name == LAST:
                    _compare(path, tar, info, summed.end())
                    ended = True
                    continue
                entry = _entry(path, tar, info, take)
                summed.add(entry)
                if summed.count == 1 and entry.name != FIRST:
                    raise _refused(path, entry.name, f"stands where {FIRST} must")
                if not entry.name.startswith(_BLOBS):
                    kept.append(entry)
    except FileNotFoundError as error:
        raise NotFound(f"no file {path}", "check the path; it is relative to where you stand") from error
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, FlyballError):
            raise
        raise Refused(f"{path} is torn or no backup: {error}", _TORN) from error
    except OSError as error:
        if isinstance(error, FlyballError):
            raise
        raise Unavailable(
            f"{path} can't be read: {error.strerror or error}", "check the disk it is on"
        ) from error
    if not ended:
        raise Refused(f"{path} is torn: it ends after {summed.count} entries, before its last", _TORN)
    return kept


def first(path: Path) -> bytes:
    """The first entry's bytes: what the backup is of. Unchecked: :func:`read` checks."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            info = tar.next()
            if info is None or info.name != FIRST or info.size > _MOST_BYTES_OF_JSON:
                raise Refused(f"{path} is no backup of Flyball", "flyball backup FILE makes one")
            found = tar.extractfile(info)
            return b"" if found is None else found.read()
    except FileNotFoundError as error:
        raise NotFound(f"no file {path}", "check the path; it is relative to where you stand") from error
    except (tarfile.TarError, EOFError) as error:
        raise Refused(f"{path} is torn or no backup: {error}", _TORN) from error


def _entry(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo, take: Take | None) -> Entry:
    parts = Path(info.name).parts
    if not info.isreg() or info.name.startswith("/") or ".." in parts or not parts:
        raise _refused(path, info.name, "is no plain file inside the backup")
    blob = info.name.startswith(_BLOBS)
    digest = "b3:" + info.name.removeprefix(_BLOBS) if blob else info.pax_headers.get(_HEADER, "")
    file = tar.extractfile(info)
    assert file is not None
    reading = _Reading(_pieces(file, info.size))
    if take is not None:
        take(info.name, info.size, reading.pieces())
    reading.drain()
    if reading.count != info.size:
        raise _refused(path, info.name, "is cut short")
    if reading.digest != digest:
        raise _refused(path, info.name, "has changed since it was written")
    return Entry(info.name, info.size, digest)


def _compare(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo, found: End) -> None:
    file = tar.extractfile(info)
    if file is None or info.size > _MOST_BYTES_OF_JSON:
        raise _refused(path, info.name, "has changed since it was written")
    try:
        written = msgspec.json.decode(file.read(), type=End)
    except msgspec.DecodeError as error:
        raise _refused(path, info.name, "has changed since it was written") from error
    if written != found:
        raise Refused(
            f"{path} is not what was written: it has {found.entries} entries of {found.bytes} bytes, and its end says "
            f"{written.entries} of {written.bytes}",
            _TORN,
        )


def _refused(path: Path, name: str, what: str) -> Refused:
    return Refused(f"{path}: the entry {name} {what}", _TORN, entry=name)


class _Sum:
    """The digest over all entries, in order."""

    def __init__(self) -> None:
        self.count = 0
        self._bytes = 0
        self._hash = blake3()

    def add(self, entry: Entry) -> None:
        self.count += 1
        self._bytes += entry.size_bytes
        self._hash.update(msgspec.json.encode([entry.name, entry.size_bytes, entry.digest]))

    def end(self) -> End:
        return End(self.count, self._bytes, "b3:" + self._hash.hexdigest())


class _Reading:
    """Pieces as a file for tarfile, hashed as they go by."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")
        self._hash = blake3()
        self.count = 0

    def read(self, size: int = _PIECE, /) -> bytes:
        parts: list[memoryview] = []
        wanted = size
        while wanted > 0:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    break
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self._hash.update(data)
        self.count += len(data)
        return data

    def pieces(self) -> Iterator[bytes]:
        while piece := self.read(_PIECE):
            yield piece

    def drain(self) -> None:
        for _ in self.pieces():
            pass

    @property
    def digest(self) -> str:
        return "b3:" + self._hash.hexdigest()


def _pieces(file: Any, size: int) -> Iterator[bytes]:
    left = size
    while left > 0 and (piece := file.read(min(_PIECE, left))):
        left -= len(piece)
        yield piece


class _writable:  # noqa: N801 (reads as what it does)
    """What the disk says about the backup's file, in our words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, FlyballError):
            full = error.errno in (28, 122, 27)  # no space, quota, file too large
            hint = "free some space; nothing was changed" if full else "check the folder and its rights"
            raise Unavailable(f"{self._path} can't be written: {error.strerror or error}", hint) from error
