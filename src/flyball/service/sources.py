"""Where features come from: one way to read the rows of any source, and the record of which bytes these were.

A source that the project defines is read at its URL; rows that were pushed (or streamed) under its name come after
those. Without a definition, a name stands for what was pushed under it, else for the newest snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import FlyballError, NotFound, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.features.definitions import Source, View
    from flyball.features.sources import Place
    from flyball.features.sources.files import FileSeen
    from flyball.features.sources.seeing import Seen
    from flyball.stores.tables import Table


class Described(msgspec.Struct, frozen=True):
    """One source: what it is, who reads it, and how it stood when somebody looked."""

    name: str
    kind: str
    where: str
    views: tuple[str, ...] = ()
    columns: int | None = None
    rows: int | None = None
    pushed: int = 0  # rows that came by push or stream
    changed: datetime | None = None  # when its newest file changed, or its newest batch came
    version: str = ""
    problem: str = ""


def offline(
    ws: Workspace,
    view: View | str,
    *,
    columns: Sequence[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.LazyFrame:
    """The rows that a view (or a source of that name) is made of, oldest batch first; nothing is read yet.

    A view needs its own columns, a source has all; ``since`` (excluded) and ``until`` bound when rows became known. A
    source that is gone, lost a column or changed its type is an error that names it.
    """
    name, needed, clocks = _asked(ws, view)
    needed = tuple(columns) if columns is not None else needed
    parts, place = _parts(ws, name, needed, clocks, since, until)
    parts = _checked(ws, name, place, parts, needed)
    from flyball.features.sources.reading import together

    return together(parts, place, needed, clocks, since, until)


def used(ws: Workspace, view: View | str) -> Seen:
    """Record which bytes a source has now, for lineage: ``source:NAME@N``; the same bytes again are the same record."""
    name, _, _ = _asked(ws, view)
    found = look(ws, name)
    return _record(ws, found)


def look(ws: Workspace, name: str) -> Seen:
    """A source as it is now; nothing is recorded."""
    from flyball.features.sources.seeing import look, seen_of

    parts, place = _parts(ws, name, ())
    columns = _columns(parts, place)
    pushed = _pushed_files(ws, name)
    if place.kind in ("push", "stream", "snapshot"):
        version = _snapshot_ref(ws, place.where or name) or ""
        return seen_of(
            name, place.kind, place.shown, columns, files=pushed, version="" if pushed else version
        )
    found = look(place, ws.root, columns)
    if not pushed:
        return found
    return seen_of(
        name, place.kind, place.shown, columns, version=found.digest, files=pushed, rows=found.rows
    )


@verb("features sources", reads=True)
def sources(name: str = "", *, ws: Workspace = CURRENT) -> list[Described]:
    """List where features come from: what each source is, which views read it, its rows where they are known cheaply."""
    found = described(ws)
    if name and name not in {one.name for one in found}:
        raise NotFound(f"no source {name!r}", nearest(name, [one.name for one in found]))
    return [one for one in found if not name or one.name == name]


@verb("features accept")
def accept(source: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Take a source's columns and types as they are now: what comes later is compared with these."""
    before = ws.ledger.find("source_newest", source, _seen())
    found = look(ws, source)
    record = _record(ws, found, accepted=True)
    was = before.columns if before is not None else {}
    changes = sorted(name for name in {*was, *found.columns} if was.get(name) != found.columns.get(name))
    return {
        "source": record.ref,
        "changes": {
            one: f"{was.get(one, 'absent')} -> {found.columns.get(one, 'absent')}" for one in changes
        },
    }


def described(ws: Workspace) -> list[Described]:
    """Every source that the project defines, a view names or somebody pushed to; a broken one says its problem."""
    from flyball.service.features import live_views
    from flyball.service.features import sources as defined

    readers: dict[str, list[str]] = {}
    for view in live_views(ws):
        readers.setdefault(view.source, []).append(view.name)
    names = dict.fromkeys([*defined(ws), *readers, *_pushed_names(ws)])
    return [_described(ws, name, tuple(sorted(readers.get(name, ())))) for name in sorted(names)]


def _described(ws: Workspace, name: str, views: tuple[str, ...]) -> Described:
    try:
        place = _place(ws, name)
    except FlyballError as error:
        return Described(name, "?", "", views, problem=error.what)
    try:
        found = look(ws, name)
    except FlyballError as error:
        return Described(name, place.kind, place.shown, views, problem=error.what)
    from flyball.features.sources.reading import rows_in

    own = rows_in(place)
    return Described(
        name,
        place.kind,
        place.shown,
        views,
        len(found.columns),
        found.rows if own is None else own,
        sum(map(_rows_of, _pushed(ws, name))),
        found.newest,
        found.version,
    )


def _asked(ws: Workspace, view: View | str) -> tuple[str, tuple[str, ...] | None, tuple[str, ...]]:
    """The source's name, the columns that are needed (``None``: all), and the clocks: happened, known."""
    if not isinstance(view, str):
        return view.source, view.needed_columns, _clocks(view)
    from flyball.service.features import sources as defined
    from flyball.service.features import views

    known = views(ws)
    if view in known:
        return known[view].source, known[view].needed_columns, _clocks(known[view])
    source = defined(ws).get(view)
    if source is not None and source.happened:
        return view, None, _clocks(source)
    readers = [_clocks(one) for one in known.values() if one.source == view]
    return view, None, readers[0] if readers else ()


def _clocks(of: View | Source) -> tuple[str, ...]:
    return tuple(dict.fromkeys((of.happened, of.known)))


def _place(ws: Workspace, name: str) -> Place:
    from flyball.features.definitions import Source
    from flyball.features.sources import place_of
    from flyball.service.features import sources as defined

    return place_of(defined(ws).get(name) or Source(name), ws.root)


def _parts(
    ws: Workspace,
    name: str,
    columns: Sequence[str] | None,
    clocks: tuple[str, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[list[pl.LazyFrame], Place]:
    """The tables that hold a source's rows: its own, then what was pushed."""
    from flyball.features.sources import open_place

    place = _place(ws, name)
    pushed = [one.scan() for one in _pushed(ws, name)]
    if place.kind in ("push", "stream"):
        ref = "" if pushed else _snapshot_ref(ws, name)
        if not pushed and not ref:
            raise _nothing(ws, name, place)
        return (pushed or [_snapshot(ws, ref or "")]), place
    if place.kind == "snapshot":
        ref = _snapshot_ref(ws, place.where)
        if ref is None:
            raise _no_snapshot(ws, place)
        return [_snapshot(ws, ref), *pushed], place
    known = clocks[-1] if clocks else ""
    readers = [one for one in _views(ws) if one.source == name]
    texts = {column for one in readers for column in one.text_columns - one.derived.keys()}
    own = open_place(place, ws.root, columns=columns, texts=texts, known=known, since=since, until=until)
    return [own, *pushed], place


def _checked(
    ws: Workspace, name: str, place: Place, parts: list[pl.LazyFrame], needed: Sequence[str] | None
) -> list[pl.LazyFrame]:
    """Compare with what was recorded; the first time, or with columns more, that is recorded."""
    from flyball.features.sources.seeing import refuse_changes

    before = ws.ledger.find("source_newest", name, _seen())
    now = _columns(parts, place)
    if before is not None:
        refuse_changes(before, now, needed if needed is not None else now, place.said)
    if before is None or now.keys() - before.columns.keys():
        _record(ws, look(ws, name))
    return parts


def _columns(parts: list[pl.LazyFrame], place: Place) -> dict[str, Any]:
    """The columns of a source's own table; of pushed batches all that came."""
    from flyball.features.sources.seeing import columns_of

    columns: dict[str, Any] = {}
    for part in parts if place.kind in ("push", "stream") else parts[:1]:
        columns = {**columns_of(part), **columns}
    return columns


def _record(ws: Workspace, found: Seen, *, accepted: bool = False) -> Seen:
    """The next version of a source, unless it is as it was. Columns that changed stay as they were until accepted."""
    with ws.ledger.transaction() as tx:
        before = tx.find("source_newest", found.name, _seen())
        if before is not None:
            if not accepted:
                columns = {**found.columns, **before.columns}
                found = msgspec.structs.replace(found, columns=columns)
            if (before.digest, before.columns) == (found.digest, found.columns):
                return before
        made = msgspec.structs.replace(found, number=tx.next_number("source", found.name), at=tx.now())
        tx.append(
            "source.seen",
            made.ref,
            actor=ws.actor,
            sets=[("source", made.ref, made), ("source_newest", made.name, made)],
        )
    return made


def _snapshot_ref(ws: Workspace, name: str) -> str | None:
    """The snapshot that a name means, ``flights@3``; ``None`` when there is none."""
    from flyball.versions.naming import resolve

    try:
        return resolve(ws.ledger, name).ref
    except NotFound:
        return None


def _snapshot(ws: Workspace, ref: str) -> pl.LazyFrame:
    from flyball.versions import data

    return data.use(ws.ledger, ws.blobs, ref).lazy()


def _pushed(ws: Workspace, name: str) -> list[Table]:
    """The tables of what was pushed or streamed under a name, in the order in which they came."""
    from flyball.service.feed_files import FeedFiles

    return FeedFiles(ws.tables.at(f"sources/{name}")).files()


def _pushed_files(ws: Workspace, name: str) -> list[FileSeen]:
    from flyball.features.sources.files import FileSeen

    found = []
    for one in _pushed(ws, name):
        stat = one.stat()
        found.append(FileSeen(repr(one), stat["size"], stat["last_modified"], stat["e_tag"] or ""))
    return found


def _pushed_names(ws: Workspace) -> list[str]:
    return ws.tables.at("sources").folders()


def _rows_of(table: Table) -> int:
    import polars as pl

    return int(table.scan().select(pl.len()).collect().item())


def _nothing(ws: Workspace, name: str, place: Place) -> FlyballError:
    from flyball.core.records import Snapshot
    from flyball.service.features import sources as defined

    if name in defined(ws) or any(name == one.source for one in _views(ws)):
        how = "flyball features stream" if place.kind == "stream" else f"flyball features push {name} FILE"
        return NotFound(
            f"source {name!r} has brought nothing yet, and no snapshot is named so",
            f"{how}, or flyball data add {name} PATH",
            source=name,
        )
    known = [*defined(ws), *(one.name for one in ws.ledger.ls("snapshot", Snapshot)), *_pushed_names(ws)]
    return NotFound(f"no source, feed or snapshot {name!r}", nearest(name, sorted(set(known))), source=name)


def _no_snapshot(ws: Workspace, place: Place) -> FlyballError:
    from flyball.core.records import Snapshot

    known = sorted({one.name for one in ws.ledger.ls("snapshot", Snapshot) if not one.forgotten})
    return NotFound(
        f"source {place.name!r} reads snapshot {place.where!r}, and there is none",
        nearest(place.where.partition("@")[0], known),
        source=place.name,
    )


def _views(ws: Workspace) -> Iterable[View]:
    from flyball.service.features import views

    return views(ws).values()


def _seen() -> type[Seen]:
    from flyball.features.sources.seeing import Seen

    return Seen
