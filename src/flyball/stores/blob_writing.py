"""Write a blob piece by piece: staged as a file beside its place, named by its digest when it is whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from blake3 import blake3

if TYPE_CHECKING:
    from io import FileIO

    from flyball.stores.blobs import Blobs

_PIECE_BYTES = 4 << 20
_MOST_PARTS = 512  # of one writev; the kernel takes 1,024


class BlobWriter:
    """One blob in the making. Leaving the block without :meth:`keep` leaves nothing behind.

    >>> from flyball.stores.blobs import Blobs
    >>> blobs = Blobs.open("memory:")
    >>> with blobs.writer() as writer:
    ...     writer.write(b"hel")
    ...     writer.write(b"lo")
    ...     blobs.get(writer.keep())
    b'hello'
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._hash = blake3()
        self._staged: Path | None = None
        self._file: BinaryIO | FileIO | None = None
        self.size_bytes = 0
        self.new = False  # whether keep() wrote it, or found it there

    def __enter__(self) -> Self:
        try:
            folder = self._blobs.folder
            if folder is None:
                handle, name = tempfile.mkstemp(prefix="flyball-blob-")
                self._staged, self._file = Path(name), os.fdopen(handle, "wb", buffering=0)
            else:
                (folder / ".part").mkdir(parents=True, exist_ok=True)
                self._staged = folder / ".part" / os.urandom(12).hex()
                self._file = self._staged.open("xb", buffering=0)
        except OSError as error:
            raise self._blobs._unwritable(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._staged is not None:
            with suppress(OSError):
                self._staged.unlink(missing_ok=True)

    def write(self, piece: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self.write_all([piece])

    def write_all(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """Append several pieces with as few calls of the kernel as it takes."""
        assert self._file is not None
        for start in range(0, len(pieces), _MOST_PARTS):
            part = pieces[start : start + _MOST_PARTS]
            for piece in part:
                self._hash.update(piece)
            wanted = sum(len(piece) for piece in part)
            try:
                written = os.writev(self._file.fileno(), part)
                if written < wanted:  # interrupted, or the disk is nearly full: the rest says which
                    rest = memoryview(b"".join(part))[written:]
                    while rest:
                        rest = rest[os.write(self._file.fileno(), rest) :]
            except OSError as error:
                raise self._blobs._unwritable(error) from error
            self.size_bytes += wanted

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return "b3:" + self._hash.hexdigest()

    def keep(self) -> str:
        """Make it a blob; returns its digest."""
        assert self._staged is not None
        assert self._file is not None
        self._file.close()
        digest = self.digest
        if self._blobs.refresh(digest):
            return digest
        self.new = True
        target = self._blobs.path(digest)
        if target is None:
            self._blobs._write(digest, self._staged)
            return digest
        try:
            target.parent.mkdir(exist_ok=True)
            self._staged.replace(target)
        except OSError as error:
            raise self._blobs._unwritable(error) from error
        return digest


def read_pieces(handle: int) -> Iterator[memoryview]:
    """An open file's bytes piece by piece through one buffer: each piece is gone when the next is asked for.

    By ``read``, not by memory map: a file that is cut short while it is mapped kills its reader (SIGBUS).
    """
    buffer = memoryview(bytearray(_PIECE_BYTES))
    while read := os.readv(handle, [buffer]):
        yield buffer[:read]
