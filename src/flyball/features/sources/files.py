"""Files as one lazy table: Parquet, CSV and NDJSON, here or in a bucket; in order of their names."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features.sources.places import Place
from flyball.stores.buckets import listed, polars_options
from flyball.versions.tables import NULLS

_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".csv.gz", ".csv.zst"),
    "json": (".json", ".ndjson", ".jsonl"),
}
_CASTS = pl.ScanCastOptions(integer_cast="upcast", float_cast="upcast")
_CSV: dict[str, Any] = {"null_values": NULLS, "try_parse_dates": True, "infer_schema_length": 10_000}


class FileSeen(msgspec.Struct, frozen=True):
    """One file as it lay there: the ETag of a bucket says its bytes, here size and time of change do."""

    path: str
    size_bytes: int
    modified: datetime
    etag: str = ""


def scan(place: Place, columns: Sequence[str] | None = None, texts: Collection[str] = ()) -> pl.LazyFrame:
    """All files of a place below one another; columns that only some have count where the first file has them.

    Of Parquet files here the columns that are needed are compared at once, in a bucket those of the first and the last.
    ``texts`` are columns of a CSV file that stay texts, whatever they look like: ``007`` is not 7.
    """
    files = seen(place)
    paths = [one.path for one in files]
    options: dict[str, Any] = {}
    if place.in_bucket:
        bucket, options = polars_options(place.where)
        paths = [f"{bucket.partition('://')[0]}://{bucket.split('/')[2]}/{path}" for path in paths]
    try:
        match place.format:
            case "csv":
                as_text = dict.fromkeys(texts, pl.String)
                return pl.scan_csv(paths, glob=False, schema_overrides=as_text, **_CSV, **options)
            case "json":
                return pl.scan_ndjson(paths, infer_schema_length=10_000, **options)
        frame = pl.scan_parquet(
            paths,
            glob=False,
            hive_partitioning=_is_hive(paths),
            extra_columns="ignore",
            cast_options=_CASTS,
            **options,
        )
        _compare(place, paths, frame.collect_schema(), columns, options)
        return frame
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(place, error) from error


def _compare(
    place: Place, paths: list[str], first: pl.Schema, columns: Sequence[str] | None, options: dict[str, Any]
) -> None:
    """Refuse a file that has a column otherwise than the first: named now, not in the middle of a job."""
    for path in paths[1:] if not place.in_bucket else paths[-1:]:
        had = pl.scan_parquet(path, glob=False, hive_partitioning=False, **options).collect_schema()
        for name in first if columns is None else columns:
            was, now = first.get(name), had.get(name)
            if name in had and was is not None and was != now and not _upcasts(now, was):
                raise Invalid(
                    f"{place.said}: its files do not have one schema: column {name!r} is {was} in {Path(paths[0]).name}, "
                    f"and {now} in {Path(path).name}",
                    "write one of them anew, or name those that are alike, as parquet:folder/2024-*.parquet",
                    source=place.name,
                    column=name,
                )


def _upcasts(small: Any, wide: Any) -> bool:
    """What Polars widens by itself while it scans."""
    if small.is_integer() and wide.is_integer():
        return bool(small.is_signed_integer() == wide.is_signed_integer() and _bits(small) <= _bits(wide))
    return bool(small.is_float() and wide.is_float() and _bits(small) <= _bits(wide))


def _bits(dtype: Any) -> int:
    return int("".join(filter(str.isdecimal, str(dtype))) or 0)


def seen(place: Place) -> list[FileSeen]:
    """The files that a place names now, by name; none at all is :class:`NotFound`."""
    found = _in_bucket(place) if place.in_bucket else _here(place)
    if not found:
        raise NotFound(
            f"{place.said} is gone: no file is there",
            "check the source's URL; paths start at the project's folder",
            source=place.name,
        )
    return found


def unreadable(place: Place, error: Exception) -> Exception:
    """What Polars says of a file, with the source's name in front; the kind says whether it may pass by itself."""
    first = str(error).strip().partition("\n")[0]
    if "non-partial" in first:  # rclone 1.75 answers every range with everything
        return Invalid(
            f"{place.said}: its server answers no ranges, which Parquet needs", "copy the files here"
        )
    if isinstance(error, ConnectionError | TimeoutError) or "object-store error" in first:
        return Unavailable(
            f"{place.said} does not answer: {first}", "is the bucket up, and the secret right?"
        )
    if isinstance(error, pl.exceptions.SchemaError) and "mismatch" in first:
        return Invalid(
            f"{place.said}: its files do not have one schema: {first}",
            "write the files that differ anew, or let the source name those alike: parquet:folder/2024-*.parquet",
            source=place.name,
        )
    if isinstance(error, FileNotFoundError):
        return NotFound(f"{place.said} is gone: {first}", "check the source's URL", source=place.name)
    return Invalid(
        f"{place.said} can't be read: {first}", f"is it whole, and {place.format}?", source=place.name
    )


def _here(place: Place) -> list[FileSeen]:
    where = Path(place.where)
    if where.is_file():
        return [file_seen(where)]
    if where.is_dir():
        return _sorted(
            file_seen(file) for file in _walk(where) if file.name.endswith(_SUFFIXES[place.format])
        )
    if not glob.has_magic(place.where):
        return []
    found = (Path(one) for one in glob.iglob(place.where, recursive=True))  # noqa: PTH207 (absolute, with **)
    return _sorted(file_seen(file) for file in found if file.is_file())


def _walk(folder: Path) -> Iterable[Path]:
    """Files below a folder; what begins with a dot or an underscore is someone's work in progress."""
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in "._"]
        yield from (Path(here, name) for name in files if name[0] not in "._")


def file_seen(path: Path) -> FileSeen:
    try:
        found = path.stat()
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror}", "check its rights") from error
    return FileSeen(str(path), found.st_size, datetime.fromtimestamp(found.st_mtime_ns / 1e9, UTC))


def _in_bucket(place: Place) -> list[FileSeen]:
    """One list of the fixed part of the URL; a glob is matched here, so that each store gives the same files."""
    url, mark, options = place.where.partition("?")
    scheme, _, rest = url.partition("://")
    bucket, _, path = rest.partition("/")
    magic = glob.has_magic(path)
    fixed = path
    if magic:
        fixed = path[: min(path.index(sign) for sign in "*[" if sign in path)].rpartition("/")[0]
    objects = listed(f"{scheme}://{bucket}{mark}{options}", fixed)
    matches = _matcher(path) if magic else None
    return _sorted(
        FileSeen(one["path"], int(one["size"]), one["last_modified"], one["e_tag"] or "")
        for one in objects
        if (
            matches(one["path"])
            if matches
            else one["path"] == path or one["path"].endswith(_SUFFIXES[place.format])
        )
        and not any(part[:1] in (".", "_") for part in one["path"][len(fixed) :].split("/"))
    )


def _matcher(pattern: str) -> Any:
    import re

    said = "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}.get(part)
        or (part if part[:1] == "[" else re.escape(part))
        for part in re.findall(r"\*\*/|\*\*|\*|\[[^\]]*\]|[^*\[]+|\[", pattern)
    )
    return re.compile(said).fullmatch


def _sorted(files: Iterable[FileSeen]) -> list[FileSeen]:
    return sorted(files, key=lambda one: one.path)


def _is_hive(paths: list[str]) -> bool:
    return any("=" in part for part in Path(paths[0]).parts[:-1])
