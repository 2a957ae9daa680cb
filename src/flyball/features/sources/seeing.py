"""Which bytes a source had when it was read, and whether its columns are still what they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from flyball.core.hashing import digest_of
from flyball.errors import Conflict
from flyball.features.sources.files import FileSeen
from flyball.features.sources.places import Place

FILES = 100  # named in a record; the digest covers all


class Seen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source, as it was: the digest is of its files (path, size, time or ETag), its version, or its count of rows."""

    name: str
    kind: str
    where: str  # without secrets
    digest: str
    columns: dict[str, str] = {}
    query: str = ""
    version: str = ""
    rows: int | None = None
    file_count: int = 0
    size_bytes: int = 0
    files: tuple[FileSeen, ...] = ()
    newest: datetime | None = None  # when the newest file changed
    number: int = 0
    at: datetime | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"


def seen_of(
    name: str,
    kind: str,
    where: str,
    columns: Mapping[str, Any],
    *,
    files: Iterable[FileSeen] = (),
    version: str = "",
    rows: int | None = None,
    query: str = "",
) -> Seen:
    """The record of what was found."""
    listed = tuple(files)
    facts = [(one.path, one.size_bytes, one.etag or one.modified.isoformat()) for one in listed]
    return Seen(
        name=name,
        kind=kind,
        where=where,
        digest=digest_of((where, query, facts, version, rows)),
        columns={column: str(dtype) for column, dtype in columns.items()},
        query=query,
        version=version,
        rows=rows,
        file_count=len(listed),
        size_bytes=sum(one.size_bytes for one in listed),
        files=listed[:FILES],
        newest=max((one.modified for one in listed), default=None),
    )


def look(place: Place, root: Path, columns: Mapping[str, Any]) -> Seen:
    """Look at a place without reading its rows (a server counts its own)."""
    from flyball.features.sources import files

    said: dict[str, Any] = {"query": place.query}
    if place.kind == "files":
        said["files"] = files.seen(place)
    elif place.kind in ("delta", "iceberg"):
        from flyball.features.sources.lakes import open_lake

        said["version"] = open_lake(place).version
    else:
        from flyball.features.sources.databases import count

        said["rows"] = count(place, root)
        path = place.where.partition("?")[0].removeprefix("sqlite:///")
        if path and "://" not in path:
            said["files"] = [files.file_seen(Path(path))]
    return seen_of(place.name, place.kind, place.shown, columns, **said)


def refuse_changes(before: Seen, now: Mapping[str, Any], needed: Iterable[str], said: str) -> None:
    """A needed column that is gone, or is of another kind than before, is :class:`Conflict`, by name.

    Whole numbers may become wider or floating; times may change their unit, and not whether they have a zone.
    """
    for column in needed:
        was = before.columns.get(column)
        if was is None:
            continue
        if column not in now:
            raise Conflict(
                f"{said} has lost column {column!r}, which was {was} in {before.ref}",
                f"bring it back, or leave it out of the views and then: flyball features accept {before.name}",
                source=before.name,
                column=column,
                was=was,
            )
        kind = str(now[column])
        if _kind(was) != _kind(kind) and not {was, kind} & {"Null"}:
            raise Conflict(
                f"{said}: column {column!r} was {was} in {before.ref}, and is {kind} now",
                f"cast it back at its origin; if it is meant: flyball features accept {before.name}, "
                "then flyball features materialize VIEW --rebuild",
                source=before.name,
                column=column,
                was=was,
                now=kind,
            )


def _kind(dtype: str) -> str:
    """What of a type matters to features.

    >>> _kind("Int32"), _kind("Datetime(time_unit='us', time_zone=None)")
    ('number', 'time without a zone')
    """
    if dtype.startswith(("Int", "UInt", "Float", "Decimal")):
        return "number"
    if dtype.startswith("Datetime"):
        return "time without a zone" if "time_zone=None" in dtype else "time with a zone"
    if dtype.startswith(("String", "Categorical", "Enum")):
        return "text"
    return dtype


def columns_of(frame: pl.LazyFrame) -> dict[str, Any]:
    """The schema as a dict."""
    return dict(frame.collect_schema())
