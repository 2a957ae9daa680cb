"""Open where a view's rows come from as one lazy table, and say which bytes these were.

>>> open_rows(Source("landings", "parquet:landings/*.parquet"), Path("project"))      # doctest: +SKIP

Only the columns asked for are read, and only rows known in ``(since, until]``, where the place can leave out others.
Streams, pushed rows and snapshots are the workspace's: :func:`flyball.service.sources.offline` knows them all.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from flyball.errors import Invalid, nearest
from flyball.features.definitions import Source
from flyball.features.sources.places import Place, place_of
from flyball.features.sources.usable import between, usable

__all__ = ["Place", "open_place", "open_rows", "place_of"]


def open_rows(
    source: Source,
    root: Path,
    *,
    columns: Sequence[str] | None = None,
    clocks: tuple[str, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.LazyFrame:
    """The rows of a source in files, a lake or a database; a place that is gone or a column that lacks is an error.

    ``clocks`` are happened and known (by default the source's own): texts there are read as times, without a zone as
    UTC. The last of them bounds ``since`` (excluded) and ``until`` (included).
    """
    place = place_of(source, root)
    clocks = clocks or tuple(dict.fromkeys(filter(None, (source.happened, source.known))))
    known = clocks[-1] if clocks else ""
    frame = open_place(place, root, columns=columns, known=known, since=since, until=until)
    return chosen(frame, place, columns, clocks, since, until)


def open_place(
    place: Place,
    root: Path,
    *,
    columns: Sequence[str] | None = None,
    texts: Collection[str] = (),
    known: str = "",
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.LazyFrame:
    """All columns as they lie there; ``columns`` are those that must be alike everywhere, ``texts`` those that a CSV
    file must not turn into numbers.
    """
    match place.kind:
        case "files":
            from flyball.features.sources.files import scan

            return scan(place, columns, texts)
        case "delta" | "iceberg":
            from flyball.features.sources.lakes import open_lake

            return open_lake(place).frame
        case "duckdb" | "database":
            from flyball.features.sources.databases import scan as rows_of

            return rows_of(place, root, known=known, since=since, until=until)
    raise Invalid(
        f"source {place.name!r} is a {place.kind}: its rows lie in the workspace",
        "flyball.service.sources.offline(ws, name) reads them",
        source=place.name,
    )


def chosen(
    frame: pl.LazyFrame,
    place: Place,
    columns: Sequence[str] | None,
    clocks: tuple[str, ...] = (),
    since: datetime | None = None,
    until: datetime | None = None,
) -> pl.LazyFrame:
    """The columns that are needed, in types that features are made of."""
    schema = frame.collect_schema()
    for name in columns or ():
        if name not in schema:
            raise Invalid(
                f"{place.said} has no column {name!r}",
                nearest(name, schema.names()),
                source=place.name,
                column=name,
            )
    if columns is not None:
        frame = frame.select(*dict.fromkeys(columns))
    return between(usable(frame, place, clocks), clocks[-1] if clocks else "", since, until)
