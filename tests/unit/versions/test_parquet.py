"""Row groups cut by content in one ordinary Parquet file; columns found in anyone's."""

from __future__ import annotations

import io
import itertools
import os
import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, parquet


def rows(many: int, seed: int = 0) -> pl.DataFrame:
    dice = random.Random(seed)
    return pl.DataFrame(
        {
            "id": [dice.getrandbits(40) for _ in range(many)],
            "word": [dice.choice(["ja", "nein", None]) for _ in range(many)],
            "x": [dice.random() for _ in range(many)],
            "y": [dice.random() for _ in range(many)],
        }
    )


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    return rows(60_000)


def test_every_type_comes_back_through_polars_and_arrow(tmp_path):
    many = 20_000
    start = datetime(2013, 1, 1, tzinfo=UTC)
    frame = pl.DataFrame(
        {
            "n": pl.Series(range(many), dtype=pl.Int32),
            "at": [start + timedelta(minutes=one) for one in range(many)],
            "day": [date(2013, 1, 1 + one % 28) for one in range(many)],
            "flag": [one % 3 == 0 if one % 7 else None for one in range(many)],
            "kind": pl.Series(["a", "b"] * (many // 2), dtype=pl.Categorical),
            "price": pl.Series([Decimal(one) / 100 for one in range(many)], dtype=pl.Decimal(12, 2)),
            "list": [[one, one + 1] if one % 5 else None for one in range(many)],
            "struct": [{"a": one, "b": str(one)} for one in range(many)],
            "bytes": [bytes([one % 256]) * (one % 4) for one in range(many)],
            "nothing": pl.Series([None] * many, dtype=pl.String),
        }
    )
    parquet.write(frame, tmp_path / "x.parquet")
    back = pl.read_parquet(tmp_path / "x.parquet")
    assert back.equals(frame)
    assert back.schema == frame.schema
    arrow = pytest.importorskip("pyarrow.parquet").ParquetFile(tmp_path / "x.parquet")
    assert arrow.metadata.num_row_groups > 1
    assert arrow.read(["n", "price", "list"]).num_rows == many
    kept = pl.scan_parquet(tmp_path / "x.parquet").filter(pl.col("n").is_between(9_999, 10_001)).collect()
    assert kept["n"].to_list() == [9_999, 10_000, 10_001]


@pytest.mark.parametrize("many", [0, 1, 2047, 2049, 8192, 40_000])
def test_row_groups_cover_all_rows_and_keep_their_bounds(many):
    bounds = parquet.row_bounds(rows(many))
    assert (bounds[0], bounds[-1]) == (0, many)
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    assert all(0 < one <= 4 * 8192 for one in lengths) or many == 0


def test_rows_that_are_all_alike_are_cut_all_the_same(tmp_path):
    frame = pl.DataFrame({"x": [1] * 100_000})
    parquet.write(frame, tmp_path / "x.parquet")
    assert pl.read_parquet(tmp_path / "x.parquet").equals(frame)


@pytest.fixture
def stored_by():
    """What a store grows by when a frame is kept."""
    ledger, blobs = Ledger.open("sqlite://"), Blobs.open("memory:")

    def add(frame: pl.DataFrame) -> int:
        before = sum(one.size_bytes for one in blobs.stats())
        kept = data.add(ledger, blobs, "x", frame, actor="a")
        assert data.use(ledger, blobs, kept.ref).frame().equals(frame)
        return sum(one.size_bytes for one in blobs.stats()) - before

    yield add
    ledger.close()


def test_an_inserted_row_stores_a_row_group_or_two(table, stored_by):
    whole = stored_by(table)
    middle = table.height // 2
    for at in (0, middle, table.height):
        grown = stored_by(pl.concat([table[:at], rows(1, seed=at + 1), table[at:]]))
        assert grown < 0.45 * whole  # a few row groups of about 7; the whole file without cutting


def test_a_column_that_is_computed_anew_stores_that_column(table, stored_by):
    whole = stored_by(table)
    assert stored_by(table.with_columns(pl.col("y") * 2)) < 0.5 * whole
    assert stored_by(table.with_columns(pl.col("word").fill_null("vielleicht"))) < 0.1 * whole


def test_the_columns_of_anyones_parquet_are_found(table, tmp_path):
    for name in ("polars", "arrow"):
        path = tmp_path / f"{name}.parquet"
        if name == "polars":
            table.write_parquet(path, row_group_size=20_000)
        else:
            pytest.importorskip("pyarrow.parquet").write_table(table.to_arrow(), path, row_group_size=20_000)
        with path.open("rb") as file:
            bounds = parquet.column_bounds(file, path.stat().st_size)
        assert len(bounds) >= 9  # three row groups of three long columns
        assert bounds == sorted(set(bounds))
        assert 0 < bounds[0] <= bounds[-1] < path.stat().st_size


@given(st.binary(max_size=200), st.integers(0, 300))
def test_bytes_that_only_end_like_parquet_have_no_columns(content: bytes, length: int) -> None:
    whole = content + length.to_bytes(4, "little") + b"PAR1"
    assert parquet.column_bounds(io.BytesIO(whole), len(whole)) == []


def test_a_broken_footer_is_cut_like_any_other_file(table, tmp_path):
    table.write_parquet(tmp_path / "x.parquet")
    whole = bytearray((tmp_path / "x.parquet").read_bytes())
    for seed in range(200):
        broken = whole.copy()
        at = len(whole) - 9 - random.Random(seed).randrange(400)
        broken[at] ^= 1 << seed % 8
        bounds = parquet.column_bounds(io.BytesIO(broken), len(broken))
        assert all(0 < one < len(broken) for one in bounds)
    (tmp_path / "x.bin").write_bytes(os.urandom(200_000) + b"PAR1")
    ledger, blobs = Ledger.open("sqlite://"), Blobs.open("memory:")
    data.add(ledger, blobs, "x", tmp_path / "x.bin", actor="a")
    assert data.verify(ledger, blobs, "x") == []
    ledger.close()
