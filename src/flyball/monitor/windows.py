"""Predictions and their labels by the day of the *prediction*, built up as they come in.

A label arrives hours after its prediction, may be amended, may be sent twice, and may never come. So every figure
carries its coverage; what was known last wins; a prediction that has waited longer than ``expires_after_s`` waits no
more, and a label that became known later than that is counted and left out. Adding a record costs about a microsecond,
a look only what has changed since the last one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from flyball.errors import Invalid, nearest
from flyball.stats import quality

Floats = NDArray[np.float64]

DAY_US = 86_400_000_000
_EPOCH_DAY = date(1970, 1, 1).toordinal()


class DayStats(msgspec.Struct, frozen=True, kw_only=True):
    """One day of predictions. Figures about outcomes are ``None`` until a label has come."""

    day: str  # 2013-04-01
    number: int  # days since 1970: consecutive days have consecutive numbers
    n: int  # requests
    labelled: int
    waiting: int  # without a label that may still come
    expired: int  # without a label that can't come any more
    errors: int = 0
    fallbacks: int = 0
    mean_predicted: float | None = None  # of all that answered
    mean_predicted_labelled: float | None = None
    mean_actual: float | None = None  # the share late
    log_loss: float | None = None
    brier: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None

    @property
    def coverage(self) -> float:
        """Share of the day's predictions whose label has come."""
        return self.labelled / self.n if self.n else 0.0

    @property
    def closed(self) -> bool:
        """No label is waited for any more."""
        return self.waiting == 0

    @property
    def calibration_gap(self) -> float | None:
        """Mean predicted minus mean actual, over the labelled."""
        if self.mean_predicted_labelled is None or self.mean_actual is None:
            return None
        return self.mean_predicted_labelled - self.mean_actual


class Window(msgspec.Struct, frozen=True):
    """The labelled rows of some days, as arrays, and how many predictions there were in all."""

    y: Floats
    score: Floats
    day: NDArray[np.int64]
    n: int
    waiting: int
    first: str
    last: str

    @property
    def coverage(self) -> float:
        return self.y.size / self.n if self.n else 0.0


class _Day:
    """The rows of one day, appended; ``y`` is NaN while there is no label."""

    __slots__ = ("at_us", "errors", "fallbacks", "known_us", "latency_us", "score", "y")

    def __init__(self) -> None:
        self.at_us: list[int] = []
        self.score: list[float] = []
        self.y: list[float] = []
        self.known_us: list[int] = []
        self.latency_us: list[int] = []
        self.errors = self.fallbacks = 0


class DayTable:
    """Predictions joined with their labels, by day; one table for each endpoint, model or arm that is watched.

    >>> table = DayTable(expires_after_s=3 * 86_400)
    >>> table.add("p1", at_us=0, output=0.25), table.label("p1", 1.0, known_us=10), table.label("p1", 1.0, known_us=10)
    (True, True, False)
    >>> day = table.days(now_us=20)[0]
    >>> day.day, day.n, day.labelled, round(day.log_loss, 3)
    ('1970-01-01', 1, 1, 1.386)
    """

    def __init__(self, *, expires_after_s: float = 7 * 86_400.0, day_starts_s: float = 0.0) -> None:
        """``day_starts_s``: when a day begins, in seconds after midnight UTC (4 h for New York's summer)."""
        self._expires_us = int(expires_after_s * 1e6)
        self._starts_us = int(day_starts_s * 1e6)
        self._days: dict[int, _Day] = {}
        self._where: dict[str, tuple[int, int]] = {}  # id -> day, position
        self._early: dict[str, tuple[float, int]] = {}  # labels that came before their prediction was read
        self._stats: dict[int, DayStats] = {}
        self._forgotten_us = -(2**62)  # predictions before this have expired
        self.ignored_labels = 0  # known too late

    def day_of(self, at_us: int) -> int:
        """The number of the day in which this instant lies."""
        return (at_us - self._starts_us) // DAY_US

    def add(
        self,
        identifier: str,
        at_us: int,
        output: float | None,
        *,
        latency_us: int = 0,
        error: bool = False,
        fallback: bool = False,
    ) -> bool:
        """Take in a prediction; ``False`` when it was here already (an id counts once)."""
        if identifier in self._where or at_us < self._forgotten_us:
            return False
        number = self.day_of(at_us)
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = _Day()
        self._where[identifier] = (number, len(day.score))
        day.at_us.append(at_us)
        day.score.append(math.nan if output is None else output)
        day.y.append(math.nan)
        day.known_us.append(-(2**62))
        day.latency_us.append(latency_us)
        day.errors += error
        day.fallbacks += fallback
        self._stats.pop(number, None)
        if identifier in self._early:
            self.label(identifier, *self._early.pop(identifier))
        return True

    def label(self, identifier: str, y: float, known_us: int) -> bool:
        """Take in a label; ``False`` when it changes nothing: sent twice, older than what is known, or too late."""
        place = self._where.get(identifier)
        if place is None:
            early = self._early.get(identifier)
            if early is None or known_us > early[1]:
                self._early[identifier] = (y, known_us)
            return False
        day, position = self._days[place[0]], place[1]
        if known_us > day.at_us[position] + self._expires_us:
            self.ignored_labels += 1
            return False
        if known_us <= day.known_us[position]:
            return False
        day.y[position], day.known_us[position] = y, known_us
        self._stats.pop(place[0], None)
        return True

    def add_frame(self, rows: pl.DataFrame) -> None:
        """Take in a table of the prediction log: ``id, at_us, output`` and, where there, ``label, known_us, ...``.

        ``at`` and ``known`` (times) stand for ``at_us`` and ``known_us``, ``y`` for ``label``.
        """
        ids, at_us, output = (_column(rows, name) for name in ("id", "at_us", "output"))
        latency_us, error, fallback = (
            _column(rows, name, absent)
            for name, absent in (("latency_us", 0), ("error", ""), ("fallback", False))
        )
        label, known_us = _column(rows, "label", None), _column(rows, "known_us", None)
        for i, identifier in enumerate(ids):
            self.add(
                identifier,
                at_us[i],
                output[i],
                latency_us=latency_us[i],
                error=bool(error[i]),
                fallback=bool(fallback[i]),
            )
            if label[i] is not None:
                self.label(identifier, label[i], at_us[i] if known_us[i] is None else known_us[i])

    def days(self, now_us: int, first: int | None = None, last: int | None = None) -> list[DayStats]:
        """Each day with predictions, in order; days still waiting for labels are worked out again, others once."""
        self._expire(now_us)
        chosen = [number for number in sorted(self._days) if _inside(number, first, last)]
        found = []
        for number in chosen:
            stats = self._stats.get(number)
            if stats is None or stats.waiting:
                stats = self._stats[number] = self._look(number, now_us)
            found.append(stats)
        return found

    def window(self, now_us: int, days: int | None = None, *, last: int | None = None) -> Window:
        """The labelled rows of the ``days`` days that end with day ``last`` (default: the newest with predictions)."""
        if not self._days:
            nothing = np.empty(0)
            return Window(nothing, nothing, np.empty(0, dtype=np.int64), 0, 0, "", "")
        last = max(self._days) if last is None else last
        first = min(self._days) if days is None else last - days + 1
        stats = self.days(now_us, first, last)
        y, score, day = [], [], []
        for one in stats:
            rows = self._days[one.number]
            label, value = np.array(rows.y), np.array(rows.score)
            known = ~np.isnan(label) & ~np.isnan(value)
            y.append(label[known])
            score.append(value[known])
            day.append(np.full(int(known.sum()), one.number))
        together = (np.concatenate(part) if part else np.empty(0) for part in (y, score, day))
        outcome, scores, numbers = together
        n, waiting = sum(one.n for one in stats), sum(one.waiting for one in stats)
        return Window(outcome, scores, numbers.astype(np.int64), n, waiting, _iso(first), _iso(last))

    def delays_s(self) -> Floats:
        """How long each label took to become known, sorted: for :class:`flyball.monitor.delays.DelayCurve`."""
        found = [
            (known - at) / 1e6
            for day in self._days.values()
            for known, at, y in zip(day.known_us, day.at_us, day.y, strict=True)
            if not math.isnan(y)
        ]
        return np.sort(np.array(found, dtype=np.float64))

    def _look(self, number: int, now_us: int) -> DayStats:
        rows = self._days[number]
        y, score, at_us = np.array(rows.y), np.array(rows.score), np.array(rows.at_us)
        none_yet = np.isnan(y)
        waiting = int((none_yet & (at_us + self._expires_us > now_us)).sum())
        both = ~none_yet & ~np.isnan(score)
        binary = bool(((y[both] == 0.0) | (y[both] == 1.0)).all())
        latency_ms = np.array(rows.latency_us) / 1e3
        return DayStats(
            day=_iso(number),
            number=number,
            n=y.size,
            labelled=int((~none_yet).sum()),
            waiting=waiting,
            expired=int(none_yet.sum()) - waiting,
            errors=rows.errors,
            fallbacks=rows.fallbacks,
            mean_predicted=_mean(score[~np.isnan(score)]),
            mean_predicted_labelled=_mean(score[both]),
            mean_actual=_mean(y[both]),
            log_loss=_mean(quality.log_losses(y[both], score[both])) if binary else None,
            brier=_mean((score[both] - y[both]) ** 2),
            latency_p50_ms=float(np.quantile(latency_ms, 0.5)),
            latency_p99_ms=float(np.quantile(latency_ms, 0.99)),
        )

    def _expire(self, now_us: int) -> None:
        """Forget the ids of predictions whose label can't come any more, so that memory follows the label delay."""
        before_us = now_us - 2 * self._expires_us  # a label may be read some time after it became known
        if before_us < self._forgotten_us + DAY_US:
            return
        self._forgotten_us = before_us
        last = self.day_of(before_us)
        self._where = {name: place for name, place in self._where.items() if place[0] >= last}
        self._early = {name: early for name, early in self._early.items() if early[1] >= before_us}


def _column(rows: pl.DataFrame, name: str, *absent: Any) -> Sequence[Any]:
    """A column of the log by its name or its other name; the absent value in each row when there is none."""
    if name in rows.columns:
        return rows[name].to_list()
    other = {"at_us": "at", "known_us": "known", "label": "y"}.get(name)
    if other in rows.columns:
        found = rows[other]
        return (found.dt.epoch("us") if isinstance(found.dtype, pl.Datetime) else found).to_list()
    if absent:
        return list(absent) * rows.height
    raise Invalid(f"the table of predictions has no column {name!r}", nearest(name, rows.columns))


def _inside(number: int, first: int | None, last: int | None) -> bool:
    return (first is None or number >= first) and (last is None or number <= last)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if values.size else None


def _iso(number: int) -> str:
    return date.fromordinal(number + _EPOCH_DAY).isoformat()
