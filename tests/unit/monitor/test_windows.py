"""Predictions and labels by the day of the prediction: coverage, amendments, repeats, expiry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.monitor.delays import DelayCurve
from flyball.monitor.windows import DAY_US, DayTable
from flyball.stats import quality
from flyball.stores.prediction_log import Label, Prediction
from flyball.stores.predictions import LABELS, PREDICTIONS, table_of

HOUR_US = 3_600_000_000
NOON = to_us(datetime(2013, 4, 1, 12, tzinfo=UTC))


def table_with(*outputs: float) -> DayTable:
    table = DayTable(expires_after_s=2 * 86_400)
    for index, output in enumerate(outputs):
        table.add(f"p{index}", NOON + index, output, latency_us=1000 * (index + 1))
    return table


def test_a_day_counts_what_came_and_what_is_waited_for() -> None:
    table = table_with(0.2, 0.8, 0.5)
    table.add("broken", NOON, None, error=True, fallback=True)
    table.label("p0", 0.0, NOON + HOUR_US)
    table.label("p1", 1.0, NOON + HOUR_US)
    day = table.days(NOON + 2 * HOUR_US)[0]
    assert (day.day, day.n, day.labelled, day.waiting, day.expired) == ("2013-04-01", 4, 2, 2, 0)
    assert (day.errors, day.fallbacks, day.coverage, day.closed) == (1, 1, 0.5, False)
    assert day.mean_predicted == pytest.approx(0.5)
    assert day.mean_actual == 0.5
    assert day.calibration_gap == pytest.approx(0.0)
    assert day.log_loss == pytest.approx(quality.log_loss([0, 1], [0.2, 0.8]))
    assert day.latency_p50_ms == 1.5


def test_a_label_twice_counts_once_and_what_was_known_last_wins() -> None:
    table = table_with(0.5)
    assert table.label("p0", 1.0, NOON + HOUR_US)
    assert not table.label("p0", 1.0, NOON + HOUR_US)
    assert table.label("p0", 0.0, NOON + 2 * HOUR_US)
    assert not table.label("p0", 1.0, NOON + HOUR_US)
    day = table.days(NOON + 3 * HOUR_US)[0]
    assert (day.labelled, day.mean_actual) == (1, 0.0)


def test_a_prediction_twice_counts_once() -> None:
    table = table_with(0.5)
    assert not table.add("p0", NOON + 5, 0.9)
    assert table.days(NOON)[0].n == 1


def test_a_label_that_is_read_before_its_prediction_waits_for_it() -> None:
    table = DayTable()
    assert not table.label("p0", 1.0, NOON + HOUR_US)
    assert not table.label("p0", 0.0, NOON + 2 * HOUR_US)
    table.add("p0", NOON, 0.5)
    assert table.days(NOON + 2 * HOUR_US)[0].mean_actual == 0.0


def test_a_label_that_cannot_come_any_more_expires_and_one_too_late_is_left_out() -> None:
    table = table_with(0.5, 0.5)
    table.label("p0", 1.0, NOON + HOUR_US)
    before, after = table.days(NOON + DAY_US)[0], table.days(NOON + 3 * DAY_US)[0]
    assert (before.waiting, before.expired, before.closed) == (1, 0, False)
    assert (after.waiting, after.expired, after.closed) == (0, 1, True)
    assert not table.label("p1", 1.0, NOON + 3 * DAY_US)
    assert table.ignored_labels == 1
    assert table.days(NOON + 3 * DAY_US)[0].labelled == 1


def test_ids_are_forgotten_when_nothing_can_come_for_them() -> None:
    table = table_with(0.5)
    table.days(NOON + 30 * DAY_US)
    assert not table.label("p0", 1.0, NOON + HOUR_US)
    assert len(table._where) == 0
    assert table.days(NOON + 30 * DAY_US)[0].n == 1


def test_a_day_may_begin_at_another_hour() -> None:
    table = DayTable(day_starts_s=4 * 3600)
    table.add("late evening in New York", to_us(datetime(2013, 4, 2, 3, 59, tzinfo=UTC)), 0.5)
    table.add("midnight in New York", to_us(datetime(2013, 4, 2, 4, 0, tzinfo=UTC)), 0.5)
    assert [day.day for day in table.days(NOON)] == ["2013-04-01", "2013-04-02"]


def test_a_window_holds_the_labelled_rows_of_its_days() -> None:
    table = DayTable()
    for day in range(10):
        for row in range(4):
            name, at = f"{day}-{row}", NOON + day * DAY_US + row
            table.add(name, at, 0.1 * row)
            if row:
                table.label(name, float(row % 2), at + HOUR_US)
    window = table.window(NOON + 9 * DAY_US + 2 * HOUR_US, 3)
    assert (window.n, window.y.size, window.waiting) == (12, 9, 3)
    assert (window.first, window.last) == ("2013-04-08", "2013-04-10")
    assert window.coverage == 0.75
    assert np.unique(window.day).size == 3
    assert table.window(NOON, 2, last=int(window.day[0])).last == "2013-04-08"
    assert DayTable().window(NOON, 3).y.size == 0


def test_only_days_that_changed_are_worked_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_with(0.5)
    table.add("later", NOON + DAY_US, 0.5)
    for name in ("p0", "later"):
        table.label(name, 1.0, NOON + DAY_US + HOUR_US)
    looked: list[int] = []
    look = DayTable._look
    monkeypatch.setattr(DayTable, "_look", lambda self, day, now: looked.append(day) or look(self, day, now))
    table.days(NOON + 2 * DAY_US)
    table.days(NOON + 2 * DAY_US)
    table.label("later", 0.0, NOON + 2 * DAY_US)
    table.days(NOON + 2 * DAY_US)
    assert len(looked) == 3


def test_the_prediction_logs_own_tables_are_taken_as_they_are() -> None:
    predictions = table_of(
        [
            Prediction(
                id=f"p{row}", at_us=NOON + row, endpoint="delays", assigned="delays@1", arm="champion", rho=0.1,
                model="delays@1", output=0.5, features=[1.0], times_us=[None], entities={}, error="late" * (row == 0),
            )
            for row in range(3)
        ],
        Prediction,
    )  # fmt: skip
    labels = table_of([Label("p1", 1.0, NOON + HOUR_US, NOON + HOUR_US)], Label).rename({"value": "label"})
    assert set(PREDICTIONS) <= set(predictions.columns)
    assert set(LABELS) - {"value"} <= set(labels.columns)
    table = DayTable()
    table.add_frame(predictions.join(labels, on="id", how="left"))
    day = table.days(NOON + 2 * HOUR_US)[0]
    assert (day.n, day.labelled, day.errors) == (3, 1, 1)


def test_tables_with_times_instead_of_microseconds_are_the_same() -> None:
    at = datetime(2013, 4, 1, 12, tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "id": ["a", "b"],
            "at": [at, at],
            "output": [0.1, 0.9],
            "y": [None, 1.0],
            "known": [None, at + timedelta(hours=1)],
        }
    )
    table = DayTable()
    table.add_frame(rows)
    assert table.days(NOON)[0].labelled == 1
    assert table.delays_s().tolist() == [3600.0]
    with pytest.raises(Invalid, match="no column 'output'"):
        table.add_frame(rows.drop("output"))


def test_the_delay_curve_says_how_many_labels_to_expect() -> None:
    assert DelayCurve.learn([]).share_known(10.0) is None
    curve = DelayCurve.learn(np.random.default_rng(0).exponential(3600, 5000))
    assert len(curve.delays_s) == 200
    assert curve.share_known(3600.0) == pytest.approx(1 - np.exp(-1), abs=0.02)
    assert curve.share_known(1e9) == 1.0
