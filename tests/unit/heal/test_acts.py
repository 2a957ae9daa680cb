"""Decisions are written before they act, act once, and survive a kill in between."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flyball.core.clock import ManualClock
from flyball.core.records import Alias, Decision, Field, ModelVersion, Report, Route, Run, Signature
from flyball.errors import Conflict, Invalid
from flyball.heal import acts, traffic
from flyball.stores.metadata import Ledger

NOW = datetime(2013, 6, 1, tzinfo=UTC)
SIGNATURE = Signature((Field("x", "FP32"),), (Field("probability", "FP32"),))


class Hands:
    """Counts what it is asked to do."""

    def __init__(self) -> None:
        self.published = 0

    def publish(self) -> None:
        self.published += 1

    def train(self, pipeline: str, params: dict[str, Any], because: str) -> Run:
        raise AssertionError

    def tripped(self, endpoint: str) -> str:
        return ""

    def tidy(self, cursor: dict[str, int]) -> None:
        raise AssertionError


def a_ledger(folder: Path, *, gate: str | None = "rep_1") -> Ledger:
    """A champion delays@1 at the endpoint, and delays@2 registered."""
    ledger = Ledger.open(f"sqlite:///{folder}/ledger.db", ManualClock(NOW))
    with ledger.transaction() as tx:
        versions = [
            ModelVersion(
                name="delays",
                number=n,
                artifact="b3:" + "0" * 64,
                format="onnx",
                signature=SIGNATURE,
                created=NOW,
                gate=gate,
            )
            for n in (1, 2)
        ]
        passed = Report(
            id="rep_1", kind="gate", subject="delays", at=NOW, passed=True, summary="passed", evidence={}
        )
        sets = [("report", "rep_1", passed), *[("model", one.ref, one) for one in versions]]
        tx.append("model.registered", "delays", actor="x", sets=sets)
        route = traffic.champion_only("delays", "delays@1", at=NOW, because="first")
        tx.append("route.deployed", "delays", actor="x", sets=traffic.changes(tx, route, at=NOW))
    return ledger


def decide(ledger: Ledger, action: str, **arguments: Any) -> Decision:
    generation = traffic.route_of(ledger, "delays").generation
    return acts.decide(
        ledger,
        policy="policy",
        subject="delays",
        action=action,
        arguments={"generation": generation, **arguments},
        because="for a test",
        evidence={"e": 30.0},
        at=NOW,
    )


def aliases(ledger: Ledger) -> dict[str, int]:
    return {one.alias: one.number for one in ledger.ls("alias", Alias)}


def test_a_canary_that_is_promoted_becomes_the_only_champion(tmp_path: Path) -> None:
    ledger, hands = a_ledger(tmp_path), Hands()
    acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), hands, NOW)
    assert [(arm.model, arm.weight) for arm in traffic.route_of(ledger, "delays").arms] == [
        ("delays@1", 0.9),
        ("delays@2", 0.1),
    ]
    assert aliases(ledger) == {"champion": 1, "challenger": 2}
    done = acts.carry_out(ledger, decide(ledger, "promote", model="delays@2"), hands, NOW)
    assert done.state == "done"
    assert traffic.route_of(ledger, "delays").champion == "delays@2"
    assert aliases(ledger) == {"champion": 2}
    assert hands.published == 2


def test_a_rollback_sends_the_candidate_away_and_takes_its_alias(tmp_path: Path) -> None:
    ledger, hands = a_ledger(tmp_path), Hands()
    acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), hands, NOW)
    acts.carry_out(ledger, decide(ledger, "rollback", model="delays@2"), hands, NOW)
    route = traffic.route_of(ledger, "delays")
    assert (route.champion, route.candidate) == ("delays@1", None)
    assert aliases(ledger) == {"champion": 1}


def test_a_decision_about_a_route_that_changed_meanwhile_fails_and_changes_nothing(tmp_path: Path) -> None:
    ledger, hands = a_ledger(tmp_path), Hands()
    acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), hands, NOW)
    stale = decide(ledger, "promote", model="delays@2")
    acts.carry_out(ledger, decide(ledger, "rollback", model="delays@2"), hands, NOW)
    failed = acts.carry_out(ledger, stale, hands, NOW)
    assert failed.state == "failed"
    assert failed.outcome["error"] == "Conflict"
    assert traffic.route_of(ledger, "delays").champion == "delays@1"


def test_a_version_without_a_gate_is_not_let_in(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path, gate=None)
    failed = acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), Hands(), NOW)
    assert (failed.state, failed.outcome["error"]) == ("failed", "Refused")
    assert traffic.route_of(ledger, "delays").candidate is None


def test_a_version_whose_gate_said_no_is_not_let_in(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    refused = Report(
        id="rep_1", kind="gate", subject="delays", at=NOW, passed=False, summary="no", evidence={}
    )
    with ledger.transaction() as tx:
        tx.append("gate.refused", "delays", actor="x", sets=[("report", "rep_1", refused)])
    failed = acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), Hands(), NOW)
    assert (failed.state, failed.outcome["error"]) == ("failed", "Refused")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    route = traffic.champion_only("delays", "delays@1", at=NOW, because="")
    with pytest.raises(Invalid, match="between 0 and 1"):
        traffic.with_candidate(route, "delays@2", share, at=NOW, because="")


def test_a_champion_is_not_its_own_candidate() -> None:
    route = traffic.champion_only("delays", "delays@1", at=NOW, because="")
    with pytest.raises(Invalid, match="champion of delays already"):
        traffic.with_candidate(route, "delays@1", 0.1, at=NOW, because="")


def test_the_projection_of_routes_is_rebuilt_from_events(tmp_path: Path) -> None:
    ledger = a_ledger(tmp_path)
    acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), Hands(), NOW)
    before = ledger.get("route", "delays", Route), aliases(ledger), ledger.ls("decision", Decision)
    ledger.rebuild()
    assert (ledger.get("route", "delays", Route), aliases(ledger), ledger.ls("decision", Decision)) == before


@pytest.mark.parametrize("moment", ["before the act", "after the act"])
def test_a_governor_killed_around_its_act_ends_after_restart_with_exactly_one_champion(
    tmp_path: Path, moment: str
) -> None:
    """The child is killed between the decision and the act, or between the act and the plan; we are its successor."""
    a_ledger(tmp_path).close()
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.unit.heal.test_acts import *
ledger = Ledger.open("sqlite:///{tmp_path}/ledger.db", ManualClock(NOW))
class Deadly(Hands):
    def publish(self):
        os.kill(os.getpid(), signal.SIGKILL)
acts.carry_out(ledger, decide(ledger, "canary.start", model="delays@2", share=0.1), Hands(), NOW)
decision = decide(ledger, "promote", model="delays@2")
if {moment!r} == "before the act":
    os.kill(os.getpid(), signal.SIGKILL)
acts.carry_out(ledger, decision, Deadly(), NOW)
"""
    child = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    ledger, hands = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", ManualClock(NOW)), Hands()
    left = acts.unfinished(ledger)
    assert [one.action for one in left] == (["promote"] if moment == "before the act" else [])
    for decision in left:
        acts.carry_out(ledger, decision, hands, NOW)
    hands.publish()
    assert acts.unfinished(ledger) == []
    route = traffic.route_of(ledger, "delays")
    assert [(arm.model, arm.role) for arm in route.arms] == [("delays@2", "champion")]
    assert aliases(ledger) == {"champion": 2}
    with pytest.raises(Conflict), ledger.transaction() as tx:
        traffic.expect(tx, "delays", route.generation - 1)
