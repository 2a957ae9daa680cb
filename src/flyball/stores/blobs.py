"""Content-addressed blobs on obstore: a blob exists whole or not at all, and is checked each time it is read.

One implementation for a local folder (``file:…``), S3, GCS and Azure. Local writes are staged beside their place and
renamed, so a process killed in the middle leaves a stray file that nothing names. Who adds holds the store's lock with
others who add; who collects holds it alone (on one machine; between machines the age of a blob protects it).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore

from flyball.core.hashing import digest_bytes, is_digest
from flyball.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from flyball.stores.blob_writing import BlobWriter, read_pieces
from flyball.stores.buckets import open_bucket, parted
from flyball.stores.locking import held

REFRESH_AFTER_S = (
    3600.0  # well below any grace of a collection: an older blob that is put again is made new again
)
STRAYS_AFTER_S = 24 * 3600.0


class BlobStat(NamedTuple):
    """What a store knows of a blob without reading it. ``modified`` is by the store's own clock."""

    digest: str
    size_bytes: int
    modified: datetime


class Blobs:
    """Bytes by their digest.

    >>> blobs = Blobs.open("memory:")
    >>> digest = blobs.put(b"hello")
    >>> blobs.get(digest), digest in blobs, blobs.read_range(digest, 1, 3)
    (b'hello', True, b'ell')
    """

    def __init__(
        self, store: Any, url: str, *, folder: Path | None = None, state: Path | None = None
    ) -> None:
        self._store = store
        self.url = url
        self.folder = folder  # of a store on this machine
        self.state = state  # where what is only known here may be kept: locks, indexes that can be rebuilt

    @classmethod
    def open(cls, url: str, *, state: Path | None = None) -> Blobs:
        """Open ``file:PATH``, ``memory:``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``."""
        if url.startswith("memory:"):
            return cls(MemoryStore(), url)
        if url.startswith("file:"):
            folder = Path(url.removeprefix("file:").removeprefix("//"))
            try:
                return cls(LocalStore(folder, mkdir=True), url, folder=folder.absolute(), state=state)
            except (BaseError, OSError) as error:
                raise Unavailable(
                    f"the blob folder {folder} can't be opened: {error}", "check its rights"
                ) from error
        return cls(open_bucket(url), parted(url)[0], state=state)

    def put(self, data: bytes) -> str:
        """Store bytes; returns their digest. Storing the same bytes again costs one look."""
        digest = digest_bytes(data)
        if not self.refresh(digest):
            self._write(digest, data)
        return digest

    def replace(self, digest: str, data: bytes) -> None:
        """Write a blob again whose stored bytes have changed: the right ones, from elsewhere."""
        if digest_bytes(data) != digest:
            raise Refused(
                f"these are not the bytes of {digest}", "take them from another store", digest=digest
            )
        self._write(digest, data)

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading it into memory; returns their digest."""
        try:
            with path.open("rb", buffering=0) as file:
                return self.put_stream(read_pieces(file.fileno()))
        except FileNotFoundError as error:
            raise NotFound(f"no file {path}", "check the path; it is relative to where you stand") from error
        except OSError as error:
            if isinstance(error, Unavailable):  # the store's own, which is an OSError too
                raise
            raise Unavailable(f"{path} can't be read: {error.strerror}", "check its rights") from error

    def put_stream(self, pieces: Iterable[bytes | memoryview]) -> str:
        """Store bytes that come piece by piece, in bounded memory; returns their digest."""
        with self.writer() as writer:
            for piece in pieces:
                writer.write(piece)
            return writer.keep()

    def writer(self) -> BlobWriter:
        """Write a blob whose digest is known at its end; it exists once :meth:`BlobWriter.keep` returns."""
        return BlobWriter(self)

    def get(self, digest: str) -> bytes:
        """The bytes, checked against their name: changed bytes are :class:`Refused`, never returned."""
        data = self.read_unchecked(digest)
        if digest_bytes(data) != digest:
            raise Refused(
                f"the stored bytes of {digest} have changed",
                "flyball restore BACKUP brings them back; what was made from them is not to be trusted",
                digest=digest,
            )
        return data

    def read_unchecked(self, digest: str) -> bytes:
        """The bytes as they lie there, for whoever compares the digest itself."""
        with self._answers(digest):
            return bytes(obstore.get(self._store, _place(digest)).bytes())

    def read_range(self, digest: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, unchecked; fewer where the blob ends before that."""
        if length <= 0:
            return b""
        with self._answers(digest):
            if (path := self.path(digest)) is not None:
                with path.open("rb", buffering=0) as file:
                    return os.pread(file.fileno(), length, start)
            try:
                return bytes(obstore.get_range(self._store, _place(digest), start=start, length=length))
            except BaseError as error:
                if "non-partial" not in str(error):
                    raise
                # Some that speak S3 answer a range with everything (rclone 1.75 does after an upload in parts).
                return self.read_unchecked(digest)[start : start + length]

    def stream(self, digest: str, piece_bytes: int = 8 << 20) -> Iterator[bytes]:
        """The bytes piece by piece, unchecked, for whoever hashes them on the way."""
        with self._answers(digest):
            if (path := self.path(digest)) is not None:
                with path.open("rb", buffering=0) as file:
                    while piece := file.read(piece_bytes):
                        yield piece
                return
            for part in obstore.get(self._store, _place(digest)).stream(min_chunk_size=piece_bytes):
                yield bytes(part)

    def path(self, digest: str) -> Path | None:
        """Where a blob lies (or would lie) as a file on this machine; ``None`` for other stores. Only to be read."""
        return None if self.folder is None else self.folder / _place(digest)

    def size_bytes(self, digest: str) -> int:
        """Its size, without reading it."""
        return self.stat(digest).size_bytes

    def stat(self, digest: str) -> BlobStat:
        """Size and age of a blob, without reading it."""
        with self._answers(digest):
            if (path := self.path(digest)) is not None:
                found = path.stat()
                return BlobStat(digest, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
            head = obstore.head(self._store, _place(digest))
            return BlobStat(digest, int(head["size"]), head["last_modified"])

    def __contains__(self, digest: str) -> bool:
        try:
            self.stat(digest)
        except NotFound:
            return False
        return True

    def ls(self) -> list[str]:
        """Digests of all blobs, unordered."""
        return [one.digest for one in self.stats()]

    def stats(self) -> Iterator[BlobStat]:
        """Digest, size and age of all blobs, unordered."""
        try:
            for batch in obstore.list(self._store, chunk_size=1000):
                for entry in batch:
                    digest = "b3:" + entry["path"].replace("/", "")
                    if is_digest(digest):
                        yield BlobStat(digest, int(entry["size"]), entry["last_modified"])
        except (BaseError, OSError) as error:
            raise self._silent(error) from error

    def delete(self, digest: str) -> bool:
        """Remove a blob; whether it was there. Only for a collection, which holds :meth:`collecting`."""
        try:
            if (path := self.path(digest)) is not None:
                path.unlink()
            elif digest in self:
                obstore.delete(self._store, _place(digest))
            else:
                return False
        except (NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise Unavailable(f"{digest} can't be removed from {self.url}: {error}", "try again") from error
        return True

    def refresh(self, digest: str) -> bool:
        """Whether a blob is there; an old one counts as new from now on, so that no collection takes it meanwhile.

        A remote store can't do that without the bytes: an old blob there is answered as missing, and put again.
        """
        try:
            age_s = time.time() - self.stat(digest).modified.timestamp()
        except NotFound:
            return False
        if age_s < REFRESH_AFTER_S:
            return True
        if (path := self.path(digest)) is None:
            return False
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            return True  # another's blob in a shared folder: its owner's collection goes by lineage
        return True

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While blobs are put whose names are not in the ledger yet: no collection on this machine runs meanwhile."""
        with held(self._lock_path, exclusive=False):
            yield

    @contextmanager
    def collecting(self, wait_s: float = 60.0) -> Iterator[None]:
        """While unreachable blobs are found and removed: nobody on this machine adds meanwhile."""
        with held(self._lock_path, exclusive=True, wait_s=wait_s):
            yield

    @property
    def _lock_path(self) -> Path | None:
        if self.folder is not None:
            return self.folder / ".lock"  # whichever workspace uses this folder
        return None if self.state is None else self.state / "run" / "blobs.lock"

    def clear_strays(self, older_s: float = STRAYS_AFTER_S) -> int:
        """Remove what killed writers left behind in a local store; returns how many files."""
        if self.folder is None:
            return 0
        cleared = 0
        for path in (*self.folder.glob(".part/*"), *self.folder.glob("??/*#*")):
            try:
                if time.time() - path.stat().st_mtime >= older_s:
                    path.unlink()
                    cleared += 1
            except FileNotFoundError:
                continue  # its writer is alive, and done
        return cleared

    def put_named(self, name: str, data: bytes, *, only_new: bool = False) -> None:
        """Keep a small document by name beside the blobs, as ``push`` does; ``only_new`` never overwrites."""
        try:
            obstore.put(self._store, _named(name), data, mode="create" if only_new else "overwrite")
        except AlreadyExistsError as error:
            raise Conflict(f"{self.url} has a {name} already", "reload and try again", name=name) from error
        except (BaseError, OSError) as error:
            raise self._unwritable(error) from error

    def get_named(self, name: str) -> bytes | None:
        """A document by name, or ``None``."""
        try:
            return bytes(obstore.get(self._store, _named(name)).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._silent(error) from error

    def ls_named(self, prefix: str) -> list[str]:
        """Names of documents below a prefix that ends at a ``/``."""
        try:
            found = [
                entry["path"] for batch in obstore.list(self._store, prefix=_named(prefix)) for entry in batch
            ]
        except (BaseError, OSError) as error:
            raise self._silent(error) from error
        return sorted(path.removeprefix(_NAMES) for path in found)

    def _write(self, digest: str, data: bytes | Path) -> None:
        try:
            obstore.put(self._store, _place(digest), data)
        except (BaseError, OSError) as error:
            raise self._unwritable(error) from error

    @contextmanager
    def _answers(self, digest: str) -> Iterator[None]:
        try:
            yield
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound(
                f"no blob {digest} in {self.url}", "was it collected, or is this another store?"
            ) from error
        except (BaseError, OSError) as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> Unavailable:
        return Unavailable(f"the blob store {self.url} does not answer: {_short(error)}", "try again")

    def _unwritable(self, error: Exception) -> Unavailable:
        full = "No space" in str(error) or "File too large" in str(error) or "quota" in str(error).lower()
        hint = "free some space; nothing was lost" if full else "check its rights and try again"
        return Unavailable(f"the blob store {self.url} can't be written: {_short(error)}", hint)


_NAMES = "refs/"


def _named(name: str) -> str:
    return _NAMES + name


def _place(digest: str) -> str:
    if not is_digest(digest):
        raise Invalid(f"{digest!r} is not a digest", "a digest is 'b3:' and 64 hexadecimal letters")
    return f"{digest[3:5]}/{digest[5:]}"


def _short(error: Exception) -> str:
    """An engine's error without its inner debug print."""
    return str(error).partition("\n\nDebug source")[0].strip()
