from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from flyball.stats import distances
from flyball.stats.drift import ColumnBaseline, Null, calibrate, compare, learn


def seasons(days: int, seed: int, per_day: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """A column whose level wanders from day to day, as weather does."""
    rng = np.random.default_rng(seed)
    level = np.zeros(days)
    for day in range(1, days):
        level[day] = 0.8 * level[day - 1] + rng.normal(0, 0.6)
    day_of = np.repeat(np.arange(days), per_day)
    return level[day_of] + rng.normal(0, 1, day_of.size), day_of


def test_distances_know_alike_from_apart() -> None:
    a = np.random.default_rng(0).normal(size=2000)
    assert distances.wasserstein(a, a) == 0.0
    assert distances.wasserstein(a, a + a.std()) == pytest.approx(1.0)
    assert distances.ks(a, a) == 0.0
    assert distances.ks(a, a + 100) == 1.0
    assert distances.psi(a, a) == pytest.approx(0.0, abs=1e-12)
    assert distances.total_variation(["a", "b"], ["c"]) == 1.0
    assert math.isinf(distances.wasserstein(np.ones(30), np.full(30, 2.0)))


def test_nulls_are_left_out_of_a_distance() -> None:
    a = np.array([1.0, 2.0, math.nan, 3.0])
    assert distances.wasserstein(a, a[[0, 1, 3]]) == 0.0


def test_what_wanders_by_itself_does_not_alarm_where_a_fixed_threshold_would() -> None:
    """1 % declared: of 60 futures of a wandering column at most three alarm; PSI above 0.2 "alarms" in most."""
    alarms = fixed = 0
    for seed in range(60):
        value, day = seasons(100, seed)
        past, now = day < 93, day >= 93
        baseline = learn({"temp": value[past]}, day[past], window_days=7)
        alarms += compare(baseline, {"temp": value[now]}, rate=0.01)[0].verdict == "drift"
        fixed += distances.psi(value[past], value[now]) > 0.2
    assert alarms <= 3
    assert fixed > 30


def test_a_changed_unit_is_drift() -> None:
    value, day = seasons(100, 1)
    fahrenheit = 60 + 5 * value
    past, now = day < 93, day >= 93
    baseline = learn({"temp": fahrenheit[past]}, day[past], window_days=7)
    found = compare(baseline, {"temp": (fahrenheit[now] - 32) / 1.8}, rate=0.01)[0]
    assert found.verdict == "drift"
    assert found.p_value is not None
    assert found.p_value < 0.001


def test_values_that_vanish_are_drift_even_when_the_rest_is_alike() -> None:
    value, day = seasons(100, 2)
    past, now = day < 93, day >= 93
    baseline = learn({"x": value[past]}, day[past], window_days=7)
    half = value[now].copy()
    half[::2] = math.nan
    found = compare(baseline, {"x": half}, rate=0.01)[0]
    assert found.verdict == "drift"
    assert found.missing_share == pytest.approx(0.5)


def test_one_missing_value_among_many_is_no_news() -> None:
    value, day = seasons(100, 3)
    baseline = learn({"x": value[day < 93]}, day[day < 93], window_days=7)
    now = value[day >= 93].copy()
    now[0] = math.nan
    assert compare(baseline, {"x": now}, rate=0.01)[0].verdict == "steady"


def test_a_column_that_the_model_ignores_never_alarms() -> None:
    value, day = seasons(100, 4)
    columns = {"used": value, "ignored": value}
    past, now = day < 93, day >= 93
    weights = {"used": 1.0, "ignored": 0.0}
    baseline = learn(
        {name: one[past] for name, one in columns.items()}, day[past], window_days=7, weights=weights
    )
    far = {name: one[now] + 40 for name, one in columns.items()}
    assert [one.verdict for one in compare(baseline, far)] == ["drift", "steady"]


def test_too_little_reference_says_so_and_falls_back_to_the_size_of_the_effect() -> None:
    value, day = seasons(14, 5)
    baseline = learn({"x": value}, day, window_days=7)
    assert not baseline["x"].null.calibrated
    assert compare(baseline, {"x": value})[0].verdict == "uncalibrated"
    far = compare(baseline, {"x": value + 10})[0]
    assert (far.verdict, far.p_value) == ("uncalibrated drift", None)
    assert compare(baseline, {"x": value[:3]})[0].verdict == "too few rows"


def test_categories_are_compared_by_their_shares() -> None:
    rng = np.random.default_rng(6)
    day = np.repeat(np.arange(60), 50)
    origin = rng.choice(["EWR", "JFK", "LGA"], day.size)
    baseline = learn({"origin": origin}, day, window_days=5)
    assert compare(baseline, {"origin": rng.choice(["EWR", "JFK", "LGA"], 250)})[0].verdict == "steady"
    moved = compare(baseline, {"origin": np.array(["SWF"] * 250)})[0]
    assert (moved.verdict, moved.distance) == ("drift", pytest.approx(1.0))


def test_windows_are_blocks_of_whole_days_and_a_short_rest_is_not_one() -> None:
    value, day = seasons(31, 7)
    assert len(calibrate(value, day, window_days=7).distances) == 4


def test_the_rank_is_corrected_for_small_samples() -> None:
    null = Null("wasserstein", 1, tuple(np.linspace(0.1, 1.0, 99)))
    assert null.p_value(2.0, 0.05) == pytest.approx(0.01)
    assert null.p_value(0.0, 0.05) == 1.0


def test_the_extrapolated_tail_keeps_its_rate() -> None:
    """5 % declared, 2,000 draws of nine log-normal distances: the tenth is called far in at most 6.5 %."""
    rng = np.random.default_rng(8)
    draws = np.exp(rng.normal(0.0, 0.5, (2000, 10)))
    far = [(Null("wasserstein", 7, tuple(one[:9])).p_value(one[9], 0.05) or 0.0) <= 0.05 for one in draws]
    assert 0.03 <= np.mean(far) <= 0.065


def test_a_baseline_survives_being_stored() -> None:
    value, day = seasons(40, 9)
    baseline = learn({"x": value}, day, window_days=7)
    again = msgspec.json.decode(msgspec.json.encode(baseline), type=dict[str, ColumnBaseline])
    assert compare(again, {"x": value[:200]}) == compare(baseline, {"x": value[:200]})
