"""One Feast repository, run by real Feast and carried over to us: the same training rows, the same online values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks.peers.feast import Feast

from flyball.compat.feast import FeatureStore

pytestmark = pytest.mark.differential
NOW = datetime.now(UTC).replace(microsecond=0)
YAML = """
project: taxis
registry: registry.db
provider: local
offline_store: {type: duckdb}
online_store: {type: sqlite, path: online.db}
entity_key_serialization_version: 3
"""
CODE = """
from datetime import timedelta
import numpy as np
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Float64, Int64, String
# A ttl of 30 hours is no interval for its DuckDB store: days and hours.

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
trips = FileSource(name="trips", path="trips.parquet", timestamp_field="at", created_timestamp_column="made",
                   field_mapping={"conv": "rate"})
stats = FeatureView(name="stats", entities=[driver], source=trips, ttl=timedelta(hours=12), schema=[
    Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int64), Field(name="city", dtype=String)])
pairs = FileSource(name="pairs", path="pairs.parquet", timestamp_field="at")
sales = FeatureView(name="sales", entities=[driver, shop], source=pairs, ttl=timedelta(0),
                    schema=[Field(name="paid", dtype=Float64)])
asked = RequestSource(name="asked", schema=[Field(name="amount", dtype=Float64), Field(name="country", dtype=String)])

@on_demand_feature_view(sources=[stats, asked], schema=[Field(name="ratio", dtype=Float64), Field(name="capped", dtype=Float64)])
def relative(inputs: pd.DataFrame) -> pd.DataFrame:
    df = pd.DataFrame()
    df["ratio"] = inputs["amount"] / (inputs["rate"] ** 2 + 1)
    df["capped"] = np.where(inputs["amount"] > 50, 50.0, inputs["amount"]) + inputs["trips"].fillna(0)
    return df

@on_demand_feature_view(sources=[stats, asked], schema=[Field(name="priced", dtype=Float64)])
def looked_up(inputs: pd.DataFrame) -> pd.DataFrame:
    rates = {"CH": 0.9, "DE": 1.1}  # in Feast's registry a function loses its module's names
    df = pd.DataFrame()
    df["priced"] = inputs["amount"] * inputs["country"].map(rates).fillna(1.0)
    return df

@on_demand_feature_view(sources=[asked], schema=[Field(name="twice", dtype=Float64)], mode="python")
def listed(inputs):
    return {"twice": [2 * amount for amount in inputs["amount"]]}

model = FeatureService(name="model", features=[stats[["rate", "city"]], sales, relative, looked_up, listed], owner="taxis@x")
"""


@pytest.fixture
def both(feast: Feast, tmp_path: Path) -> tuple[Feast, FeatureStore]:
    draw = np.random.default_rng(3)
    rows = 400
    hours = draw.permutation(rows) / 8  # no two at one time
    at = [NOW - timedelta(hours=float(hour)) for hour in hours]
    made = [
        one + timedelta(minutes=float(late))
        for one, late in zip(at, draw.choice([0, 1, 600], rows), strict=True)
    ]
    us = pl.Datetime("us", "UTC")
    trips = pl.DataFrame({
        "driver_id": draw.integers(0, 12, rows), "at": at, "made": made, "conv": draw.normal(size=rows),
        "trips": draw.integers(0, 9, rows), "city": draw.choice(["Bern", "Köln", "Rom"], rows),
    }).with_columns(pl.col("at", "made").cast(us))  # fmt: skip
    pairs = pl.DataFrame({
        "driver_id": draw.integers(0, 12, rows), "shop_id": draw.choice(["a", "b"], rows), "at": at,
        "paid": draw.normal(size=rows),
    }).with_columns(pl.col("at").cast(us))  # fmt: skip
    trips.write_parquet(tmp_path / "trips.parquet")
    pairs.write_parquet(tmp_path / "pairs.parquet")
    (tmp_path / "feature_store.yaml").write_text(YAML)
    (tmp_path / "taxi_features.py").write_text(CODE)
    feast.call("repository", name="taxis", folder=tmp_path)
    return feast, FeatureStore(tmp_path)


@pytest.mark.parametrize("full", [False, True])
def test_training_rows_of_a_service_are_feasts(
    both: tuple[Feast, FeatureStore], tmp_path: Path, full: bool
) -> None:
    feast, store = both
    draw = np.random.default_rng(4)
    rows = 150
    asked = pl.DataFrame({
        "driver_id": draw.integers(0, 14, rows), "shop_id": draw.choice(["a", "b", "c"], rows),
        "event_timestamp": [NOW - timedelta(hours=float(hour)) for hour in draw.integers(0, 60, rows)],
        "amount": draw.uniform(0, 100, rows), "country": draw.choice(["CH", "DE", "FR"], rows), "row": np.arange(rows),
    }).with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))  # fmt: skip
    asked.write_parquet(tmp_path / "asked.parquet")
    out = tmp_path / "out.parquet"
    feast.call(
        "historical",
        name="taxis",
        entity=tmp_path / "asked.parquet",
        features="model",
        out=out,
        full=full,
        known=True,
    )
    theirs = pl.read_parquet(out).sort("row")
    ours = store.get_historical_features(
        asked, store.get_feature_service("model"), full_feature_names=full
    ).to_df()
    names = ["rate", "city", "paid", "ratio", "capped", "priced", "twice"]
    if full:
        views = ["stats", "stats", "sales", "relative", "relative", "looked_up", "listed"]
        names = [f"{view}__{name}" for view, name in zip(views, names, strict=True)]
    assert list(ours.columns) == [*asked.columns, *names]
    assert ours["row"].tolist() == asked["row"].to_list()
    for name in names:
        mine, other = ours[name].tolist(), theirs[name].to_list()
        if name.endswith("city"):
            assert [one if isinstance(one, str) else None for one in mine] == other
        else:
            np.testing.assert_allclose(
                np.array(mine, float), np.array([np.nan if one is None else one for one in other]), rtol=1e-12
            )


def test_online_values_of_a_service_are_feasts(both: tuple[Feast, FeatureStore], tmp_path: Path) -> None:
    feast, store = both
    trips = pl.read_parquet(tmp_path / "trips.parquet")  # Feast serves what is known only later
    trips.with_columns(made="at").write_parquet(tmp_path / "trips.parquet")
    begin = NOW - timedelta(days=9)
    feast.call("materialize", name="taxis", start=begin.isoformat(), end=NOW.isoformat())
    store.materialize(begin, NOW)
    rows = [
        {"driver_id": driver, "shop_id": "a", "amount": 10.0 * driver, "country": country}
        for driver, country in zip(range(8), ["CH", "DE", "FR", "CH", "DE", "FR", "CH", "DE"], strict=True)
    ]
    theirs = feast.call("online", name="taxis", features="model", entity_rows=rows)["values"]
    ours = store.get_online_features(store.get_feature_service("model"), rows).to_dict()
    assert set(ours) == set(theirs)
    assert list(ours)[:2] == ["driver_id", "shop_id"]
    for name, column in ours.items():
        if name == "city" or name.endswith("_id"):
            assert column == theirs[name]
        else:
            assert column == pytest.approx(theirs[name], rel=1e-12)
    assert ours == {
        name: [one for each in rows for one in store.get_online_features("model", [each]).to_dict()[name]]
        for name in ours
    }
