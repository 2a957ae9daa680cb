"""Planted faults are found and called by their name; a healthy pipeline has none."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features import OnlineReader, Service, View, count, mean, point_in_time, push
from flyball.features.skew import CHANGED, LEAK, STALE, TIME_ZONE, Mismatch, skew
from flyball.stores.online import open_online

T = datetime(2013, 4, 1, tzinfo=UTC)
DAYS = 6


def flights() -> pl.DataFrame:
    """Landed flights: the schedule is known long before; the delay only when it has landed, minutes to hours after."""
    rng = np.random.default_rng(20130401)
    n = 3000
    scheduled = np.sort(rng.integers(0, DAYS * 86400, n))
    delay = np.rint(rng.gamma(1.0, 45.0, n) - 20)
    carrier = rng.choice(["UA", "AA", "DL"], n)
    frame = pl.DataFrame({"carrier": carrier, "s": scheduled, "arr_delay": delay, "flight": np.arange(n)})
    planned = pl.lit(T) + pl.duration(seconds="s")
    return frame.with_columns(
        scheduled=planned, landed=planned + pl.duration(minutes=pl.col("arr_delay").cast(pl.Int64))
    ).drop("s")


WINDOWS = (mean("arr_delay", "3h"), count("3h"))
VIEW = View("carrier", ("carrier",), "flights", "landed", "landed", (), WINDOWS, row_id=("flight",))
SERVICE = Service("delays", VIEW.features)


def asked(n: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(7)
    seconds = rng.integers(86400, DAYS * 86400, n)
    return pl.DataFrame({"carrier": rng.choice(["UA", "AA", "DL"], n), "s": seconds}).select(
        "carrier", at=pl.lit(T) + pl.duration(seconds="s")
    )


def found(logged: pl.DataFrame, view: View = VIEW) -> dict[str, Mismatch]:
    mismatches = skew(logged, Service("delays", view.features), [view], {"flights": flights()})
    return {mismatch.feature: mismatch for mismatch in mismatches}


def test_what_was_read_online_is_what_offline_computes(tmp_path: Path) -> None:
    table, questions = flights(), asked(150).sort("at")
    store = open_online(f"lmdb:{tmp_path}/online")
    reader = OnlineReader(SERVICE, [VIEW], store)
    logged, pushed = [], T - timedelta(days=1)
    for row in questions.iter_rows(named=True):  # as live: first what has landed by then, then the question
        push(VIEW, table.filter(pl.col("landed").is_between(pushed, row["at"], closed="right")), store)
        pushed = row["at"]
        logged.append(reader.read(row, {}, to_us(row["at"])).values)
    store.close()
    frame = questions.with_columns(pl.DataFrame(logged, schema=list(VIEW.features), orient="row"))
    assert found(frame) == {}


def test_a_window_keyed_on_scheduled_time_is_a_leak() -> None:
    """The demo's trap: it sees delays of flights still in the air, and adds .09 AUC that production never has."""
    leaking = View(
        "carrier", ("carrier",), "flights", "scheduled", "scheduled", (), WINDOWS, row_id=("flight",)
    )
    logged = point_in_time(asked(), "at", [leaking], {"flights": flights()})
    mismatches = found(logged)
    assert set(mismatches) == set(VIEW.features)
    for mismatch in mismatches.values():
        assert mismatch.likely_cause == LEAK
        assert "scheduled" in mismatch.detail
        assert mismatch.rows_compared == 400
        assert mismatch.mismatched > 300


def test_ignoring_when_a_thing_became_known_is_a_leak() -> None:
    late = flights().with_columns(known=pl.col("landed") + pl.duration(minutes=45))
    honest = View("carrier", ("carrier",), "flights", "landed", "known", (), WINDOWS, row_id=("flight",))
    logged = point_in_time(asked(), "at", [VIEW], {"flights": late})
    mismatches = skew(logged, SERVICE, [honest], {"flights": late})
    assert {mismatch.likely_cause for mismatch in mismatches} == {LEAK}
    assert len(mismatches) == 2


def test_hours_of_difference_are_a_time_zone() -> None:
    questions = asked()
    elsewhere = questions.with_columns(pl.col("at") + pl.duration(hours=4))
    values = point_in_time(elsewhere, "at", [VIEW], {"flights": flights()}).select(VIEW.features)
    mismatches = found(questions.with_columns(values))
    assert {mismatch.likely_cause for mismatch in mismatches.values()} == {TIME_ZONE}
    assert "+4 h" in mismatches["carrier:arr_delay_mean_3h"].detail


def test_a_store_that_runs_behind_is_stale() -> None:
    behind = flights().with_columns(pushed=pl.col("landed") + pl.duration(minutes=15))
    slow = View("carrier", ("carrier",), "flights", "landed", "pushed", (), WINDOWS, row_id=("flight",))
    logged = point_in_time(asked(), "at", [slow], {"flights": behind})
    mismatches = found(logged)
    assert {mismatch.likely_cause for mismatch in mismatches.values()} == {STALE}


def test_what_nothing_explains_is_a_changed_definition() -> None:
    logged = point_in_time(asked(), "at", [VIEW], {"flights": flights()})
    logged = logged.with_columns(pl.col("carrier:arr_delay_mean_3h") * 1.7 + 3)
    mismatches = found(logged)
    assert list(mismatches) == ["carrier:arr_delay_mean_3h"]
    mismatch = mismatches["carrier:arr_delay_mean_3h"]
    assert mismatch.likely_cause == CHANGED
    assert mismatch.example_logged == pytest.approx((mismatch.example_recomputed or 0) * 1.7 + 3)
    assert mismatch.first_at == logged.drop_nulls("carrier:arr_delay_mean_3h")["at"].min()


def test_a_null_against_a_value_is_a_mismatch_and_two_nulls_are_none() -> None:
    logged = point_in_time(asked(), "at", [VIEW], {"flights": flights()})
    one = logged.with_row_index().with_columns(
        pl.when(pl.col("index") == 3)
        .then(None)
        .otherwise(pl.col("carrier:count_3h"))
        .alias("carrier:count_3h")
    )
    (mismatch,) = found(one).values()
    assert (mismatch.mismatched, mismatch.example_logged) == (1, None)


def test_predictions_without_any_feature_are_refused() -> None:
    with pytest.raises(Invalid, match="log no feature"):
        found(asked())
