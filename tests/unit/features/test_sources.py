"""Rows from files, lakes and databases here: the same rows, whatever holds them; what is wrong is said by name."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import Invalid, NotFound
from flyball.features import View, last, mean, point_in_time
from flyball.features.definitions import Source
from flyball.features.sources import open_rows

START = datetime(2013, 4, 1, tzinfo=UTC)
VIEW = View(
    "carrier",
    ("carrier",),
    "landings",
    happened="landed_at",
    known="known_at",
    columns=("delay",),
    windows=(mean("delay", "3h"), last("seats", "1d")),
)
NEEDED = ("carrier", "landed_at", "known_at", "delay", "seats")


def rows(count: int = 60) -> pl.DataFrame:
    """Rows with nulls, ties and corrections; the second half became known later."""
    at = [START + timedelta(minutes=7 * (n // 2)) for n in range(count)]
    return pl.DataFrame(
        {
            "carrier": [("UA", "AA", "B6")[n % 3] for n in range(count)],
            "landed_at": at,
            "known_at": [one + timedelta(minutes=(n % 5) * 30) for n, one in enumerate(at)],
            "delay": [None if n % 11 == 0 else n * 0.5 - 9 for n in range(count)],
            "seats": [100 + n for n in range(count)],
            "note": [f"it's {n}%" for n in range(count)],
        },
        schema_overrides={name: pl.Datetime("us", "UTC") for name in ("landed_at", "known_at")},
    )


def _parquet(folder: Path, frame: pl.DataFrame) -> Source:
    frame.write_parquet(folder / "one.parquet")
    return Source("landings", "parquet:one.parquet")


def _parquets(folder: Path, frame: pl.DataFrame) -> Source:
    (folder / "in").mkdir()
    for n, part in enumerate(frame.iter_slices(17)):
        part.write_parquet(folder / "in" / f"{n:04}.parquet")
    return Source("landings", "parquet:in/*.parquet")


def _folder(folder: Path, frame: pl.DataFrame) -> Source:
    source = _parquets(folder, frame)
    (folder / "in" / "_SUCCESS").touch()
    (folder / "in" / ".0000.parquet.part").write_bytes(b"half")
    return Source(source.name, "parquet:in")


def _csv(folder: Path, frame: pl.DataFrame) -> Source:
    frame.with_columns(pl.col("known_at").dt.to_string("iso:strict")).write_csv(folder / "one.csv")
    return Source("landings", "csv:one.csv")


def _json(folder: Path, frame: pl.DataFrame) -> Source:
    frame.with_columns(
        pl.selectors.datetime().dt.replace_time_zone(None).dt.to_string("iso:strict")
    ).write_ndjson(folder / "one.ndjson")
    return Source("landings", "json:one.ndjson")


def _delta(folder: Path, frame: pl.DataFrame) -> Source:
    from deltalake import write_deltalake

    for part in frame.iter_slices(25):
        write_deltalake(folder / "delta", part, mode="append")
    return Source("landings", "delta:delta")


def _duckdb(folder: Path, frame: pl.DataFrame) -> Source:
    import duckdb

    frame.write_parquet(folder / "copy.parquet")
    with duckdb.connect(folder / "one.duckdb") as connection:
        connection.execute(f"CREATE TABLE landings AS SELECT * FROM '{folder}/copy.parquet'")
    return Source("landings", "duckdb:one.duckdb", query="landings")


def _duckdb_query(folder: Path, frame: pl.DataFrame) -> Source:
    frame.write_parquet(folder / "copy.parquet")
    query = "SELECT *, note LIKE 'it%' AS odd FROM 'copy.parquet';"
    return Source("landings", "duckdb:", query=query)


def _sqlite(folder: Path, frame: pl.DataFrame) -> Source:
    with sqlite3.connect(folder / "one.db") as connection:
        connection.execute(
            "CREATE TABLE landings (carrier TEXT, landed_at DATETIME, known_at TIMESTAMP, delay REAL, "
            "seats INTEGER, note VARCHAR(9))"
        )
        texts = frame.with_columns(
            pl.col("landed_at", "known_at").dt.replace_time_zone(None).dt.to_string("iso:strict")
        )
        connection.executemany("INSERT INTO landings VALUES (?, ?, ?, ?, ?, ?)", texts.rows())
    connection.close()
    return Source("landings", "sqlite:///one.db", query="landings")


def _sqlite_query(folder: Path, frame: pl.DataFrame) -> Source:
    source = _sqlite(folder, frame)
    query = "SELECT carrier, landed_at, known_at, delay * 1.0 AS delay, seats + 0 AS seats FROM landings WHERE note LIKE '%''s%'"
    return Source(source.name, source.url, query=query)


KINDS = (
    _parquet,
    _parquets,
    _folder,
    _csv,
    _json,
    _delta,
    _duckdb,
    _duckdb_query,
    _sqlite,
    _sqlite_query,
)
Kind = Callable[[Path, pl.DataFrame], Source]


def opened(source: Source, folder: Path, **more: Any) -> pl.DataFrame:
    """The rows that the view needs."""
    more.setdefault("columns", NEEDED)
    return open_rows(source, folder, clocks=("landed_at", "known_at"), **more).collect()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_rows_and_features(kind: Kind, tmp_path: Path) -> None:
    frame = rows()
    found = opened(kind(tmp_path, frame), tmp_path)
    assert found.columns == list(NEEDED)
    utc = found.with_columns(pl.selectors.datetime().cast(pl.Datetime("us", "UTC")))
    assert_frame_equal(utc, frame.select(NEEDED), check_dtypes=True)
    asked = pl.DataFrame({"carrier": ["UA", "AA", "B6", "XX"], "t": [START + timedelta(hours=3)] * 4})
    answers = [point_in_time(asked, "t", [VIEW], {"landings": one}) for one in (frame, found)]
    assert_frame_equal(*answers)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_bounded_by_when_they_became_known(kind: Kind, tmp_path: Path) -> None:
    frame = rows()
    since, until = START + timedelta(hours=1), START + timedelta(hours=3)
    found = opened(kind(tmp_path, frame), tmp_path, since=since, until=until)
    kept = frame.filter((pl.col("known_at") > since) & (pl.col("known_at") <= until))
    assert 0 < len(found) == len(kept)
    assert found["seats"].to_list() == kept["seats"].to_list()


@pytest.mark.parametrize("kind", KINDS)
def test_counting_filtering_and_heads_agree(kind: Kind, tmp_path: Path) -> None:
    source = kind(tmp_path, rows())
    frame = open_rows(source, tmp_path, clocks=("landed_at", "known_at"))
    assert frame.select(pl.len()).collect().item() == 60
    assert frame.head(7).collect()["seats"].to_list() == list(range(100, 107))
    chosen = frame.filter(pl.col("seats") >= 150).select("delay").head(3).collect()
    assert chosen["delay"].to_list() == [16.0, 16.5, 17.0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_names_the_nearest(kind: Kind, tmp_path: Path) -> None:
    source = kind(tmp_path, rows())
    with pytest.raises(Invalid, match=r"source 'landings' .*has no column 'dely'[\s\S]*did you mean 'delay'"):
        opened(source, tmp_path, columns=("carrier", "dely"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not _duckdb_query])
def test_a_source_that_is_gone_is_not_found(kind: Kind, tmp_path: Path) -> None:
    source = kind(tmp_path, rows())
    with pytest.raises(NotFound, match=r"source .landings. .* is gone"):
        opened(source, tmp_path / "elsewhere")
