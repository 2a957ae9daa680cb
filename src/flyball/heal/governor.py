"""The governor: looks at the log and the ledger, decides by policy, writes each decision down, then acts.

Level-triggered (``docs/decisions/003-level-triggered-governor.md``): every look starts from what is, so a governor that was
killed and started again goes on where the ledger says. One look costs what is new in the log, not what is in it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec

from flyball.core.events import Event
from flyball.core.records import Alias, Decision, Incident, ModelVersion, Report, Route
from flyball.heal import acts, consent, traffic
from flyball.heal.canary import Trial, Verdict
from flyball.heal.causes import Diagnosis
from flyball.heal.incidents import close_incident, open_incident, open_of
from flyball.heal.policy import Policy
from flyball.heal.watch import Watch
from flyball.models.refs import kin_of, resolve
from flyball.monitor.drift import Baseline
from flyball.monitor.windows import DayStats
from flyball.stores.metadata import Ledger
from flyball.stores.prediction_log import Record, Tail

log = logging.getLogger(__name__)
_DRY = "dry run"


class History(Protocol):
    """Where the records are that the log has handed over to tables."""

    def records(self, endpoint: str, since: datetime) -> Iterable[Record]: ...


class Governor:
    """Keeps one endpoint well. ``tell`` is called with every decision, once it has been carried out.

    ``refused`` says why workers would not load a version, or "".
    """

    def __init__(
        self,
        ledger: Ledger,
        policy: Policy,
        hands: acts.Hands,
        log_dir: Path,
        history: History | None = None,
        *,
        tell: Callable[[Decision], None] | None = None,
        refused: Callable[[str], str] | None = None,
        background: bool = False,
    ) -> None:
        self.ledger = ledger
        self.policy = policy
        self._hands = hands
        self._tail = Tail(log_dir)
        self._history = history
        self._tell = tell or (lambda _decision: None)
        self._refused = refused or (lambda _ref: "")
        self._trial: Trial | None = None
        self._kept: list[
            Record
        ] = []  # records of the candidate's time, should its trial have to be begun anew
        self.watch = Watch(policy)
        self._training: Future[Decision] | None = None
        # Rolling back never waits for training, so training has a thread of its own in a live governor.
        self._pool = ThreadPoolExecutor(1, "training") if background else None

    def start(self, now: datetime) -> None:
        """Finish what a governor before us decided, put the plan in force, and read what has happened so far."""
        for decision in acts.unfinished(self.ledger):
            if self.policy.dry_run or decision.policy == _DRY:
                acts.close(self.ledger, decision, "done", {"dry_run": True}, now)
                continue
            log.info("finishing %s on %s", decision.action, decision.subject)
            self._carry_out(decision, now)
        self._hands.publish()
        route = self.ledger.find("route", self.policy.endpoint, Route)
        if route is None or self._history is None:
            return
        since = now - timedelta(days=90)
        past = list(self._history.records(self.policy.endpoint, min(since, route.set_at)))
        self.watch.feed(past)
        self._kept = past

    def tick(self, now: datetime) -> None:
        """One look: the candidate first, then whoever waits to be let in, then the champion's quality."""
        self._hands.publish()  # what was committed and not published, by whoever was killed in between
        new = self._tail.read()
        kept, self._kept = self._kept, []  # only a trial that was under way before we started needs them
        self.watch.feed(new)
        route = self.ledger.find("route", self.policy.endpoint, Route)
        if route is None:
            return
        if route.candidate is not None:
            self._try(route, [*kept, *new], now)
        else:
            self._trial = None
            consent.forget(self.ledger, at=now, actor=acts.GOVERNOR)
            self._let_in(route, now)
        self._look_at_champion(now)

    def _try(self, route: Route, new: list[Record], now: datetime) -> None:
        """The candidate in the route: its evidence so far, and what follows from it."""
        assert route.candidate is not None
        if self._trial is None or self._trial.candidate != route.candidate.model:
            self._trial = Trial(route, self.policy.canary, self._let_in_at(route))
        self._trial.feed(new)
        verdict = self._trial.judge(route, now)
        if self._hands.tripped(route.endpoint) == route.candidate.model and verdict.kind != "harm":
            # A worker's breaker is a test at level alpha of its own; after it no request brings more evidence.
            verdict = Verdict("harm", f"a worker's breaker cut it off: {verdict.because}", verdict.evidence)
        arguments: dict[str, Any] = {"model": route.candidate.model, "generation": route.generation}
        if verdict.kind == "harm":
            name = route.candidate.model
            because = f"{name}: {verdict.because}"
            consent.close(self.ledger, name, "it was sent away", at=now, actor=acts.GOVERNOR)
            if self._decide("rollback", route.endpoint, arguments, because, verdict.evidence, now):
                open_then_close(self.ledger, "bad_release", name, verdict.because, verdict.evidence, now)
        elif verdict.kind == "safe" and (roles := consent.wanting(self.ledger, route.candidate.model)):
            self._wait(route, route.candidate.model, roles, verdict, now)
        elif verdict.kind == "safe":
            name = route.candidate.model
            consent.close(self.ledger, name, "approved", at=now, actor=acts.GOVERNOR)
            self._decide(
                "promote", route.endpoint, arguments, f"{name}: {verdict.because}", verdict.evidence, now
            )
        elif verdict.kind == "ramp":
            arguments["share"] = verdict.share
            self._decide("canary.ramp", route.endpoint, arguments, verdict.because, verdict.evidence, now)
        elif verdict.kind == "overdue" and not open_of(self.ledger, "undecided_canary", route.endpoint):
            self._decide("hold", route.endpoint, arguments, verdict.because, verdict.evidence, now)
            open_incident(
                self.ledger,
                "undecided_canary",
                route.endpoint,
                verdict.because,
                at=now,
                actor=acts.GOVERNOR,
                evidence=verdict.evidence,
            )

    def _wait(self, route: Route, ref: str, roles: tuple[str, ...], verdict: Verdict, now: datetime) -> None:
        """The evidence is in and people are not: that is said once, and the candidate keeps its share."""
        if consent.is_said(self.ledger, ref):
            return
        because = f"{ref}: {verdict.because}; not approved by {', '.join(roles)}"
        evidence = {**verdict.evidence, "missing": list(roles)}
        arguments = {"model": ref, "generation": route.generation}
        self._decide("hold", route.endpoint, arguments, because, evidence, now)
        consent.say(self.ledger, ref, because, at=now, actor=acts.GOVERNOR, evidence=evidence)

    def _let_in_at(self, route: Route) -> datetime:
        """When this candidate first entered the route: ramping does not begin its trial anew."""
        assert route.candidate is not None
        first = route.set_at
        for event in reversed(self._route_events(route.endpoint)):
            arms = _arms_of(event)
            if not any(arm["role"] == "candidate" and arm["model"] == route.candidate.model for arm in arms):
                break
            first = event.at
        return first

    def _route_events(self, endpoint: str) -> list[Event]:
        return [one for one in self.ledger.events(kind="route.", subject=endpoint) if one.subject == endpoint]

    def _let_in(self, route: Route, now: datetime) -> None:
        """Start the canary of a challenger that passed its gate and was never let in."""
        family = kin_of(self.ledger, route.champion)
        alias = self.ledger.find("alias", f"{family}@challenger", Alias)
        if alias is None:
            return
        version = resolve(self.ledger, f"{family}@{alias.number}")
        if version.ref == route.champion or version.gate is None or self._was_let_in(version.ref):
            return
        gate = self.ledger.get("report", version.gate, Report)
        if not gate.passed:
            return
        why = self._refused(version.ref)
        if consent.stays_out(self.ledger, version.ref, why, at=now, actor=acts.GOVERNOR):
            return
        share = self.policy.canary.ramp[0]
        self._decide(
            "canary.start",
            route.endpoint,
            {"model": version.ref, "share": share, "generation": route.generation},
            f"{version.ref} passed its gate: {gate.summary}",
            {"gate": gate.id, "gate_evidence": gate.evidence.get("difference", {})},
            now,
        )

    def _was_let_in(self, ref: str) -> bool:
        return any(
            one.action == "canary.start"
            and one.arguments.get("model") == ref
            and one.state != "failed"
            and not one.outcome.get("dry_run")
            for one in self.ledger.ls("decision", Decision)
        )

    def _look_at_champion(self, now: datetime) -> None:
        """Once a day: shocks, quality, cause; and what the cause asks for."""
        if not self.watch.is_due(now):
            return
        self._hands.tidy(self._tail.cursor())
        route = traffic.route_of(self.ledger, self.policy.endpoint)
        shocked = {one.subject.rpartition(" ")[2]: one for one in open_of(self.ledger, "shock")}
        seen = self.watch.look(
            route.champion,
            self._serving_since(route),
            now,
            reference=self._reference(route.champion),
            inputs=self._inputs(route.champion),
            open_contracts=tuple(one.subject for one in open_of(self.ledger, "upstream_data_bug")),
            open_shocks=tuple(shocked),
        )
        for shock in seen.shocks:
            because = f"{shock.value:.0%} on {shock.day}, {shock.typical:.0%} is typical: {shock.sigmas:+.1f} robust sigmas"
            self._open("shock", f"{route.endpoint} {shock.day}", because, msgspec.to_builtins(shock), now)
        for day in seen.over:
            close_incident(
                self.ledger, shocked[day], "the days after were as before", at=now, actor=acts.GOVERNOR
            )
        with self.ledger.transaction() as tx:
            sets = [("report", seen.report.id, seen.report)]
            tx.append("monitor.reported", route.endpoint, actor="monitor", at=now, sets=sets)
        self._keep_incidents(route, seen.diagnosis, seen.evidence, now)
        if seen.diagnosis.action == "retrain" and route.candidate is None:
            self._retrain(route, seen.diagnosis.cause, seen.diagnosis.because, seen.evidence, now)

    def _keep_incidents(
        self, route: Route, found: Diagnosis, evidence: dict[str, Any], now: datetime
    ) -> None:
        """A failing machinery or a label fault is an incident for as long as it is seen; it never trains anything."""
        for cause in ("infrastructure", "label_bug"):
            if found.cause == cause:
                open_incident(
                    self.ledger,
                    cause,
                    route.endpoint,
                    found.because,
                    at=now,
                    actor=acts.GOVERNOR,
                    evidence=finite(evidence),
                )
            else:
                for incident in open_of(self.ledger, cause, route.endpoint):
                    close_incident(self.ledger, incident, "not seen any more", at=now, actor=acts.GOVERNOR)

    def _open(self, cause: str, subject: str, because: str, evidence: dict[str, Any], now: datetime) -> None:
        """Open an incident once: a day that was a shock stays one, however often it is looked at."""
        if any(one.cause == cause and one.subject == subject for one in self.ledger.ls("incident", Incident)):
            return
        open_incident(
            self.ledger, cause, subject, because, at=now, actor=acts.GOVERNOR, evidence=finite(evidence)
        )

    def _inputs(self, ref: str) -> tuple[Baseline, tuple[str, ...]] | None:
        """What the inputs of a version looked like when it learned, and their names in order."""
        version = self.ledger.get("model", ref, ModelVersion)
        gate = self.ledger.find("report", version.gate, Report) if version.gate else None
        found = (gate.evidence if gate else {}).get("inputs")
        if not found:
            return None
        return msgspec.convert(found, Baseline), tuple(field.name for field in version.signature.inputs)

    def _reference(self, ref: str) -> list[DayStats]:
        """The out-of-sample days that were kept with a version's gate."""
        version = self.ledger.get("model", ref, ModelVersion)
        gate = self.ledger.find("report", version.gate, Report) if version.gate else None
        return msgspec.convert((gate.evidence if gate else {}).get("reference", []), list[DayStats])

    def _serving_since(self, route: Route) -> datetime:
        """When the present champion became champion."""
        since = route.set_at
        for event in reversed(self._route_events(route.endpoint)):
            arms = _arms_of(event)
            if not any(arm["role"] == "champion" and arm["model"] == route.champion for arm in arms):
                break
            since = event.at
        return since

    def _retrain(
        self, route: Route, cause: str, because: str, evidence: dict[str, Any], now: datetime
    ) -> None:
        policy = self.policy.retrain
        held = self.held_back(now)
        if not policy.pipeline or held:
            log.info("no retraining of %s: %s", route.endpoint, held or "the policy names no pipeline")
            return
        params = {**policy.params, policy.time_parameter: now.isoformat()}
        self._decide(
            "retrain",
            route.endpoint,
            {"pipeline": policy.pipeline, "params": params, "cause": cause, "model": route.champion},
            f"{cause}: {because}",
            evidence,
            now,
        )

    def held_back(self, now: datetime) -> str:
        """Why no retraining may begin now, or "": cool-down (doubling after each refusal), budget, repeated refusals."""
        policy = self.policy.retrain
        if self._training is not None and not self._training.done():
            return "one is running"
        made = [
            one
            for one in self.ledger.ls("decision", Decision)
            if one.action == "retrain" and not one.outcome.get("dry_run")
        ]
        if not made:
            return ""
        # A person who closes the incident lets it go on; a run that failed was not refused by any gate.
        stops = [one for one in self.ledger.ls("incident", Incident) if one.cause == "retraining_stopped"]
        since = max((one.closed for one in stops if one.closed is not None), default=None)
        refused = 0
        for one in reversed(made):
            if one.outcome.get("registered") or (since is not None and one.at <= since):
                break
            refused += one.state == "done"
        if refused >= policy.stop_after_refusals:
            self._tell_a_person(refused, now)
            return f"the last {refused} challengers were refused; a person was told"
        pause = timedelta(days=policy.cool_down_days * 2**refused)
        if now - made[-1].at < pause:
            return f"the cool-down ends at {made[-1].at + pause:%Y-%m-%d %H:%M}"
        if sum(now - one.at < timedelta(days=365) for one in made) >= policy.budget:
            return f"the budget of {policy.budget} retrainings a year is spent"
        return ""

    def _tell_a_person(self, refused: int, now: datetime) -> None:
        because = f"the last {refused} challengers were refused by the gate; retraining has stopped"
        open_incident(
            self.ledger,
            "retraining_stopped",
            self.policy.endpoint,
            because,
            at=now,
            actor=acts.GOVERNOR,
            evidence={},
        )

    def _decide(
        self,
        action: str,
        subject: str,
        arguments: dict[str, Any],
        because: str,
        evidence: dict[str, Any],
        now: datetime,
    ) -> bool:
        """Write a decision down and carry it out; says whether it was done, which a dry run never is."""
        if self.policy.dry_run and self._said(action, arguments):
            return False
        decision = acts.decide(
            self.ledger,
            policy=_DRY if self.policy.dry_run else "policy",
            subject=subject,
            action=action,
            arguments=arguments,
            because=because,
            evidence=finite(evidence),
            at=now,
        )
        if self.policy.dry_run:
            acts.close(self.ledger, decision, "done", {"dry_run": True}, now)
            return False
        return self._carry_out(decision, now)

    def _said(self, action: str, arguments: dict[str, Any]) -> bool:
        """Whether a dry run has said this before: what it would do does not come about, so it would say it for ever."""
        return any(
            one.action == action and {**one.arguments, "params": 0} == {**arguments, "params": 0}
            for one in self.ledger.ls("decision", Decision)
        )

    def _carry_out(self, decision: Decision, now: datetime) -> bool:
        def act() -> Decision:
            done = acts.carry_out(self.ledger, decision, self._hands, now)
            self._tell(done)
            return done

        if decision.action == "retrain" and self._pool is not None:
            self._training = self._pool.submit(act)
            return True
        return act().state == "done"


def open_then_close(
    ledger: Ledger, cause: str, subject: str, because: str, evidence: dict[str, Any], now: datetime
) -> None:
    """An incident that its own decision has ended: on the record, and over."""
    incident = open_incident(
        ledger, cause, subject, because, at=now, actor=acts.GOVERNOR, evidence=finite(evidence)
    )
    close_incident(ledger, incident, "rolled back", at=now, actor=acts.GOVERNOR)


def _arms_of(event: Event) -> list[dict[str, Any]]:
    """The arms of the route that an event set."""
    return next((list(one.content["arms"]) for one in event.sets if one.noun == "route" and one.content), [])


def finite(content: Any) -> Any:
    """The same with NaN and infinities as None: JSON has no words for them."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
