from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import polars as pl
import pytest

from flyball.core.records import Report
from flyball.errors import Invalid
from flyball.monitor.drift import Baseline, columns_of, drift, learn
from flyball.monitor.freshness import freshness
from flyball.monitor.reports import record, report_of
from flyball.stores.metadata import Ledger

NOW = datetime(2013, 7, 16, 12, tzinfo=UTC)


def sample(days: int = 91, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), 40)
    frame = pl.DataFrame(
        {
            "temp": 50 + rng.normal(0, 8, days)[day] + rng.normal(0, 4, day.size),
            "distance": rng.integers(100, 2500, day.size),
            "origin": rng.choice(["EWR", "JFK", "LGA"], day.size),
        }
    )
    return frame, day


def test_the_same_world_has_not_moved_and_another_has() -> None:
    frame, day = sample()
    baseline = learn(frame.filter(day < 84), day[day < 84], window_days=7)
    now = frame.filter(day >= 84)
    calm = drift(baseline, now)
    assert (calm.moved, calm.rows) == (False, 280)
    assert calm.because == "none of 3 columns moved beyond the reference's own variation"
    celsius = drift(baseline, now.with_columns(temp=(pl.col("temp") - 32) / 1.8))
    assert celsius.moved
    assert celsius.columns[0].column == "temp"
    assert celsius.moved_weight == pytest.approx(1 / 3)
    assert celsius.because.startswith("1 of 3 columns moved beyond their own variation: temp (")


def test_what_the_model_ignores_is_information_not_an_alarm() -> None:
    frame, day = sample()
    baseline = learn(frame.filter(day < 84), day[day < 84], window_days=7, importance={"distance": 1.0})
    found = drift(baseline, frame.filter(day >= 84).with_columns(temp=pl.col("temp") + 500))
    assert found.moved is False
    assert next(one for one in found.columns if one.column == "temp").distance > 10  # type: ignore[operator]  # it has rows


def test_a_short_reference_cannot_say() -> None:
    frame, day = sample(14)
    found = drift(learn(frame, day, window_days=7), frame.with_columns(temp=pl.col("temp") + 500))
    assert found.moved is None
    assert "uncalibrated" in found.because
    assert "far by effect size: temp" in found.because


def test_no_rows_cannot_say_either() -> None:
    frame, day = sample()
    found = drift(learn(frame, day, window_days=7), frame.clear())
    assert (found.moved, found.because) == (None, "not enough data: 0 rows")


def test_the_logs_column_of_lists_is_read_by_the_names_of_its_features() -> None:
    log = pl.Series([[1.0, None], [2.0, 3.0], None], dtype=pl.List(pl.Float64))
    columns = columns_of(log, ("a", "b"))
    assert np.isnan(columns["b"][0])
    assert columns["a"][1] == 2.0
    assert np.isnan(columns["a"][2])
    with pytest.raises(Invalid, match="2 names"):
        columns_of(np.zeros((2, 3)), ("a", "b"))
    with pytest.raises(Invalid, match="3 days"):
        learn(np.zeros((2, 1)), [0, 0, 1], window_days=7, names=("a",))


def test_a_baseline_is_stored_with_its_model() -> None:
    frame, day = sample()
    baseline = learn(frame, day, window_days=7)
    again = msgspec.json.decode(msgspec.json.encode(baseline), type=Baseline)
    assert drift(again, frame.tail(280)) == drift(baseline, frame.tail(280))


def test_a_view_that_never_got_a_value_is_the_stalest() -> None:
    newest = {"weather": NOW - timedelta(hours=5), "carrier": NOW, "planes": None}
    found = freshness(newest, {"weather": 3600.0, "carrier": 3600.0, "aircraft": 60.0}, NOW)
    assert [(one.view, one.fresh, one.age_s) for one in found] == [
        ("aircraft", False, None),
        ("planes", False, None),
        ("weather", False, 18_000.0),
        ("carrier", True, 0.0),
    ]


def test_a_report_is_in_the_ledger_with_its_evidence() -> None:
    frame, day = sample()
    found = drift(learn(frame, day, window_days=7), frame.tail(280))
    with_infinity = {"drift": msgspec.to_builtins(found), "distance": float("inf")}
    report = report_of(
        "drift", "delays", with_infinity, at=NOW, passed=True, summary=found.because, since=NOW
    )
    ledger = Ledger.open("sqlite://")
    record(ledger, report, "governor")
    again = ledger.get("report", report.id, Report)
    assert again.summary == found.because
    assert again.evidence["drift"]["columns"][0]["verdict"] == "steady"
    assert again.evidence["distance"] == "inf"
    assert [event.kind for event in ledger.events(subject="delays")] == ["monitor.reported"]
    ledger.close()
