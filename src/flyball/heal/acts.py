"""A decision carried out, once: written before it acts, one transaction when it changes what serves, safe to repeat.

``Hands`` is all that acting needs from outside; a dry run decides and records, and lets them rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec

from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.core.records import Decision, ModelVersion, Report, Route, Run
from flyball.errors import Conflict, FlyballError, Refused
from flyball.heal import traffic
from flyball.models.timeline import was_champion
from flyball.stores.metadata import Ledger

log = logging.getLogger(__name__)
GOVERNOR = "governor"


class Hands(Protocol):
    """What acting needs: publishing the plan, and running a pipeline."""

    def publish(self) -> None: ...

    def train(self, pipeline: str, params: dict[str, Any], because: str) -> Run:
        """Run (or resume) the run of ``because``; returns it when it has ended, refused or done."""
        ...

    def tripped(self, endpoint: str) -> str:
        """The candidate that a worker's breaker has cut off at this endpoint, or ""."""
        ...

    def tidy(self, cursor: dict[str, int]) -> None:
        """Hand closed log segments over to tables, but for what ``cursor`` says has not been read."""
        ...


def decide(
    ledger: Ledger,
    *,
    policy: str,
    subject: str,
    action: str,
    arguments: dict[str, Any],
    because: str,
    evidence: dict[str, Any],
    at: datetime,
) -> Decision:
    """Write a decision with its evidence. Nothing has been done yet."""
    decision = Decision(
        id=new_id("dec", at),
        at=at,
        policy=policy,
        subject=subject,
        action=action,
        arguments=arguments,
        because=because,
        evidence=evidence,
    )
    with ledger.transaction() as tx:
        tx.append("decision.made", subject, actor=GOVERNOR, at=at, sets=[("decision", decision.id, decision)])
    log.info("decided %s on %s: %s", action, subject, because)
    return decision


def unfinished(ledger: Ledger) -> list[Decision]:
    """Decisions that were made and whose act is not known to be done: a killed governor's, oldest first."""
    return [one for one in ledger.ls("decision", Decision) if one.state == "decided"]


def carry_out(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    """Do what was decided and record what came of it; doing it again finds it done."""
    act = _ACTS.get(decision.action)
    if act is None:
        return close(ledger, decision, "failed", {"because": f"no act is called {decision.action}"}, at)
    try:
        return act(ledger, decision, hands, at)
    except FlyballError as error:
        log.warning("%s on %s failed: %s", decision.action, decision.subject, error.what)
        return close(ledger, decision, "failed", error.as_json(), at)


def close(ledger: Ledger, decision: Decision, state: Any, outcome: dict[str, Any], at: datetime) -> Decision:
    """Write what came of a decision."""
    done = msgspec.structs.replace(decision, state=state, outcome=outcome)
    with ledger.transaction() as tx:
        tx.append(
            f"decision.{state}", decision.subject, actor=GOVERNOR, at=at, sets=[("decision", done.id, done)]
        )
    return done


def _reroute(
    ledger: Ledger, decision: Decision, hands: Hands, at: datetime, next_route: Callable[[Route], Route]
) -> Decision:
    """Route, aliases and "done" in one transaction, from the route that was decided upon; then the plan."""
    endpoint = decision.subject
    to = decision.arguments.get("to")
    back = decision.action == "rollback" and (to is None or was_champion(ledger, endpoint, to))
    with ledger.transaction() as tx:
        now = traffic.expect(tx, endpoint, decision.arguments["generation"])
        route = next_route(now)
        sets = traffic.changes(tx, route, at=at, going_back=back)
        generation = sets[0][2].generation
        done = msgspec.structs.replace(decision, state="done", outcome={"generation": generation})
        tx.append(
            f"route.{decision.action}",
            endpoint,
            actor=GOVERNOR,
            at=at,
            sets=[*sets, ("decision", done.id, done)],
            edges=[Edge(f"{endpoint}#{generation}", decision.id, "decided by")],
        )
    try:
        hands.publish()
    except FlyballError as error:  # it is decided and done; the governor publishes again at its next look
        log.warning("the plan of %s is not published yet: %s", endpoint, error.what)
    return done


def _canary(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    model, share = decision.arguments["model"], decision.arguments["share"]
    if decision.action == "canary.start":
        version = ledger.get("model", model, ModelVersion)
        gate = ledger.find("report", version.gate, Report) if version.gate is not None else None
        if gate is None or not gate.passed:
            raise Refused(
                f"{model} has passed no gate", "only a person may let it in: flyball deploy … --canary"
            )

    def next_route(now: Route) -> Route:
        return traffic.with_candidate(now, model, share, at=at, because=decision.id)

    return _reroute(ledger, decision, hands, at, next_route)


def _promote(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    def next_route(now: Route) -> Route:
        if now.candidate is None or now.candidate.model != decision.arguments["model"]:
            raise Conflict(f"{decision.arguments['model']} is not the candidate any more", "decide again")
        return traffic.champion_only(now.endpoint, now.candidate.model, at=at, because=decision.id)

    return _reroute(ledger, decision, hands, at, next_route)


def _rollback(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    def next_route(now: Route) -> Route:
        to = decision.arguments.get("to") or now.champion
        return traffic.champion_only(now.endpoint, to, at=at, because=decision.id)

    return _reroute(ledger, decision, hands, at, next_route)


def _retrain(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    run = hands.train(decision.arguments["pipeline"], decision.arguments["params"], decision.id)
    made = [one.ref for one in ledger.ls("model", ModelVersion) if one.run == run.id]
    outcome = {"run": run.id, "status": run.status, "registered": made, "error": run.error}
    return close(ledger, decision, "done" if run.status in ("done", "refused") else "failed", outcome, at)


def _record_only(ledger: Ledger, decision: Decision, hands: Hands, at: datetime) -> Decision:
    return close(ledger, decision, "done", {}, at)


_ACTS: dict[str, Callable[[Ledger, Decision, Hands, datetime], Decision]] = {
    "canary.start": _canary,
    "canary.ramp": _canary,
    "promote": _promote,
    "rollback": _rollback,
    "retrain": _retrain,
    "quarantine": _record_only,
    "hold": _record_only,
}
