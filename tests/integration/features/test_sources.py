"""Sources on a bucket, on PostgreSQL and in Iceberg: real servers, the same rows and features as from a file here."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import polars as pl
import psycopg
import pytest
from polars.testing import assert_frame_equal

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features import point_in_time
from flyball.features.definitions import Source
from flyball.features.sources import open_rows, place_of
from flyball.features.sources.seeing import look
from flyball.stores.buckets import open_bucket
from tests.postgres import Postgres
from tests.s3 import S3
from tests.unit.features.test_sources import NEEDED, START, VIEW, opened, rows

pytestmark = pytest.mark.integration


def _bytes(frame: pl.DataFrame, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "parquet":
        frame.write_parquet(buffer)
    else:
        frame.write_csv(buffer)
    return buffer.getvalue()


def _with_options(url: str, path: str) -> str:
    place, _, options = url.partition("?")
    return f"{place}/{path}?{options}"


def _s3(kind: str, path: str) -> Callable[..., Source]:
    def source(folder: Path, frame: pl.DataFrame, s3: S3, postgres: Postgres) -> Source:
        url = s3.new()
        bucket = open_bucket(url)
        for n, part in enumerate(frame.iter_slices(25)):
            obstore.put(bucket, f"in/{n}.{kind}", _bytes(part, kind))
        obstore.put(bucket, "in/_started", b"")
        obstore.put(bucket, "inside/9.parquet", b"not ours")
        return Source("landings", _with_options(url, path))

    source.__name__ = f"s3 {path}"
    return source


def _s3_delta(folder: Path, frame: pl.DataFrame, s3: S3, postgres: Postgres) -> Source:
    from deltalake import write_deltalake

    url = s3.new()
    place, _, options = url.partition("?")
    storage = dict(one.split("=", 1) for one in options.split("&")) | {"allow_http": "true"}
    for part in frame.iter_slices(25):
        write_deltalake(f"{place}/table", part, mode="append", storage_options=storage)
    return Source("landings", f"delta:{_with_options(url, 'table')}")


def _postgres(folder: Path, frame: pl.DataFrame, s3: S3, postgres: Postgres) -> Source:
    schema = f"rows_{time.monotonic_ns()}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")  # type: ignore[call-overload]
        connection.execute(  # type: ignore[call-overload]
            f"CREATE TABLE {schema}.landings (carrier text, landed_at timestamp, known_at timestamptz, "
            "delay numeric(10, 2), seats integer, note varchar(20))"
        )
        with connection.cursor() as cursor:
            cursor.executemany(  # type: ignore[call-overload]
                f"INSERT INTO {schema}.landings VALUES (%s, %s, %s, %s, %s, %s)",
                frame.with_columns(pl.col("landed_at").dt.replace_time_zone(None)).rows(),
            )
    return Source("landings", postgres.dsn, query=f"{schema}.landings")


def _postgres_query(folder: Path, frame: pl.DataFrame, s3: S3, postgres: Postgres) -> Source:
    source = _postgres(folder, frame, s3, postgres)
    return Source("landings", source.url, query=f"SELECT * FROM {source.query} WHERE note LIKE 'it%'")


def _iceberg(folder: Path, frame: pl.DataFrame, s3: S3, postgres: Postgres) -> Source:
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("here", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("air")
    table = catalog.create_table("air.landings", schema=frame.to_arrow().schema)
    for part in frame.iter_slices(25):
        table.append(part.to_arrow())
    return Source("landings", "iceberg:here/air.landings")


KINDS = (
    _s3("parquet", "in/*.parquet"),
    _s3("parquet", "in"),
    _s3("csv", "in/[0-9].csv"),
    _s3_delta,
    _postgres,
    _postgres_query,
    _iceberg,
)


@pytest.fixture
def _catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__URI", f"sqlite:///{tmp_path}/catalog.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__HERE__WAREHOUSE", f"file://{tmp_path}")


@pytest.mark.usefixtures("_catalog")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_place_gives_the_same_rows_and_features(
    kind: Callable[..., Source], tmp_path: Path, s3: S3, postgres: Postgres
) -> None:
    frame = rows()
    source = kind(tmp_path, frame, s3, postgres)
    found = opened(source, tmp_path)
    utc = found.with_columns(
        pl.selectors.datetime().cast(pl.Datetime("us", "UTC")), pl.col("seats").cast(pl.Int64)
    )
    assert_frame_equal(utc, frame.select(NEEDED))
    asked = pl.DataFrame({"carrier": ["UA", "AA", "B6", "XX"], "t": [START + timedelta(hours=3)] * 4})
    assert_frame_equal(*(point_in_time(asked, "t", [VIEW], {"landings": one}) for one in (frame, found)))
    since, until = START + timedelta(hours=1), START + timedelta(hours=3)
    some = opened(source, tmp_path, since=since, until=until)
    kept = frame.filter((pl.col("known_at") > since) & (pl.col("known_at") <= until))
    assert some["seats"].to_list() == kept["seats"].to_list()
    place = place_of(source, tmp_path)
    seen = look(place, tmp_path, found.schema)
    assert seen.digest == look(place, tmp_path, found.schema).digest
    assert "hidden" not in repr(seen) + place.said
    with pytest.raises(Invalid, match="has no column 'dely'"):
        opened(source, tmp_path, columns=("dely",))


def test_more_rows_are_another_record(tmp_path: Path, s3: S3, postgres: Postgres) -> None:
    source = _s3("parquet", "in")(tmp_path, rows(), s3, postgres)
    place = place_of(source, tmp_path)
    before = look(place, tmp_path, {})
    obstore.put(open_bucket(source.url), "9.parquet", _bytes(rows(5), "parquet"))
    after = look(place, tmp_path, {})
    assert (before.file_count, after.file_count) == (3, 4)
    assert before.digest != after.digest
    assert after.files[0].etag


def test_a_bucket_that_is_down_is_said_within_seconds(tmp_path: Path) -> None:
    url = (
        "s3://nobody/in/*.parquet?endpoint=http://127.0.0.1:9&region=x&access_key_id=one"
        "&secret_access_key=hidden&retry_timeout_s=1"
    )
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"s3://nobody.* does not answer") as caught:
        opened(Source("landings", url), tmp_path)
    assert time.monotonic() - began < 20
    assert "hidden" not in str(caught.value)


def test_a_prefix_without_files_is_gone(tmp_path: Path, s3: S3) -> None:
    with pytest.raises(NotFound, match=r"source 'landings' \(s3://.*\) is gone"):
        opened(Source("landings", _with_options(s3.new(), "in/*.parquet")), tmp_path)


def test_a_database_that_is_down_is_unavailable_and_keeps_its_password(tmp_path: Path) -> None:
    source = Source("landings", "postgresql://me:hunter2@127.0.0.1:9/x", query="landings")
    with pytest.raises(Unavailable, match="does not answer") as caught:
        opened(source, tmp_path)
    assert "hunter2" not in str(caught.value)


def test_a_table_that_is_gone_and_a_query_that_is_wrong_are_told_apart(
    tmp_path: Path, postgres: Postgres
) -> None:
    with pytest.raises(NotFound, match=r"is gone: relation \"nothing\" does not exist"):
        opened(Source("landings", postgres.dsn, query="nothing"), tmp_path)
    with pytest.raises(Invalid, match="refuses the query: syntax error"):
        opened(Source("landings", postgres.dsn, query="SELECT FROM WHERE x"), tmp_path)


def test_many_rows_of_a_database_come_batch_by_batch(tmp_path: Path, postgres: Postgres) -> None:
    query = "SELECT n, n * 0.5::float8 AS half, repeat('x', 100) AS wide FROM generate_series(1, 300000) AS n"
    frame = open_rows(Source("numbers", postgres.dsn, query=query), tmp_path, columns=("n", "half"))
    batches = [batch.height for batch in frame.collect_batches()]
    assert sum(batches) == 300_000
    assert (
        frame.select(pl.col("half").sum()).collect(engine="streaming").item() == 0.5 * 300_000 * 300_001 / 2
    )


def test_iceberg_without_a_catalog_says_where_to_name_it(tmp_path: Path, monkeypatch: Any) -> None:
    with warnings.catch_warnings(), pytest.raises(Invalid, match="PYICEBERG_CATALOG__NOWHERE__URI"):
        opened(Source("landings", "iceberg:nowhere/air.landings"), tmp_path)
