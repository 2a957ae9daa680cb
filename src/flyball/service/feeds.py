"""Feeds: rows arrive, are held against their contract, and become features, offline and online; or are set aside.

A batch that breaks its contract is kept (as a blob), an incident is opened, and the last good values go on serving.
:func:`backfill` brings the right rows later: they are *known* from then on, so no training row sees them earlier than
the world did, and the incident is closed.

The offline files are the log, and each view follows it: the number of the file up to which a view is online is a mark,
set in the transaction of that file's rows. Killed between the two, the next batch (or start) brings what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from flyball.core.records import Snapshot
from flyball.errors import NotFound, Unavailable, nearest
from flyball.service import quarantine
from flyball.service.feed_files import FeedFiles, Head, head_of, number_of, read
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.checks.expectations import Contract
    from flyball.checks.results import ContractResult
    from flyball.features.definitions import View
    from flyball.stores.online import Rows
    from flyball.stores.tables import Table

log = logging.getLogger(__name__)
To = Literal["online_and_offline", "online", "offline"]
_SLICE_ROWS = 1_000_000


class Landed(msgspec.Struct, frozen=True):
    """What a batch was to one view: rows that were new, the same as before, and older than one that came earlier."""

    view: str
    new: int = 0
    duplicates: int = 0
    late: int = 0


class Ingested(msgspec.Struct, frozen=True):
    """What became of a batch."""

    source: str
    rows: int
    accepted: bool
    because: str = ""
    report: str | None = None
    views: tuple[Landed, ...] = ()


class Followed(msgspec.Struct, frozen=True):
    """How far a view follows the offline files of its source; kept in the online store, beside the rows."""

    table: str = ""  # which table: another one in its place is read from the start
    file: int = 0  # all files up to this one are online,
    part: tuple[str, int] = ("", 0)  # and so many rows of the one named, when that is long
    newest_us: int | None = None  # when the newest row so far happened
    rows: int = 0
    late: int = 0  # of these


class Feed:
    """One source of one workspace: its contract, its views, and the last good rows it brought.

    Rows of an accepted batch are durable (one Parquet file, renamed into place) before any feature changes.
    """

    def __init__(self, ws: Workspace, source: str) -> None:
        from flyball.service.features import live_views, sources

        self.ws = ws
        self.source = source
        self.views: list[View] = live_views(ws, source)
        contracts = contracts_of(ws)
        if not self.views and source not in contracts and source not in sources(ws):
            known = sorted({view.source for view in live_views(ws)} | sources(ws).keys())
            raise NotFound(f"no view reads {source!r}", nearest(source, known))
        self.contract = contracts.get(source)
        self.of_views = {
            view.base_name: (view, contracts[view.base_name])
            for view in self.views
            if view.base_name in contracts and view.base_name != source
        }
        self.files = FeedFiles(ws.tables.at(f"sources/{source}"))
        self._previous: pl.DataFrame | None = None

    def ingest(
        self,
        rows: pl.DataFrame,
        *,
        now: datetime,
        to: To = "online_and_offline",
        positions: Mapping[str, str] | None = None,
        batch: str = "",
        durable: bool = False,
        bad: bytes = b"",
    ) -> Ingested:
        """Take a batch: accepted whole, or set aside whole with an incident.

        ``positions`` say how far a stream was read with it, and are kept with the rows, or in place of rows set aside.
        A ``batch`` that came before (since the last merge) is not taken twice. ``durable`` waits for the disk. ``bad``
        are messages that are no rows: kept under ``dead/`` by the number of the file that they would have been in.
        """
        if rows.height == 0 and not positions:
            return Ingested(self.source, 0, True, "nothing in it")
        with self.files.held():
            if batch and self.files.has(batch):
                self.catch_up()
                return Ingested(self.source, rows.height, True, f"batch {batch!r} came before")
            if bad:
                self._bury(bad)
            result = self._check(rows, now) if rows.height else None
            if result is not None and not result.passed:
                because, report = quarantine.set_aside(self.ws, self.source, result, now, rows=rows)
                if positions:
                    self.files.write(rows.select(), Head(dict(positions)), durable=durable)
                return Ingested(self.source, rows.height, False, because, report)
            head = Head(dict(positions or {}), to != "offline", batch)
            if rows.height == 0:
                self.files.write(rows.select(), head, durable=durable)
                return Ingested(self.source, 0, True, "nothing in it")
            landed = self._keep(rows, head, offline=to != "online", durable=durable)
            self._previous = rows
        return Ingested(self.source, rows.height, True, views=tuple(landed))

    def backfill(self, rows: pl.DataFrame, known: str, *, now: datetime) -> Ingested:
        """Bring the right rows for a time that was set aside; they are known from ``now`` on."""
        import polars as pl

        stamped = rows.with_columns(pl.lit(now).cast(rows.schema[known]).alias(known))
        taken = self.ingest(stamped, now=now)
        if taken.accepted:
            because = f"{rows.height} rows back-filled; they keep the contract"
            quarantine.release(self.ws, self.source, because, now)
        return taken

    def history(self) -> pl.DataFrame:
        """All accepted rows, in the order in which they came."""
        files = self.files.files()
        if not files:
            raise NotFound(f"{self.source} has brought nothing yet", "ingest a batch first")
        return read(files)

    def snapshot(self) -> Snapshot:
        """A snapshot of all accepted rows, under the source's name; small files become one on the way."""
        from flyball.versions import data

        with self.files.held():
            rows = self.history()
            try:
                self.catch_up()  # by file numbers, which end here
                self.files.merge(rows)
            except Unavailable as error:
                log.warning("the files of %s stay many for now: %s", self.source, error.what)
        return data.add(self.ws.ledger, self.ws.blobs, self.source, rows, actor=self.ws.actor)

    def schema(self) -> dict[str, pl.DataType] | None:
        """Names and types of the columns so far; ``None`` before the first rows."""
        for file in reversed(self.files.files()):
            if found := file.schema():
                return found
        return None

    def positions(self) -> dict[str, str]:
        """How far the stream of this source was read, by partition."""
        return dict(self.files.newest()[1].positions)

    def catch_up(self, view: View | None = None, seen: Callable[[Rows], None] | None = None) -> list[Landed]:
        """Bring what lies in the files and is not online yet, of one view or all: after a kill, or for a new view."""
        newest, _ = self.files.newest()
        views = [view] if view is not None else self.views
        return [self._follow(one, self.followed(one), newest, seen)[1] for one in views]

    def followed(self, view: View) -> Followed:
        """How far a view is; not at all after its rows were cleared, or the table was made anew."""
        found = self.ws.online.mark(_mark(view))
        newest, _ = self.files.newest()
        mark = Followed() if found is None else msgspec.msgpack.decode(found, type=Followed)
        return mark if newest and mark.table == self.files.identity and mark.file <= newest else Followed()

    def _follow(
        self, view: View, mark: Followed, newest: int, seen: Callable[[Rows], None] | None = None
    ) -> tuple[Followed, Landed]:
        from flyball.features.rows import rows_of

        sums = Landed(view.name)
        for file in self.files.files() if mark.file < newest else []:
            number = number_of(file)
            if number <= mark.file:
                continue
            done = mark.part[1] if mark.part[0] == file.name else 0
            for part, ends in _slices(file, done):
                rows = rows_of(view, _complete(view, part))
                if seen is not None:
                    seen(rows)
                at = {"file": number, "part": ("", 0)} if ends is None else {"part": (file.name, ends)}
                mark, landed = self._put(view, rows, msgspec.structs.replace(mark, **at))
                sums = _together(sums, landed)
        return mark, sums

    def _put(self, view: View, rows: Rows, mark: Followed) -> tuple[Followed, Landed]:
        """Rows and mark in one transaction."""
        from flyball.features.filling import put

        late, newest = 0, mark.newest_us
        if len(rows.happened):
            last = int(rows.happened.max())
            late = 0 if newest is None else int((rows.happened < newest).sum())
            newest = last if newest is None else max(newest, last)
        mark = msgspec.structs.replace(
            mark,
            table=self.files.identity,
            newest_us=newest,
            rows=mark.rows + len(rows.codes),
            late=mark.late + late,
        )
        new = put(view, rows, self.ws.online, marks={_mark(view): msgspec.msgpack.encode(mark)})
        return mark, Landed(view.name, new, len(rows.codes) - new, late)

    def _bury(self, bad: bytes) -> None:
        # The same file again when the batch comes again.
        name = f"{self.files.newest()[0] + 1:08d}.ndjson"
        self.ws.tables.at(f"dead/{self.source}").put(name, bad)

    def _check(self, rows: pl.DataFrame, now: datetime) -> ContractResult | None:
        """The first contract that a batch breaks: the source's, or that of a view of it."""
        from flyball.checks.expectations import validate

        result = None
        if self.contract is not None:
            result = validate(rows, self.contract, now=now, previous=self._last())
        for view, contract in self.of_views.values():
            if result is None or result.passed:
                result = validate(prepared(view, rows), contract, now=now)
        return result

    def _last(self) -> pl.DataFrame | None:
        if self._previous is None:
            with_rows = (file for file in reversed(self.files.files()) if file.schema())
            newest = next(with_rows, None)
            self._previous = None if newest is None else newest.read()
        return self._previous

    def _keep(self, rows: pl.DataFrame, head: Head, *, offline: bool, durable: bool) -> list[Landed]:
        from flyball.features.filling import put
        from flyball.features.rows import rows_of

        parts = [
            rows_of(view, rows) for view in self.views
        ]  # a wrong column is named before anything is written
        if not offline:
            counts = [put(view, part, self.ws.online) for view, part in zip(self.views, parts, strict=True)]
            return [
                Landed(view.name, new, len(part.codes) - new)
                for view, part, new in zip(self.views, parts, counts, strict=True)
            ]
        newest, _ = self.files.newest()
        marks = [self._follow(view, self.followed(view), newest)[0] for view in self.views]
        number = self.files.write(rows, head, durable=durable)
        if not head.online:
            return []
        return [
            self._put(view, part, msgspec.structs.replace(mark, file=number, part=("", 0)))[1]
            for view, part, mark in zip(self.views, parts, marks, strict=True)
        ]


def snapshot_all(ws: Workspace) -> list[Snapshot]:
    """A snapshot of every source that has brought rows: what a training of now may learn from."""
    return [Feed(ws, name).snapshot() for name in ws.tables.at("sources").folders()]


def prepared(view: View, rows: pl.DataFrame) -> pl.DataFrame:
    """What a view makes of rows of its source: derived columns beside the others, and only the rows it wants."""
    if not view.derived and view.where is None:
        return rows
    from flyball.features.expressions import apply

    found: pl.DataFrame = apply(rows, view.derived, view.where)
    return found


def contracts_of(ws: Workspace) -> dict[str, Contract]:
    """The project's contracts, by the name of the source or view that must keep them."""
    return {one.name: one for one in ws.definitions.of(_contract()).values()}


def _mark(view: View) -> str:
    return f"followed:{view.stored_as}"


def _together(one: Landed, other: Landed) -> Landed:
    return Landed(one.view, one.new + other.new, one.duplicates + other.duplicates, one.late + other.late)


def _complete(view: View, part: pl.DataFrame) -> pl.DataFrame:
    """With nulls for what the source did not bring yet when these rows came."""
    import polars as pl

    lacking = [name for name in view.needed_columns if name not in part.columns]
    return part.with_columns(pl.lit(None).alias(name) for name in lacking) if lacking else part


def _slices(file: Table, done: int) -> Iterator[tuple[pl.DataFrame, int | None]]:
    """A file's rows from ``done`` on, a slice at a time, and how many are done then; ``None`` with the last.

    A file whose rows don't go online has one slice with none.
    """
    import polars as pl

    if not head_of(file).online:
        yield pl.DataFrame(schema=file.schema()), None
        return
    height = file.scan().select(pl.len()).collect().item()
    while True:
        part = file.read() if height <= _SLICE_ROWS else file.scan().slice(done, _SLICE_ROWS).collect()
        done += part.height
        yield part, done if done < height else None
        if done >= height:
            return


def _contract() -> type[Contract]:
    from flyball.checks.expectations import Contract

    return Contract
