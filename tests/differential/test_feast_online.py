"""Online values beside real Feast with its SQLite store: the same where it is right, and where we differ on purpose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from benchmarks.peers.feast import Feast

from flyball.compat.feast import FeatureStore
from tests.feast import frame, project

pytestmark = pytest.mark.differential
NOW = datetime.now(UTC).replace(microsecond=0)
PRESENT, NULL, NOT_FOUND, OUTSIDE = 1, 2, 3, 4


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


class Both:
    """One view in both online stores, filled from the same file."""

    def __init__(self, feast: Feast, folder: Path, rows: pl.DataFrame, ttl_s: int = 86400) -> None:
        rows.write_parquet(folder / "v.parquet")
        fields = {"x": "Float64", "n": "Int64", "s": "String"}
        view = {
            "name": "v", "entity": ["k"], "path": str(folder / "v.parquet"), "ttl_s": ttl_s, "fields": fields,
            "push": "pushed",
        }  # fmt: skip
        self.feast, self.name = feast, folder.name
        feast.call("store", name=self.name, folder=folder / "feast", offline={"type": "duckdb"}, views=[view])
        project(folder / "ours", [view])
        self.store = FeatureStore(folder / "ours")

    def materialize(self) -> None:
        begin, end = ago(1000), NOW
        self.feast.call("materialize", name=self.name, start=begin.isoformat(), end=end.isoformat())
        self.store.materialize(begin, end)

    def push(self, rows: dict[str, list[Any]]) -> None:
        texts = {**rows, "at": [one.isoformat() for one in rows["at"]]}
        self.feast.call("push", name=self.name, source="pushed", rows=texts)
        self.store.push("pushed", rows)

    def read(self, keys: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ours and theirs: values, statuses, and times in seconds."""
        rows = [{"k": key} for key in keys]
        features = ["v:x", "v:n", "v:s"]
        theirs = self.feast.call("online", name=self.name, features=features, entity_rows=rows)
        found = self.store.get_online_features(features, rows)
        columns = zip(found.proto.metadata.feature_names.val, found.proto.results, strict=True)
        ours = {
            "values": found.to_dict(),
            "statuses": {name: column.statuses for name, column in columns},
            "times": found.to_dict(include_event_timestamps=True),
        }
        return ours, theirs


COLUMNS = ("k", "at", "x", "n", "s")


def test_random_rows_read_alike_when_they_are_young_enough(feast: Feast, tmp_path: Path) -> None:
    draw = np.random.default_rng(7)
    rows = frame(
        [
            (
                int(draw.integers(0, 30)),
                ago(float(age)),
                float(draw.normal()),
                int(draw.integers(-9, 9)),
                str(row),
            )
            for row, age in enumerate(draw.permutation(300) / 15)
        ],
        *COLUMNS,
    )
    both = Both(feast, tmp_path, rows)
    both.materialize()
    ours, theirs = both.read([*range(35), 7, 7])
    assert ours["values"] == theirs["values"]
    assert ours["statuses"]["x"] == theirs["statuses"]["x"]
    assert list(ours["values"]) == ["k", "x", "n", "s"]  # in the order asked for; Feast's is any
    assert {name for name in ours["times"] if name.endswith("__ts")} == {
        name for name in theirs["times"] if name.endswith("__ts")
    }
    assert ours["times"] == theirs["times"]


def test_null_and_missing_are_told_apart_here_as_there(feast: Feast, tmp_path: Path) -> None:
    both = Both(feast, tmp_path, frame([(1, ago(1), None, 5, None), (2, ago(1), 1.0, 6, "two")], *COLUMNS))
    both.materialize()
    ours, theirs = both.read([1, 2, 3])
    assert ours["values"] == theirs["values"]
    assert ours["statuses"]["n"] == theirs["statuses"]["n"] == [PRESENT, PRESENT, NOT_FOUND]
    assert ours["statuses"]["x"] == [NULL, PRESENT, NOT_FOUND]
    assert theirs["statuses"]["x"] == [PRESENT, PRESENT, NOT_FOUND]  # Feast says PRESENT of a null


def test_an_expired_value_is_served_by_feast_and_not_by_us(feast: Feast, tmp_path: Path) -> None:
    both = Both(feast, tmp_path, frame([(1, ago(30), 1.0, 1, "old")], *COLUMNS))
    both.materialize()
    ours, theirs = both.read([1])
    assert theirs["values"]["x"] == [1.0]
    assert theirs["statuses"]["x"] == [PRESENT]
    assert ours["values"]["x"] == [None]
    assert ours["statuses"]["x"] == [OUTSIDE]


def test_an_older_event_that_comes_later_overwrites_in_feast_and_not_here(
    feast: Feast, tmp_path: Path
) -> None:
    both = Both(feast, tmp_path, frame([(1, ago(40), 0.0, 0, "zero")], *COLUMNS))
    both.push({"k": [1], "at": [ago(1)], "x": [2.0], "n": [2], "s": ["newer"]})
    both.push({"k": [1], "at": [ago(2)], "x": [1.0], "n": [1], "s": ["older"]})
    ours, theirs = both.read([1])
    assert theirs["values"]["s"] == ["older"]
    assert ours["values"]["s"] == ["newer"]


def test_what_was_pushed_is_in_our_training_rows_and_not_in_feasts(feast: Feast, tmp_path: Path) -> None:
    both = Both(feast, tmp_path, frame([(1, ago(40), 0.0, 0, "zero")], *COLUMNS))
    both.push({"k": [1], "at": [ago(1)], "x": [2.0], "n": [2], "s": ["pushed"]})
    rows = frame([(1, NOW)], "k", "event_timestamp")
    rows.write_parquet(tmp_path / "e.parquet")
    out = tmp_path / "out.parquet"
    both.feast.call("historical", name=both.name, entity=tmp_path / "e.parquet", features=["v:s"], out=out)
    assert pl.read_parquet(out)["s"].to_list() == [None]
    assert both.store.get_historical_features(rows, ["v:s"]).to_df()["s"].tolist() == ["pushed"]
