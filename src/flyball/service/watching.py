"""Whether features are as young, as complete and as true as they should be: on request, and all the time.

The governor's process looks beside its own work (:class:`FeatureWatch`): a sample of what was served since the last
look is recomputed offline, and the newest row of every view is held against the age that it declares. What is wrong
opens an incident, what is right again closes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Report
from flyball.errors import FlyballError, NotFound
from flyball.service.skew import Skew, compared, moment, serving_of, sources_of
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.definitions import View
    from flyball.monitor.freshness import Freshness

log = logging.getLogger(__name__)
_WATCH = "governor"


class Freshnesses(msgspec.Struct, frozen=True):
    """The age of every view's newest row; exit 1 when one is older than it may be."""

    views: list[Freshness]

    @property
    def result(self) -> list[Freshness]:
        return self.views

    @property
    def exit_code(self) -> int:
        return 0 if all(one.fresh for one in self.views) else 1

    def as_text(self) -> str:
        """For people: one line a view, the stalest first."""
        return "\n".join(said(one) for one in self.views) or "no view is defined"


@verb("features freshness", reads=True)
def freshness(*, ws: Workspace = CURRENT) -> Freshnesses:
    """Show how old the newest row of each view is, against its fresh_s (or its ttl); exit 1 when one is too old."""
    from flyball.service.features import views

    return Freshnesses(ages(ws, list(views(ws).values()), ws.clock.now()))


def ages(ws: Workspace, views: Sequence[View], now: datetime) -> list[Freshness]:
    """The newest row known by ``now`` of each view's source, by view; the stalest first."""
    from flyball.monitor.freshness import freshness as judge

    limits = {
        view.name: float(limit)
        for view in views
        if (limit := view.ttl_s if view.fresh_s is None else view.fresh_s) is not None
    }
    return judge({view.name: _newest(ws, view, now) for view in views}, limits, now)


def _newest(ws: Workspace, view: View, now: datetime) -> datetime | None:
    import polars as pl

    try:
        rows = sources_of(ws, [view])[view.source].lazy()
    except NotFound:
        return None  # nothing has ever come
    clocks = [
        pl.col(name).cast(pl.Datetime("us")) if rows.collect_schema()[name] == pl.Date else pl.col(name)
        for name in (view.happened, view.known)
    ]
    zone = getattr(rows.select(clocks[1]).collect_schema()[view.known], "time_zone", None)
    by_now = pl.lit(now if zone else now.replace(tzinfo=None))
    newest: datetime | None = rows.filter(clocks[1] <= by_now).select(clocks[0].max()).collect().item()
    return newest if newest is None or newest.tzinfo else newest.replace(tzinfo=now.tzinfo)


def said(one: Freshness) -> str:
    """One view's freshness in words."""
    if one.age_s is None:
        return f"{one.view}: nothing has ever come"
    limit = "no limit declared" if one.limit_s is None else f"may be {timedelta(seconds=one.limit_s)}"
    return f"{one.view}: {timedelta(seconds=round(one.age_s))} old, {limit}{'' if one.fresh else ': STALE'}"


@verb("features coverage", reads=True)
def coverage(endpoint: str, since: str = "24h", *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show, by feature, the share of an endpoint's predictions that had a value, and how old those values were.

    --since 24h, or a time. Ages are from when the newest row that entered a value happened to the request.
    """
    import polars as pl

    _, vector = serving_of(ws, endpoint)
    names = vector.service.features
    rows = ws.predictions.scan(endpoint, moment(ws, since))
    rows = rows.filter(pl.col("features").list.len() == len(names))
    found = []
    for i, name in enumerate(names):
        values = rows["features"].list.get(i)
        age = (rows["at_us"] - rows["times_us"].list.get(i, null_on_oob=True)) / 1e6
        found.append(
            {
                "feature": name,
                "predictions": rows.height,
                "present": None if not rows.height else 1.0 - values.null_count() / rows.height,
                "age_median_s": age.median(),
                "age_p95_s": age.quantile(0.95),
            }
        )
    return sorted(found, key=lambda row: (row["present"] is None, row["present"]))


class FeatureWatch:
    """Looks at what was served since the last look, in a thread of its own; one look at a time."""

    def __init__(self, ws: Workspace) -> None:
        from flyball.heal.policy import load_policy

        self._ws = ws
        self._policy = load_policy(ws.settings.path(ws.config.govern.policy)).features
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="features")
        self._looking: Future[None] | None = None
        self._looked: datetime | None = None

    def look_beside(self) -> None:
        """Begin a look when one is due and none is under way."""
        now, every_s = self._ws.clock.now(), self._policy.skew_every_s
        due = self._looked is None or (now - self._looked).total_seconds() >= every_s
        if every_s > 0 and due and (self._looking is None or self._looking.done()):
            self._looking = self._pool.submit(self._look_safely, now)

    def close(self) -> None:
        """Wait for the look under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _look_safely(self, now: datetime) -> None:
        try:
            self.look(now)
        except FlyballError as error:
            log.warning("features were not looked at: %s; %s", error.what, error.hint)
        except Exception:
            log.exception("features were not looked at")

    def look(self, now: datetime) -> list[Report]:
        """Recompute a sample of each endpoint's predictions since the last look, and see how old every view is."""
        since = self._looked or now - timedelta(seconds=self._policy.skew_every_s)
        self._looked = now
        found = []
        for name, endpoint in self._ws.plan.endpoints.items():
            if endpoint.service is not None:
                rows = self._ws.predictions.scan(name, since, now)
                result = compared(self._ws, name, rows, self._policy.skew_sample)
                if result.rows:
                    found.append(self._report(name, result, since, now))
        return [*found, *self._ages(now)]

    def _report(self, endpoint: str, result: Skew, since: datetime, now: datetime) -> Report:
        causes = ", ".join(
            dict.fromkeys(f"{one.feature}: {one.likely_cause}" for one in result.mismatches[:5])
        )
        report = Report(
            id=new_id("rep", now),
            kind="skew",
            subject=endpoint,
            at=now,
            passed=not result.mismatches,
            summary=f"{result.rows} predictions recomputed, {len(result.mismatches)} features differ"
            + (f" ({causes})" if causes else ""),
            evidence=msgspec.to_builtins(result, enc_hook=str),
            since=since,
            until=now,
        )
        self._keep(report, "feature_skew")
        return report

    def _ages(self, now: datetime) -> list[Report]:
        """A report for each view whose freshness has changed since the last report on it."""
        from flyball.heal.incidents import open_of
        from flyball.service.features import live_views

        found = []
        for one in ages(self._ws, live_views(self._ws), now):
            stale = bool(open_of(self._ws.ledger, "stale_features", one.view))
            if one.limit_s is None or stale != one.fresh:  # nothing was declared, or nothing is new
                continue
            report = Report(
                id=new_id("rep", now), kind="freshness", subject=one.view, at=now, passed=one.fresh,
                summary=said(one), evidence=msgspec.to_builtins(one, enc_hook=str),
            )  # fmt: skip
            self._keep(report, "stale_features")
            found.append(report)
        return found

    def _keep(self, report: Report, cause: str) -> None:
        """The report in the ledger, and the incident that it opens or closes."""
        from flyball.heal.incidents import close_incident, open_incident, open_of

        ledger, at = self._ws.ledger, report.at
        with ledger.transaction() as tx:
            sets = [("report", report.id, report)]
            tx.append(f"{report.kind}.looked", report.subject, actor=_WATCH, at=at, sets=sets)
        if not report.passed:
            evidence = {"report": report.id}
            open_incident(
                ledger, cause, report.subject, report.summary, at=at, actor=_WATCH, evidence=evidence
            )
        else:
            for incident in open_of(ledger, cause, report.subject):
                close_incident(ledger, incident, report.summary, at=at, actor=_WATCH)
