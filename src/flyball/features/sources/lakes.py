"""Delta and Iceberg tables. Rows come oldest commit first where the files say so, as ties are ordered by arrival."""

from __future__ import annotations

import warnings
from typing import Any

import polars as pl

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features.sources.places import BUCKETS, Place
from flyball.stores.buckets import parted, polars_options


class Lake:
    """One table at one version: ``frame`` reads that version, whatever is committed meanwhile."""

    def __init__(self, frame: pl.LazyFrame, version: str) -> None:
        self.frame = frame
        self.version = version


def open_lake(place: Place) -> Lake:
    """Open a table at its newest version."""
    try:
        return _delta(place) if place.kind == "delta" else _iceberg(place)
    except (ModuleNotFoundError, ImportError) as error:
        extra = "delta" if place.kind == "delta" else "iceberg"
        raise Invalid(
            f"{place.said} needs {error.name}, which is not installed", f"pip install 'flyball[{extra}]'"
        ) from error


def _delta(place: Place) -> Lake:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    where, options = place.where, dict[str, Any]()
    if where.partition("://")[0] in BUCKETS:
        where, options = polars_options(where)
    storage = _for_delta(options.get("storage_options"))
    try:
        table = DeltaTable(where, storage_options=storage)
        version = f"{table.metadata().id}@{table.version()}"
        return Lake(_in_order(table, where, options), version)
    except (TableNotFoundError, FileNotFoundError) as error:
        raise NotFound(
            f"{place.said} is gone: no Delta table is there", "check the source's URL", source=place.name
        ) from error
    except OSError as error:
        raise Unavailable(f"{place.said} does not answer: {_first(error)}", "is the bucket up?") from error
    except (DeltaError, pl.exceptions.PolarsError) as error:
        raise Invalid(f"{place.said} can't be read: {_first(error)}", "is it a whole Delta table?") from error


def _for_delta(options: dict[str, Any] | None) -> dict[str, str] | None:
    if options is None:
        return None
    kept = {name: value for name, value in options.items() if isinstance(value, str)}
    if kept.get("endpoint", "").startswith("http://"):
        kept["allow_http"] = "true"
    return kept


def _in_order(table: Any, where: str, options: dict[str, Any]) -> pl.LazyFrame:
    """Delta lists the newest file first. A plain table (no partitions, no deletion vectors, no renamed columns) is
    scanned the other way round; another is left to Polars, and its order among full ties is Delta's.
    """
    told = table.metadata()
    features = set(getattr(table.protocol(), "reader_features", None) or ())
    plain = not told.partition_columns and not features - {"timestampNtz"}
    files = list(reversed(table.file_uris()))
    if not plain or "delta.columnMapping.mode" in told.configuration or not files:
        return pl.scan_delta(table, **options)
    schema = pl.scan_delta(table, **options).collect_schema()
    return pl.scan_parquet(
        files, schema=schema, glob=False, missing_columns="insert", extra_columns="ignore", **options
    )


def _iceberg(place: Place) -> Lake:
    from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, NotInstalledError

    try:
        table = _iceberg_table(place)
    except (NoSuchTableError, NoSuchNamespaceError, FileNotFoundError) as error:
        raise NotFound(
            f"{place.said} is gone: {_first(error)}", "check the source's URL", source=place.name
        ) from error
    except NotInstalledError as error:
        raise Invalid(
            f"{place.said}: {_first(error)}", "pip install 'pyiceberg[sql-sqlite,pyarrow]'"
        ) from error
    snapshot = table.current_snapshot()
    version = f"{table.metadata.table_uuid}@{snapshot.snapshot_id if snapshot else 0}"
    tasks = list(table.scan().plan_files()) if snapshot else []
    local = all(task.file.file_path.startswith(("file:", "/")) for task in tasks)
    if tasks and local and len(table.schemas()) == 1 and not any(task.delete_files for task in tasks):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a quicker planner could be installed
            schema = pl.scan_iceberg(table).collect_schema()
        files = [
            task.file.file_path.removeprefix("file://").removeprefix("file:") for task in reversed(tasks)
        ]
        return Lake(pl.scan_parquet(files, schema=schema, glob=False, missing_columns="insert"), version)
    return Lake(pl.scan_iceberg(table), version)


def _iceberg_table(place: Place) -> Any:
    from pyiceberg.catalog import load_catalog
    from pyiceberg.table import StaticTable
    from pyiceberg.utils.config import Config

    place_, options = parted(place.where) if "?" in place.where else (place.where, {})
    if place_.endswith(".metadata.json"):
        return StaticTable.from_metadata(place_, options)
    catalog, slash, name = place_.partition("/")
    if not slash:
        raise Invalid(
            f"source {place.name!r}: {place_!r} names no table",
            "iceberg:CATALOG/NAMESPACE.TABLE; catalogs stand in ~/.pyiceberg.yaml or PYICEBERG_CATALOG__NAME__URI",
        )
    try:
        # pyiceberg reads its settings once, when it is imported; we ask for what they are now.
        said: dict[str, Any] = dict(Config().get_catalog_config(catalog) or {})
        return load_catalog(catalog, **{**said, **options}).load_table(name)
    except ValueError as error:
        raise Invalid(
            f"{place.said}: {_first(error)}",
            f"say where the catalog is: PYICEBERG_CATALOG__{catalog.upper()}__URI, or ~/.pyiceberg.yaml",
        ) from error


def _first(error: object) -> str:
    return str(error).strip().partition("\n")[0]
