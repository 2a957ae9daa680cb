"""The offline table of a source: numbered Parquet files, each renamed into place whole. They are the log that every
view of the source follows, and what a stream has brought so far stands in the newest one, beside the rows themselves.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flyball.errors import Unavailable

if TYPE_CHECKING:
    import polars as pl

_MERGED = ".all.parquet"
_KEY = "flyball"
_WAIT_S = 30.0
_MANY = 256
_SMALL_BYTES = 4 << 20


class Head(msgspec.Struct, frozen=True):
    """What a file says of itself: how far its stream was read with it, and whether its rows go online."""

    positions: dict[
        str, str
    ] = {}  # partition -> the position of the last message taken so far, in this file or before
    online: bool = True
    batch: str = ""  # of a push that may be repeated


class FeedFiles:
    """One source's files. Writing needs :meth:`held`; reading never waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._newest: tuple[int, Head] | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Alone among the writers of this source; the lock ends with its process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            until = time.monotonic() + _WAIT_S
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise Unavailable(
                            f"another process has been writing {self.folder.name!r} for {_WAIT_S:.0f} s",
                            "try again when it is done",
                        ) from None
                    time.sleep(0.002)
            yield

    def files(self) -> list[Path]:
        """The files that count, in order: one that holds the rows of others stands in their place."""
        spans = [(*span_of(file), file) for file in self.folder.glob("[0-9]*.parquet")]
        kept: list[Path] = []
        lowest = None
        for last, first, file in sorted(spans, key=lambda one: (-one[0], one[1])):
            if lowest is None or last < lowest:
                kept.append(file)
                lowest = first
        return kept[::-1]

    def newest(self) -> tuple[int, Head]:
        """The number of the newest file and its head; 0 before the first."""
        known = self._newest
        if known is None or (self.folder / _name(known[0] + 1)).exists() or not self._is_there(known[0]):
            files = self.files()
            known = self._newest = (number_of(files[-1]), head_of(files[-1])) if files else (0, Head())
        return known

    @property
    def identity(self) -> str:
        """Tells this table from one that was here before it; made with the first file."""
        path = self.folder / ".identity"
        if not path.exists():
            staged = path.with_name(".identity.part")
            staged.write_text(os.urandom(8).hex())
            staged.replace(path)
        return path.read_text()

    def write(self, rows: pl.DataFrame, head: Head, *, durable: bool) -> int:
        """The next file; returns its number. ``durable``: it is on the disk, and not only the kernel's, afterwards."""
        number, before = self.newest()
        if not head.positions:
            head = msgspec.structs.replace(head, positions=before.positions)
        self._write(rows, _name(number + 1), head, durable=durable)
        self._newest = (number + 1, head)
        return number + 1

    def merge(self, rows: pl.DataFrame) -> None:
        """One file in place of all, holding the same rows."""
        self._replace(self.files(), rows)

    def compact(self) -> None:
        """Make one of the newest small files when there are many of them, as a stream of little batches leaves."""
        if self.newest()[0] % _MANY:
            return
        small: list[Path] = []
        for file in reversed(self.files()):
            if file.stat().st_size > _SMALL_BYTES or not head_of(file).online:
                break
            small.append(file)
        if len(small) >= _MANY:
            small.reverse()
            self._replace(small, read(small))

    def _replace(self, files: Sequence[Path], rows: pl.DataFrame) -> None:
        """A kill on the way leaves files that no longer count."""
        if len(files) > 1:
            last, first = span_of(files[-1])[0], span_of(files[0])[1]
            head = msgspec.structs.replace(head_of(files[-1]), online=True, batch="")
            name = (
                f"{last:08d}{_MERGED}" if files[0] == self.files()[0] else f"{last:08d}.{first:08d}.parquet"
            )
            self._write(rows, name, head, durable=True)
            for file in files:
                file.unlink()

    def has(self, batch: str) -> bool:
        """Whether a batch of this name came since the last merge."""
        return any(head_of(file).batch == batch for file in reversed(self.files()))

    def _is_there(self, number: int) -> bool:
        return number == 0 or (self.folder / _name(number)).exists()

    def _write(self, rows: pl.DataFrame, name: str, head: Head, *, durable: bool) -> None:
        path = self.folder / name
        staged = path.with_name(f".{name}.part")
        said = {_KEY: msgspec.json.encode(head).decode()}
        try:
            rows.write_parquet(staged, compression="zstd", statistics=False, metadata=said)
            if durable:
                _flush(staged)
            staged.replace(path)
            if durable:
                _flush(self.folder)
        except OSError as error:
            staged.unlink(missing_ok=True)
            raise Unavailable(
                f"{path} can't be written: {error}",
                "free some space; nothing was taken, the batch can be repeated",
            ) from error


def number_of(path: Path) -> int:
    """A file's number: of one that holds the rows of several, the last of theirs."""
    return int(path.name.partition(".")[0])


def span_of(path: Path) -> tuple[int, int]:
    """The last and the first of the numbers whose rows a file holds: ``8.parquet``, ``8.all.parquet``, ``8.5.parquet``."""
    last, first, *_ = path.name.split(".")
    return int(last), 0 if first == "all" else int(first) if first.isdecimal() else int(last)


def head_of(path: Path) -> Head:
    """What a file says of itself; files from before there were heads say nothing."""
    import polars as pl

    said = pl.read_parquet_metadata(path).get(_KEY)
    return Head() if said is None else msgspec.json.decode(said, type=Head)


def read(files: Sequence[Path]) -> pl.DataFrame:
    """Their rows, in order; columns that some lack are null there."""
    import polars as pl

    return pl.concat([pl.read_parquet(file) for file in files], how="diagonal_relaxed")


def _name(number: int) -> str:
    return f"{number:08d}.parquet"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
