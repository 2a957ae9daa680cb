"""Quality windows, the alarm on the champion's own variation, and shocks."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from flyball.errors import Invalid
from flyball.monitor.quality import Alarm, quality, shocks, trailing_alarm
from flyball.monitor.windows import DAY_US, DayStats, DayTable


def days_of(
    losses: list[float] | np.ndarray, first: int = 0, labelled: int = 200, **more: float
) -> list[DayStats]:
    return [
        DayStats(
            day=f"day {first + i}", number=first + i, n=labelled, labelled=labelled, waiting=0, expired=0,
            log_loss=float(loss), **more,
        )
        for i, loss in enumerate(losses)
    ]  # fmt: skip


def wander(days: int, likeness: float, rng: np.random.Generator, heavy: bool = False) -> np.ndarray:
    noise = rng.standard_t(3, days) if heavy else rng.standard_normal(days)
    level = noise.copy()
    for day in range(1, days):
        level[day] = likeness * level[day - 1] + np.sqrt(1 - likeness**2) * noise[day]
    return 0.5 + 0.05 * level


@pytest.mark.parametrize(("likeness", "heavy"), [(0.0, False), (0.5, False), (0.3, True)])
def test_a_month_without_change_alarms_as_rarely_as_declared(likeness: float, heavy: bool) -> None:
    """10 % of months declared; 120 months, so up to 18 % may be seen (three standard errors)."""
    rng, fired = np.random.default_rng(17), 0
    for _ in range(120):
        losses = wander(28 + 21 + 29, likeness, rng, heavy)
        days = days_of(losses)
        fired += any(
            trailing_alarm(days[28 : 28 + 21 + look], days[:28], 21, 0.1).fell for look in range(0, 30)
        )
    assert fired <= 0.18 * 120


def test_a_lasting_loss_is_found() -> None:
    rng, found = np.random.default_rng(18), 0
    for _ in range(50):
        days = days_of(wander(28 + 60, 0.3, rng) + np.where(np.arange(88) >= 58, 0.08, 0.0))
        found += bool(trailing_alarm(days[28:], days[:28], 21, 0.1).fell)
    assert found >= 45


def test_one_storm_day_does_not_make_a_bad_month() -> None:
    rng = np.random.default_rng(19)
    losses = wander(60, 0.2, rng)
    calm = trailing_alarm(days_of(losses)[28:], days_of(losses)[:28], 21, 0.1)
    losses[-5] += 3.0
    storm = trailing_alarm(days_of(losses)[28:], days_of(losses)[:28], 21, 0.1)
    assert (calm.fell, storm.fell) == (False, False)
    assert storm.statistic is not None
    assert calm.statistic is not None
    assert storm.statistic - calm.statistic < 1.0


def test_the_alarm_explains_itself() -> None:
    days = days_of(np.r_[np.tile([0.5, 0.52, 0.48, 0.51], 7), np.full(21, 0.7)])
    alarm = trailing_alarm(days[28:], days[:28], 21, 0.1)
    assert alarm.fell
    assert (alarm.days, alarm.reference_days, alarm.since, alarm.until) == (21, 28, "day 28", "day 48")
    assert alarm.statistic is not None
    assert alarm.threshold is not None
    assert alarm.statistic > alarm.threshold
    assert "log_loss 0." in alarm.because
    assert msgspec.json.decode(msgspec.json.encode(alarm), type=Alarm) == alarm


def test_not_enough_data_is_neither_good_nor_bad() -> None:
    days = days_of(np.full(60, 0.5))
    few_reference = trailing_alarm(days[28:], days[:5], 21, 0.1)
    assert (few_reference.fell, few_reference.because) == (
        None,
        "not enough data: 5 reference days, 10 are needed",
    )
    few_days = trailing_alarm(days_of(np.full(21, 0.5), labelled=3), days[:28], 21, 0.1)
    assert (few_days.fell, few_days.because) == (None, "not enough data: 0 of 21 days have 20 labels")
    assert trailing_alarm([], days[:28], 21, 0.1).fell is None


def test_days_that_never_vary_do_not_alarm_until_they_change() -> None:
    still = days_of(np.full(49, 0.5))
    assert trailing_alarm(still[28:], still[:28], 21, 0.1).fell is False
    moved = days_of(np.r_[np.full(28, 0.5), np.full(21, 0.6)])
    assert trailing_alarm(moved[28:], moved[:28], 21, 0.1).fell is True


def test_any_figure_of_a_day_can_be_watched_on_both_sides() -> None:
    rng = np.random.default_rng(20)
    reference, now = days_of(np.zeros(28)), days_of(np.zeros(21), first=28)
    gaps = {one.number: g for one, g in zip([*reference, *now], rng.normal(0, 0.02, 49), strict=True)}

    def shifted(one: DayStats) -> float:
        return gaps[one.number] - (0.1 if one.number >= 28 else 0.0)

    assert trailing_alarm(now, reference, 21, 0.1, metric=shifted, both_sides=True).fell
    assert not trailing_alarm(now, reference, 21, 0.1, metric=shifted).fell


def test_a_rate_that_means_nothing_is_refused() -> None:
    with pytest.raises(Invalid):
        trailing_alarm([], [], 21, 0.0)


def test_a_storm_is_a_shock_and_a_season_is_not() -> None:
    rng = np.random.default_rng(21)
    rates = 0.2 + 0.05 * rng.standard_normal(60) + np.linspace(0, 0.1, 60)
    rates[40] = 0.79
    days = [
        msgspec.structs.replace(one, mean_actual=float(np.clip(rate, 0.01, 0.99)))
        for one, rate in zip(days_of(np.full(60, 0.5)), rates, strict=True)
    ]
    found = shocks(days)
    assert [one.number for one in found] == [40]
    assert found[0].value == pytest.approx(0.79)
    assert found[0].typical < 0.35
    assert shocks(days[:6]) == []


def test_a_day_that_still_waits_for_most_of_its_labels_says_nothing_yet() -> None:
    days = [msgspec.structs.replace(one, mean_actual=0.2) for one in days_of(np.full(30, 0.5))]
    open_day = msgspec.structs.replace(days[-1], mean_actual=0.9, n=800, waiting=600)
    assert shocks([*days[:-1], open_day]) == []
    assert [one.number for one in shocks([*days[:-1], open_day], min_coverage=0.2)] == [29]


def test_days_with_few_labels_shock_no_one() -> None:
    days = [msgspec.structs.replace(one, mean_actual=0.2, labelled=200) for one in days_of(np.full(30, 0.5))]
    days[-1] = msgspec.structs.replace(days[-1], mean_actual=0.3, labelled=20)  # six of twenty, by chance
    assert shocks(days) == []


def test_quality_of_a_window_comes_with_intervals_and_coverage() -> None:
    rng, table = np.random.default_rng(22), DayTable()
    for day in range(10):
        for row in range(60):
            p, at = float(rng.beta(2, 5)), day * DAY_US + row
            table.add(f"{day}-{row}", at, p)
            if row % 3:
                table.label(f"{day}-{row}", float(rng.random() < p), at + 5)
    found = quality(table.window(10 * DAY_US))
    assert (found.n, found.labelled, found.coverage) == (600, 400, pytest.approx(2 / 3))
    assert found.auc.mean is not None
    assert found.auc.low is not None
    assert 0.5 < found.auc.low < found.auc.mean
    assert found.calibration_gap.low is not None
    assert found.calibration_gap.high is not None
    assert found.calibration_gap.low < 0 < found.calibration_gap.high


def test_quality_without_labels_says_so() -> None:
    table = DayTable()
    table.add("p", 0, 0.5)
    found = quality(table.window(1))
    assert (found.auc.mean, found.log_loss.mean, found.brier) == (None, None, None)
    assert found.because == "none of 1 predictions has a label yet"
