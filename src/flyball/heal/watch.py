"""Watch one endpoint's champion, once a day: shocks, quality and calibration against its own past, and what they mean.

A model is held against its own reference: out-of-sample days of its training (kept with its gate's report). The limit
comes from that reference's own variation in time. Every answer of a model counts, shadows included, so a challenger has
a record of its own by the time it is promoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from flyball.core.clock import to_us
from flyball.core.records import Report
from flyball.heal.causes import Diagnosis, Limits, Signals, diagnose
from flyball.heal.policy import Policy
from flyball.monitor import drift, quality
from flyball.monitor.quality import Alarm
from flyball.monitor.reports import report_of
from flyball.monitor.windows import DayStats, DayTable
from flyball.stores.prediction_log import Label, Prediction, Record, Shadow

_DAY = timedelta(days=1)


class Seen(msgspec.Struct, frozen=True):
    """What one look found."""

    diagnosis: Diagnosis
    evidence: dict[str, Any]
    shocks: tuple[quality.Shock, ...]  # days that ended a day ago or less: news
    over: tuple[str, ...]  # days that were shocks and have been followed by ordinary ones
    report: Report


class Watch:
    """Sums by model and day, fed from the log; :meth:`look` turns them into a diagnosis."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._starts_s = policy.quality.day_starts_h * 3600.0
        self._expires_s = policy.canary.label_wait_days * 86_400.0
        self._tables: dict[str, DayTable] = {}
        self._asked: dict[
            str, tuple[int, list[str]]
        ] = {}  # prediction -> when, and the models that scored it
        self._labels: dict[str, Label] = {}  # a shadow of the prediction may still come
        self._latest: date | None = None
        self._requests = self._new_table()  # every answered request of the endpoint, whoever answered
        self._inputs: list[tuple[int, list[float | None]]] = []  # when, and what the model was fed
        self._moved: drift.Drift | None = None
        self._compared: date | None = None

    def feed(self, records: Iterable[Record]) -> None:
        """Take in what is new in the log; an id counts once."""
        for record in records:
            if isinstance(record, Label):
                self._label(record)
            elif record.endpoint == self.policy.endpoint:
                self._answer(record)

    def _answer(self, record: Prediction | Shadow) -> None:
        if isinstance(record, Prediction):
            # What a candidate breaks is its own; the machinery fails when the champion does.
            failed = bool(record.error) and record.arm != "candidate"
            new = self._requests.add(
                record.id, record.at_us, record.output, latency_us=record.latency_us, error=failed
            )
            if new:
                self._inputs.append((record.at_us, record.features))
        known = self._asked.setdefault(record.id, (record.at_us, []))[1]
        if record.model in known or record.output is None:
            return
        known.append(record.model)
        table = self._table(record.model)
        table.add(record.id, record.at_us, record.output, latency_us=record.latency_us)
        label = self._labels.get(record.id)
        if label is not None:
            table.label(record.id, label.value, label.known_us)

    def _label(self, label: Label) -> None:
        self._labels[label.id] = label
        for model in self._asked.get(label.id, (0, ()))[1]:
            self._table(model).label(label.id, label.value, label.known_us)

    def _table(self, model: str) -> DayTable:
        if model not in self._tables:
            self._tables[model] = self._new_table()
        return self._tables[model]

    def _new_table(self) -> DayTable:
        return DayTable(expires_after_s=self._expires_s, day_starts_s=self._starts_s)

    def _forget(self, now_us: int) -> None:
        """Let go of what no label or shadow can come for any more; the tables keep their days' sums."""
        before = now_us - int((self._expires_s + 86_400.0) * 1e6)
        self._asked = {one: seen for one, seen in self._asked.items() if seen[0] >= before}
        self._labels = {one: label for one, label in self._labels.items() if label.known_us >= before}

    def is_due(self, now: datetime) -> bool:
        """Whether a day has ended since the last look."""
        return self._latest is None or self._day(now) > self._latest

    def _day(self, now: datetime) -> date:
        return (now - timedelta(seconds=self._starts_s)).date()

    def look(
        self,
        champion: str,
        since: datetime,
        now: datetime,
        *,
        reference: Sequence[DayStats],
        inputs: tuple[drift.Baseline, tuple[str, ...]] | None,
        open_contracts: tuple[str, ...],
        open_shocks: Sequence[str],
    ) -> Seen:
        """The state of things at the end of a day. ``since`` is when the champion took over: older days are not its own."""
        self._latest = self._day(now)
        self._forget(to_us(now))
        settings = self.policy.quality
        table = self._table(champion)
        last = table.day_of(to_us(now)) - 1  # the newest whole day
        days = table.days(to_us(now), first=last - 60, last=last)
        shocks = quality.shocks(days, sigmas=settings.shock_sigmas)
        own = _without(shocks, [one for one in days if one.number > table.day_of(to_us(since))])
        past = _without(quality.shocks(reference, sigmas=settings.shock_sigmas), reference)
        gap = quality.trailing_alarm(
            own,
            past,
            settings.window_days,
            settings.false_alarms_per_month,
            metric="calibration_gap",
            both_sides=True,
        )
        window = [one for one in own if one.number > last - settings.window_days]
        self._compare_inputs(inputs, now)
        today = self._requests.days(to_us(now), first=last, last=last)
        signals = self._signals(window, gap, shocks, today, open_contracts)
        found = diagnose(signals, self._limits())
        evidence = {
            "champion": champion,
            "calibration_gap": msgspec.to_builtins(gap),
            "inputs": self._moved.because if self._moved is not None else "not compared",
            "log_loss": _mean_of(window, "log_loss"),
            "shock_days_left_out": [one.day for one in shocks if one.number > last - settings.window_days],
            "coverage": signals.label_coverage,
            "cause": found.cause,
        }
        report = report_of(
            "quality",
            self.policy.endpoint,
            evidence,
            at=now,
            passed=not gap.fell,
            summary=f"{found.cause}: {found.because}",
            since=now - settings.window_days * _DAY,
            until=now,
        )
        return Seen(
            diagnosis=found,
            evidence={**evidence, "report": report.id},
            shocks=tuple(
                one for one in shocks if one.number >= last - 1 and one.value >= settings.shock_floor
            ),
            over=self._over(open_shocks, shocks, days, last),
            report=report,
        )

    def _compare_inputs(self, inputs: tuple[drift.Baseline, tuple[str, ...]] | None, now: datetime) -> None:
        """The last days' features against the sample the champion learned from, once in so many days."""
        days = self.policy.quality.drift_days
        since = to_us(now - days * _DAY)
        self._inputs = [one for one in self._inputs if one[0] >= since]
        today = self._day(now)
        if inputs is None or (self._compared is not None and (today - self._compared).days < days):
            return
        baseline, names = inputs
        rows = [features for _, features in self._inputs if len(features) == len(names)]
        if rows:
            self._compared = today
            matrix = np.array(rows, dtype=np.float64)
            self._moved = drift.drift(baseline, matrix, rate=self.policy.quality.drift_rate, names=names)

    def _over(
        self, open_shocks: Sequence[str], shocks: Sequence[quality.Shock], days: Sequence[DayStats], last: int
    ) -> tuple[str, ...]:
        """Open shock days after which a whole labelled day was ordinary again."""
        extreme = {one.number for one in shocks}
        calm = {
            one.number for one in days if one.number not in extreme and one.labelled and one.number <= last
        }
        numbers = {one.day: one.number for one in days}
        return tuple(day for day in open_shocks if day in numbers and any(c > numbers[day] for c in calm))

    def _signals(
        self,
        window: Sequence[DayStats],
        gap: Alarm,
        shocks: Sequence[quality.Shock],
        today: Sequence[DayStats],
        open_contracts: tuple[str, ...],
    ) -> Signals:
        settings = self.policy.quality
        asked = sum(one.n for one in window)
        labelled = sum(one.labelled for one in window)
        enough = labelled >= settings.min_labelled
        requests = sum(one.n for one in today)
        moved = self._moved
        return Signals(
            requests=requests,
            error_share=sum(one.errors for one in today) / requests if requests else 0.0,
            p99_ms=max((one.latency_p99_ms or 0.0 for one in today), default=0.0),
            inputs_moved=moved.moved if moved is not None else None,
            moved=moved.because if moved is not None else "",
            open_contracts=open_contracts,
            label_coverage=labelled / asked if asked else None,
            shock_days=tuple(one.day for one in shocks if any(one.number == day.number for day in today)),
            quality_fell=gap.fell if enough else None,
            calibration_broken=gap.fell if enough else None,
            because=gap.because,
        )

    def _limits(self) -> Limits:
        limits = self.policy.infrastructure
        return Limits(
            max_error_share=limits.max_error_share,
            max_p99_ms=limits.max_p99_ms,
            min_requests=limits.min_requests,
            min_coverage=self.policy.quality.min_coverage,
        )


def _without(shocks: Sequence[quality.Shock], days: Sequence[DayStats]) -> list[DayStats]:
    """The days that say something about drift: a storm is an incident, and says nothing about the season."""
    extreme = {one.number for one in shocks}
    return [one for one in days if one.number not in extreme]


def _mean_of(days: Sequence[DayStats], name: str) -> float | None:
    """A figure's mean over labelled rows."""
    known = [(getattr(one, name), one.labelled) for one in days if getattr(one, name) is not None]
    rows = sum(labelled for _, labelled in known)
    return sum(value * labelled for value, labelled in known) / rows if rows else None
