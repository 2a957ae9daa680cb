"""The offline table of a source: numbered Parquet files, each renamed into place whole. They are the log that every
view of the source follows, and what a stream has brought so far stands in the newest one, beside the rows themselves.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

import msgspec

from flyball.errors import Conflict, Unavailable

if TYPE_CHECKING:
    import polars as pl

    from flyball.stores.tables import Table, Tables

_MERGED = ".all.parquet"
_KEY = "flyball"
_IDENTITY = ".identity"
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

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._newest: tuple[int, Head] | None = None

    def held(self) -> AbstractContextManager[None]:
        """Alone among the writers of this source; the lock ends with its process, however that ends."""
        return self.tables.held()

    def files(self) -> list[Table]:
        """The files that count, in order: one that holds the rows of others stands in their place."""
        spans = [(*span_of(file), file) for file in self.tables.files() if file.name[0].isdecimal()]
        kept: list[Table] = []
        lowest = None
        for last, first, file in sorted(spans, key=lambda one: (-one[0], one[1])):
            if lowest is None or last < lowest:
                kept.append(file)
                lowest = first
        return kept[::-1]

    def newest(self) -> tuple[int, Head]:
        """The number of the newest file and its head; 0 before the first."""
        known = self._newest
        if known is None or self.tables.has(_name(known[0] + 1)) or not self._is_there(known[0]):
            files = self.files()
            known = self._newest = (number_of(files[-1]), head_of(files[-1])) if files else (0, Head())
        return known

    @property
    def identity(self) -> str:
        """Tells this table from one that was here before it; made with the first file."""
        found = self.tables.get(_IDENTITY)
        if not found:
            with suppress(Conflict):  # another machine made it
                self.tables.put(_IDENTITY, os.urandom(8).hex().encode(), new=found is None)
            found = self.tables.get(_IDENTITY) or b""
        return found.decode()

    def write(self, rows: pl.DataFrame, head: Head, *, durable: bool) -> int:
        """The next file; returns its number. ``durable``: it is on the disk, and not only the kernel's, afterwards."""
        number, before = self.newest()
        if not head.positions:
            head = msgspec.structs.replace(head, positions=before.positions)
        self._write(rows, _name(number + 1), head, durable=durable, new=True)
        self._newest = (number + 1, head)
        return number + 1

    def merge(self, rows: pl.DataFrame) -> None:
        """One file in place of all, holding the same rows."""
        self._replace(self.files(), rows)

    def compact(self) -> None:
        """Make one of the newest small files when there are many of them, as a stream of little batches leaves."""
        if self.newest()[0] % _MANY:
            return
        small: list[Table] = []
        for file in reversed(self.files()):
            if file.size_bytes > _SMALL_BYTES or not head_of(file).online:
                break
            small.append(file)
        if len(small) >= _MANY:
            small.reverse()
            self._replace(small, read(small))

    def _replace(self, files: Sequence[Table], rows: pl.DataFrame) -> None:
        """A kill on the way leaves files that no longer count."""
        if len(files) > 1:
            last, first = span_of(files[-1])[0], span_of(files[0])[1]
            head = msgspec.structs.replace(head_of(files[-1]), online=True, batch="")
            name = (
                f"{last:08d}{_MERGED}" if files[0] == self.files()[0] else f"{last:08d}.{first:08d}.parquet"
            )
            self._write(rows, name, head, durable=True)
            for file in files:
                file.delete()

    def has(self, batch: str) -> bool:
        """Whether a batch of this name came since the last merge."""
        return any(head_of(file).batch == batch for file in reversed(self.files()))

    def _is_there(self, number: int) -> bool:
        return number == 0 or self.tables.has(_name(number))

    def _write(self, rows: pl.DataFrame, name: str, head: Head, *, durable: bool, new: bool = False) -> None:
        said = {_KEY: msgspec.json.encode(head).decode()}
        try:
            self.tables.write(name, rows, metadata=said, durable=durable, new=new)
        except Conflict as error:
            self._newest = None
            raise Unavailable(
                f"another machine writes {self.tables.shown} too: {error.what}",
                "nothing was taken, the batch can be repeated",
            ) from error


def number_of(file: Table) -> int:
    """A file's number: of one that holds the rows of several, the last of theirs."""
    return int(file.name.partition(".")[0])


def span_of(file: Table) -> tuple[int, int]:
    """The last and the first of the numbers whose rows a file holds: ``8.parquet``, ``8.all.parquet``, ``8.5.parquet``."""
    last, first, *_ = file.name.split(".")
    return int(last), 0 if first == "all" else int(first) if first.isdecimal() else int(last)


def head_of(file: Table) -> Head:
    """What a file says of itself; files from before there were heads say nothing."""
    said = file.metadata().get(_KEY)
    return Head() if said is None else msgspec.json.decode(said, type=Head)


def read(files: Sequence[Table]) -> pl.DataFrame:
    """Their rows, in order; columns that some lack are null there."""
    import polars as pl

    return pl.concat([file.read() for file in files], how="diagonal_relaxed")


def _name(number: int) -> str:
    return f"{number:08d}.parquet"
