"""What a source's URL says: which kind of place it is, where that lies, and its options. Nothing is opened here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from flyball.core.redaction import redacted_text
from flyball.errors import Invalid, nearest
from flyball.features.definitions import Source

Kind = Literal["files", "delta", "iceberg", "duckdb", "database", "snapshot", "stream", "push"]
Format = Literal["parquet", "csv", "json"]
BUCKETS = ("s3", "gs", "gcs", "az", "abfs", "abfss", "azure", "adl")
_FORMATS: dict[str, Format] = {
    "parquet": "parquet", "pq": "parquet", "csv": "csv", "json": "json", "ndjson": "json", "jsonl": "json",
}  # fmt: skip
_STREAMS = ("kafka", "nats", "amqp", "amqps", "redis", "rediss")
_SNAPSHOTS = ("data", "pipeline")
_OTHERS = ("file", "delta", "iceberg", "duckdb", "sqlite:///", "postgresql://", "push")
KNOWN = (*_FORMATS, *_OTHERS, *_SNAPSHOTS, *(f"{one}://" for one in (*BUCKETS, *_STREAMS)))


class Place(msgspec.Struct, frozen=True):
    """Where a source's rows lie. ``where`` may hold secrets; ``shown`` does not."""

    name: str
    kind: Kind
    where: str  # a path made absolute, a bucket's URL with its options, a database's URL, a snapshot's name
    format: Format = "parquet"  # of files
    query: str = ""

    @property
    def in_bucket(self) -> bool:
        return self.where.partition("://")[0] in BUCKETS and "://" in self.where

    @property
    def shown(self) -> str:
        """For messages and records."""
        text = self.where
        if self.in_bucket:
            text = text.partition("?")[0]
        elif self.kind == "database":
            import sqlalchemy as sa

            text = sa.make_url(text).set(query={}).render_as_string(hide_password=True)
        return redacted_text(text)

    @property
    def said(self) -> str:
        """The source, the way an error begins."""
        return f"source {self.name!r} ({self.shown})" if self.shown else f"source {self.name!r}"


def place_of(source: Source, root: Path) -> Place:
    """The place of a source; relative paths start at ``root``, the project's folder.

    >>> place_of(Source("landings", "csv:in/*.csv"), Path("/p")).where
    '/p/in/*.csv'
    """
    url, name = source.url.strip(), source.name
    scheme, colon, rest = url.partition(":")
    if not url or scheme == "push":
        return Place(name, "push", "")
    if not colon:
        raise Invalid(
            f"source {name!r}: {url!r} does not begin with its kind",
            f"like parquet:{url}; known: {', '.join(KNOWN)}",
            source=name,
        )
    if scheme in _SNAPSHOTS:
        return Place(name, "snapshot", rest)
    if scheme in _STREAMS:
        return Place(name, "stream", redacted_text(url).partition("?")[0])
    if scheme in ("delta", "iceberg"):
        inside = scheme == "delta" or rest.endswith(".json")
        kind: Kind = "delta" if scheme == "delta" else "iceberg"
        return Place(name, kind, _absolute(rest, root) if inside else rest)
    if scheme == "duckdb":
        where = "" if rest in ("", ":memory:") else _absolute(rest.removeprefix("//"), root)
        return Place(name, "duckdb", where, query=_query(source))
    if scheme in _FORMATS or scheme == "file" or scheme in BUCKETS:
        where = url if scheme in BUCKETS else _absolute(rest, root)
        return Place(name, "files", where, _format(source, scheme, where))
    if rest.startswith("//"):
        return Place(name, "database", _database(url, root), query=_query(source))
    raise Invalid(
        f"source {name!r}: nothing reads {scheme!r}",
        nearest(f"{scheme}:", [one if "://" in one else f"{one}:" for one in KNOWN]),
        source=name,
    )


def _format(source: Source, scheme: str, where: str) -> Format:
    """By ``format``, else by the URL's beginning, else by the files' suffix."""
    suffix = where.partition("?")[0].rpartition(".")[2] if "://" in where else Path(where).suffix[1:]
    said = source.format or (scheme if scheme in _FORMATS else suffix)
    if said in _FORMATS:
        return _FORMATS[said]
    if not source.format and not suffix.isalnum():
        return "parquet"  # a folder
    raise Invalid(
        f"source {source.name!r}: files of format {said!r} are not read",
        nearest(said, ["parquet", "csv", "json"]),
        source=source.name,
    )


def _query(source: Source) -> str:
    if not source.query.strip():
        raise Invalid(
            f"source {source.name!r} reads a database, and does not say what of it",
            f'Source({source.name!r}, …, query="a_table") or query="SELECT …"',
            source=source.name,
        )
    return source.query.strip().rstrip(";").rstrip()


def _database(url: str, root: Path) -> str:
    path = url.removeprefix("sqlite:///")
    if path != url and path and not path.startswith("/"):
        return f"sqlite:///{root / path}"
    return url


def _absolute(path: str, root: Path) -> str:
    if "://" in path:
        return path
    return str(root / Path(path).expanduser())
