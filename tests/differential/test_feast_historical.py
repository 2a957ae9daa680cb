"""Training rows beside real Feast: its DuckDB store where it is right, a brute-force oracle where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from benchmarks.peers.feast import Feast

from flyball.compat.feast import FeatureStore
from tests.feast import frame, hours, project

pytestmark = pytest.mark.differential
TTL = {"a": 3 * 3600, "b": 0}
UTC_US = pl.Datetime("us", "UTC")


def table(seed: int, rows: int, columns: Sequence[str]) -> pl.DataFrame:
    """Rows with corrections that come later, nulls and several rows of one instant; no two tie in both clocks."""
    draw = np.random.default_rng(seed)
    at = [hours(float(x)) for x in draw.integers(0, 96, rows) / 2]
    created = [
        one + timedelta(hours=float(x))
        for one, x in zip(at, draw.choice([0, 0, 0.5, 1, 5, 30], rows), strict=True)
    ]
    values = {name: np.where(draw.random(rows) < 0.1, np.nan, draw.normal(size=rows)) for name in columns}
    made = pl.DataFrame({"k": draw.integers(0, 8, rows), "at": at, "created": created, **values})
    made = made.with_columns(pl.col("at", "created").cast(UTC_US)).fill_nan(None)
    return made.unique(["k", "at", "created"], keep="first", maintain_order=True)


def asked(seed: int, rows: int = 200) -> pl.DataFrame:
    draw = np.random.default_rng(seed)
    at = [hours(float(x)) for x in draw.integers(0, 120, rows) / 2]
    made = pl.DataFrame({"k": draw.integers(0, 10, rows), "event_timestamp": at, "row": np.arange(rows)})
    return made.with_columns(pl.col("event_timestamp").cast(UTC_US))


def views(folder: Path) -> list[dict[str, Any]]:
    fields = {"a": ("x", "x2"), "b": ("y",)}
    return [
        {
            "name": name, "entity": ["k"], "path": str(folder / f"{name}.parquet"), "ttl_s": TTL[name], "created": True,
            "fields": dict.fromkeys(columns, "Float64"),
        }
        for name, columns in fields.items()
    ]  # fmt: skip


FEATURES = ["a:x", "a:x2", "b:y"]


class Both:
    """The same two tables for both stores."""

    def __init__(
        self, feast: Feast, folder: Path, a: pl.DataFrame, b: pl.DataFrame, offline: str = "duckdb"
    ) -> None:
        self.feast, self.folder, self.name = feast, folder, folder.name
        a.write_parquet(folder / "a.parquet")
        b.write_parquet(folder / "b.parquet")
        self.tables = {"a": a, "b": b}
        project(folder / "ours", views(folder))
        feast.call(
            "store", name=self.name, folder=folder / "feast", offline={"type": offline}, views=views(folder)
        )

    def theirs(self, rows: pl.DataFrame, *, known: bool) -> pl.DataFrame:
        rows.write_parquet(self.folder / "e.parquet")
        out = self.folder / "out.parquet"
        self.feast.call(
            "historical",
            name=self.name,
            entity=self.folder / "e.parquet",
            features=FEATURES,
            out=out,
            known=known,
        )
        return pl.read_parquet(out).select(*rows.columns, "x", "x2", "y")

    def ours(self, rows: pl.DataFrame) -> pl.DataFrame:
        return FeatureStore(self.folder / "ours").get_historical_features(rows, FEATURES).to_polars()

    def oracle(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Row by row: of the rows that had happened and were known, the last; nothing when it is too old."""
        found: dict[str, list[Any]] = {"x": [], "x2": [], "y": []}
        for row in rows.iter_rows(named=True):
            for name, columns in (("a", ("x", "x2")), ("b", ("y",))):
                best = latest(self.tables[name], row["k"], row["event_timestamp"], TTL[name])
                for column in columns:
                    found[column].append(best.get(column))
        return rows.with_columns(pl.Series(name, values, pl.Float64) for name, values in found.items())


def latest(rows: pl.DataFrame, key: int, at: Any, ttl_s: int) -> Mapping[str, Any]:
    seen = rows.filter(pl.col("k") == key, pl.col("at") <= at, pl.col("created") <= at)
    if seen.height == 0:
        return {}
    best = seen.sort("at", "created", maintain_order=True).row(-1, named=True)
    return {} if ttl_s and at - best["at"] > timedelta(seconds=ttl_s) else best


def same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    return one.sort("row").equals(other.sort("row").cast(dict(one.schema)), null_equal=True)


@pytest.mark.parametrize("seed", range(6))
def test_random_tables_join_as_feasts_duckdb_store_joins_what_was_known(
    feast: Feast, tmp_path: Path, seed: int
) -> None:
    both = Both(feast, tmp_path, table(seed, 300, ("x", "x2")), table(seed + 100, 150, ("y",)))
    rows = asked(seed + 200)
    ours = both.ours(rows)
    assert ours["row"].equals(rows["row"])  # in order; Feast's are not
    assert same(ours, both.theirs(rows, known=True))
    assert same(ours, both.oracle(rows))


def test_the_ttl_is_inclusive_on_both_sides(feast: Feast, tmp_path: Path) -> None:
    a = frame([(1, hours(0), hours(0), 1.0, 2.0)], "k", "at", "created", "x", "x2")
    b = frame([(1, hours(0), hours(0), 3.0)], "k", "at", "created", "y")
    both = Both(feast, tmp_path, a, b)
    edge = hours(3)
    moments = [hours(-1), hours(0), edge, edge + timedelta(microseconds=1), hours(9000)]
    rows = frame([(1, at, row) for row, at in enumerate(moments)], "k", "event_timestamp", "row")
    ours = both.ours(rows)
    assert ours["x"].to_list() == [None, 1.0, 1.0, None, None]
    assert ours["y"].to_list() == [None, 3.0, 3.0, 3.0, 3.0]
    assert same(ours, both.theirs(rows, known=True))


def test_feast_uses_what_was_known_only_later_unless_it_is_told_not_to(feast: Feast, tmp_path: Path) -> None:
    a = frame(
        [(1, hours(0), hours(0), 1.0, 1.0), (1, hours(0), hours(9), 2.0, 2.0)],
        "k",
        "at",
        "created",
        "x",
        "x2",
    )
    both = Both(feast, tmp_path, a, frame([(1, hours(0), hours(0), 3.0)], "k", "at", "created", "y"))
    rows = frame([(1, hours(1), 0)], "k", "event_timestamp", "row")
    assert both.theirs(rows, known=False)["x"].to_list() == [2.0]  # a correction that came eight hours later
    assert both.ours(rows)["x"].to_list() == [1.0]
    assert same(both.ours(rows), both.theirs(rows, known=True))


def test_feasts_default_store_loses_rows_whose_view_has_nothing_inside_its_ttl(
    feast: Feast, tmp_path: Path
) -> None:
    both = Both(feast, tmp_path, table(1, 300, ("x", "x2")), table(101, 150, ("y",)), offline="dask")
    rows = asked(201)
    theirs, ours = both.theirs(rows, known=True), both.ours(rows)
    assert ours.height == rows.height
    assert same(ours, both.oracle(rows))
    assert theirs.height < 0.8 * rows.height


def test_feasts_default_store_takes_superseded_corrections(feast: Feast, tmp_path: Path) -> None:
    """It sorts by creation and then, not stably, by event time."""
    both = Both(feast, tmp_path, table(1, 1500, ("x", "x2")), table(101, 150, ("y",)), offline="dask")
    rows = asked(201)
    ours = both.ours(rows)
    assert same(ours, both.oracle(rows))
    met = ours.join(both.theirs(rows, known=True), on="row", suffix="_theirs")
    wrong = met.filter(~pl.col("x2").eq_missing(pl.col("x2_theirs")))
    assert wrong.height > 0
    for row in wrong.iter_rows(named=True):
        at = both.tables["a"].filter(pl.col("x2").eq_missing(row["x2"]), pl.col("k") == row["k"])["at"]
        versions = both.tables["a"].filter(pl.col("k") == row["k"], pl.col("at").is_in(at.implode()))
        assert row["x2_theirs"] in versions["x2"].to_list()  # of the same event, but not the last word on it


def test_feasts_default_store_makes_one_of_rows_that_are_equal_in_key_and_time(
    feast: Feast, tmp_path: Path
) -> None:
    a = frame([(1, hours(0), hours(0), 1.0, 1.0)], "k", "at", "created", "x", "x2")
    both = Both(
        feast, tmp_path, a, frame([(1, hours(0), hours(0), 3.0)], "k", "at", "created", "y"), offline="dask"
    )
    rows = frame([(1, hours(1), row) for row in range(3)], "k", "event_timestamp", "row")
    assert both.theirs(rows, known=True).height == 1
    assert both.ours(rows)["row"].to_list() == [0, 1, 2]
