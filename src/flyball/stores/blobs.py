"""Content-addressed blobs on obstore: a blob exists whole or not at all, and is checked each time it is read.

One implementation for a local folder (``file:…``), S3, GCS and Azure. Local writes are staged beside their place and
renamed, so a process killed in the middle leaves a stray file that nothing names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, MemoryStore, from_url

from flyball.core.hashing import digest_bytes, digest_file, is_digest
from flyball.errors import Invalid, NotFound, Refused, Unavailable


class Blobs:
    """Bytes by their digest.

    >>> blobs = Blobs.open("memory:")
    >>> digest = blobs.put(b"hello")
    >>> blobs.get(digest), digest in blobs
    (b'hello', True)
    """

    def __init__(self, store: Any, url: str) -> None:
        self._store = store
        self.url = url

    @classmethod
    def open(cls, url: str) -> Blobs:
        """Open ``file:PATH``, ``memory:``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``."""
        if url.startswith("memory:"):
            return cls(MemoryStore(), url)
        if url.startswith("file:"):
            folder = Path(url.removeprefix("file:").removeprefix("//"))
            try:
                return cls(LocalStore(folder, mkdir=True), url)
            except (BaseError, OSError) as error:
                raise Unavailable(
                    f"the blob folder {folder} can't be opened: {error}", "check its rights"
                ) from error
        try:
            return cls(from_url(url), url)
        except BaseError as error:
            raise Invalid(
                f"{url!r} is not a blob URL", "like file:.flyball/blobs or s3://bucket/prefix"
            ) from error

    def put(self, data: bytes) -> str:
        """Store bytes; returns their digest. Storing the same bytes again costs one look."""
        digest = digest_bytes(data)
        if digest not in self:
            self._write(digest, data)
        return digest

    def put_file(self, path: Path) -> str:
        """Store a file's bytes without reading it into memory; returns their digest."""
        try:
            digest = digest_file(path)
        except FileNotFoundError as error:
            raise NotFound(f"no file {path}", "check the path; it is relative to where you stand") from error
        except OSError as error:
            raise Unavailable(f"{path} can't be read: {error.strerror}", "check its rights") from error
        if digest not in self:
            self._write(digest, path)
        return digest

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
        try:
            return bytes(obstore.get(self._store, _place(digest)).bytes())
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound(
                f"no blob {digest} in {self.url}", "was it collected, or is this another store?"
            ) from error
        except (BaseError, OSError) as error:
            raise Unavailable(f"the blob store {self.url} does not answer: {error}", "try again") from error

    def size_bytes(self, digest: str) -> int:
        """Its size, without reading it."""
        try:
            return int(obstore.head(self._store, _place(digest))["size"])
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound(f"no blob {digest} in {self.url}", "was it collected?") from error

    def __contains__(self, digest: str) -> bool:
        try:
            obstore.head(self._store, _place(digest))
        except (NotFoundError, FileNotFoundError):
            return False
        except (BaseError, OSError) as error:
            raise Unavailable(f"the blob store {self.url} does not answer: {error}", "try again") from error
        return True

    def ls(self) -> list[str]:
        """Digests of all blobs, unordered."""
        return [
            "b3:" + entry["path"].replace("/", "")
            for batch in obstore.list(self._store)
            for entry in batch
            if is_digest("b3:" + entry["path"].replace("/", ""))
        ]

    def _write(self, digest: str, data: bytes | Path) -> None:
        try:
            obstore.put(self._store, _place(digest), data)
        except (BaseError, OSError) as error:
            hint = (
                "free some space; nothing was lost"
                if "No space" in str(error)
                else "check its rights and try again"
            )
            raise Unavailable(f"the blob store {self.url} can't be written: {error}", hint) from error


def _place(digest: str) -> str:
    if not is_digest(digest):
        raise Invalid(f"{digest!r} is not a digest", "a digest is 'b3:' and 64 hexadecimal letters")
    return f"{digest[3:5]}/{digest[5:]}"
