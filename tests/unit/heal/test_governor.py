"""The governor over a real log and ledger, its hands recorded: what it decides from what it sees, day by day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flyball.core.clock import ManualClock, to_us
from flyball.core.records import Alias, Decision, Field, Incident, ModelVersion, Report, Route, Run, Signature
from flyball.heal import traffic
from flyball.heal.governor import Governor
from flyball.heal.policy import Canary, Policy, Quality, Retrain
from flyball.models import approvals
from flyball.monitor.windows import DayStats, DayTable
from flyball.stores.metadata import Ledger
from flyball.stores.prediction_log import Label, LogWriter, Prediction, Record, Shadow

START = datetime(2013, 1, 1, tzinfo=UTC)
SIGNATURE = Signature((Field("x", "FP32"),), (Field("probability", "FP32"),))
POLICY = Policy(
    endpoint="delays",
    canary=Canary(ramp=(0.2, 0.5), ramp_requests=20),
    quality=Quality(window_days=14, min_labelled=100),
    retrain=Retrain(pipeline="train", cool_down_days=10),
)


class World:
    """A ledger with a champion, a log that is written to, and a governor with recorded hands."""

    def __init__(self, folder: Path, policy: Policy = POLICY) -> None:
        self.clock = ManualClock(START)
        self.ledger = Ledger.open(f"sqlite:///{folder}/ledger.db", self.clock)
        self.log = LogWriter(folder / "log")
        self.rng = np.random.default_rng(5)
        self.trained: list[dict[str, Any]] = []
        self.published = 0
        self.register(1, reference=self.reference())
        with self.ledger.transaction() as tx:
            route = traffic.champion_only("delays", "delays@1", at=START, because="first")
            tx.append("route.deployed", "delays", actor="x", sets=traffic.changes(tx, route, at=START))
        self.governor = self.new_governor(folder, policy)

    def new_governor(self, folder: Path, policy: Policy = POLICY) -> Governor:
        governor = Governor(self.ledger, policy, self, folder / "log")
        governor.start(self.clock.now())
        return governor

    def publish(self) -> None:
        self.published += 1

    def tripped(self, endpoint: str) -> str:
        return ""

    def tidy(self, cursor: dict[str, int]) -> None:
        assert cursor is not None

    def train(self, pipeline: str, params: dict[str, Any], because: str) -> Run:
        """A training whose challenger the gate refuses."""
        self.trained.append(params)
        return Run(
            id=f"run_{len(self.trained)}", pipeline=pipeline, started=self.clock.now(), status="done", params=params,
            code="", environment="", actor="governor", because=because,
        )  # fmt: skip

    def reference(self) -> list[DayStats]:
        """Sixty days on which the model was calibrated."""
        table = DayTable()
        for day in range(60):
            at = to_us(START - timedelta(days=60 - day))
            for number in range(60):
                p = float(self.rng.uniform(0.05, 0.5))
                table.add(f"{day}-{number}", at, p)
                table.label(f"{day}-{number}", float(self.rng.random() < p), at)
        return table.days(to_us(START))

    def register(self, number: int, *, reference: list[DayStats] | None = None) -> None:
        report = Report(
            id=f"rep_{number}", kind="gate", subject="delays", at=self.clock.now(), passed=True, summary="passed",
            evidence={"reference": msgspec.to_builtins(reference or [])},
        )  # fmt: skip
        version = ModelVersion(
            name="delays", number=number, artifact="b3:" + "0" * 64, format="onnx", signature=SIGNATURE,
            created=self.clock.now(), gate=report.id,
        )  # fmt: skip
        alias = Alias(model="delays", alias="challenger", number=number, set_at=self.clock.now())
        sets = [("report", report.id, report), ("model", version.ref, version), ("alias", alias.key, alias)]
        with self.ledger.transaction() as tx:
            tx.append("model.registered", version.ref, actor="x", sets=sets if number > 1 else sets[:2])

    def day(
        self, requests: int = 60, *, truth: float = 0.0, error: str = "", late: float | None = None
    ) -> None:
        """A day of requests and labels: outcomes ``truth`` above what was predicted; then one look."""
        route = self.ledger.get("route", "delays", Route)
        candidate = route.candidate
        records: list[Record] = []
        for number in range(requests):
            p = float(self.rng.uniform(0.05, 0.5))
            at = to_us(self.clock.now() + timedelta(seconds=number + 1))
            name = f"{at}"
            chosen = candidate is not None and self.rng.random() < candidate.weight
            model = candidate.model if candidate is not None and chosen else route.champion
            records.append(
                Prediction(
                    id=name, at_us=at, endpoint="delays", assigned=model, arm="candidate" if chosen else "champion",
                    rho=candidate.weight if candidate else 0.0, model=model, output=None if error else p,
                    features=[p], times_us=[None], entities={}, error=error, latency_us=500,
                )
            )  # fmt: skip
            if candidate is not None:
                other = route.champion if chosen else candidate.model
                records.append(Shadow(id=name, at_us=at, endpoint="delays", model=other, output=p))
            y = float(self.rng.random() < (min(1.0, p + truth) if late is None else late))
            records.append(Label(id=name, value=y, known_us=at, received_us=at))
        self.log.append(records)
        self.clock.advance(timedelta(days=1))
        self.governor.tick(self.clock.now())

    def decisions(self, action: str = "") -> list[Decision]:
        return [one for one in self.ledger.ls("decision", Decision) if action in ("", one.action)]

    def incidents(self, cause: str = "") -> list[Incident]:
        return [one for one in self.ledger.ls("incident", Incident) if cause in ("", one.cause)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_healthy_champion_is_left_alone_for_two_months(world: World) -> None:
    for _ in range(60):
        world.day()
    assert world.decisions() == []
    assert world.incidents() == []


def test_a_champion_that_promises_too_little_is_retrained_with_its_cause_then_waits_out_its_cool_down(
    world: World,
) -> None:
    for _ in range(30):
        world.day(truth=0.15)
    made = world.decisions("retrain")
    assert made
    assert "calibration_gap" in made[0].because
    assert made[0].arguments["cause"] == "concept_drift"
    assert made[0].evidence["calibration_gap"]["fell"] is True
    assert world.trained[0]["until"] == made[0].at.isoformat()
    for before, after in pairwise(made):  # each was refused, so the pause doubles
        assert after.at - before.at >= timedelta(days=20)


def test_after_two_refused_challengers_it_stops_and_tells_a_person(world: World) -> None:
    for _ in range(80):
        world.day(truth=0.15)
    assert len(world.decisions("retrain")) == 2
    assert [one.subject for one in world.incidents("retraining_stopped")] == ["delays"]


def test_one_storm_day_is_an_incident_that_closes_and_trains_nothing(world: World) -> None:
    for _ in range(20):
        world.day()
    world.day(late=0.9)
    for _ in range(20):
        world.day()
    shocks = world.incidents("shock")
    assert len(shocks) == 1
    assert shocks[0].closed is not None
    assert world.decisions() == []


def test_a_failing_machinery_is_an_incident_while_it_lasts_and_never_a_retraining(world: World) -> None:
    for _ in range(5):
        world.day(200)
    for _ in range(3):
        world.day(200, error="OSError: no space", truth=0.3)
    assert [one.closed for one in world.incidents("infrastructure")] == [None]
    for _ in range(2):
        world.day(200)
    assert all(one.closed is not None for one in world.incidents("infrastructure"))
    assert world.decisions() == []


def test_a_challenger_that_passed_its_gate_is_let_in_ramped_and_promoted_by_evidence(world: World) -> None:
    world.register(2)
    for _ in range(40):
        world.day(120)
    assert [one.action for one in world.decisions()] == ["canary.start", "canary.ramp", "promote"]
    assert world.ledger.get("route", "delays", Route).champion == "delays@2"
    assert world.published >= 4


def test_a_governor_that_starts_anew_in_a_canary_goes_on_with_the_evidence_so_far(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.register(2)
    for _ in range(4):
        world.day(120)
    before = world.governor._trial
    assert before is not None
    world.governor = world.new_governor(tmp_path)
    world.governor.tick(world.clock.now())
    after = world.governor._trial
    assert after is not None
    assert (after.exposed, after.paired) == (before.exposed, before.paired)
    assert len(world.decisions("canary.start")) == 1


def test_a_dry_run_says_once_what_it_would_do_and_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, msgspec.structs.replace(POLICY, dry_run=True))
    world.register(2)
    for _ in range(10):
        world.day()
    said = world.decisions("canary.start")
    assert [one.outcome for one in said] == [{"dry_run": True}]
    assert world.ledger.get("route", "delays", Route).candidate is None


def test_a_proven_candidate_that_nobody_approved_waits_in_its_share_and_says_so_once(world: World) -> None:
    approvals.require(world.ledger, "delays", ["risk"], actor="person:ann")
    world.register(2)
    for _ in range(30):
        world.day(120)
    route = world.ledger.get("route", "delays", Route)
    assert route.candidate is not None
    assert route.champion == "delays@1"
    assert not world.decisions("promote")
    (incident,) = world.incidents("unapproved_candidate")
    assert incident.closed is None
    assert "not approved by risk" in incident.because
    assert len([one for one in world.decisions("hold") if "not approved" in one.because]) == 1
    approvals.approve(world.ledger, "delays@2", "risk", actor="person:bob")
    for _ in range(3):
        world.day(120)
    assert world.ledger.get("route", "delays", Route).champion == "delays@2"
    (incident,) = world.incidents("unapproved_candidate")
    assert (incident.closed_because, incident.closed is None) == ("approved", False)


def test_a_challenger_that_workers_would_refuse_stays_out_and_that_is_said_once(world: World) -> None:
    why = {"delays@2": "delays@2 is not signed"}
    world.governor._refused = lambda ref: why.get(ref, "")
    world.register(2)
    for _ in range(5):
        world.day()
    assert world.decisions() == []
    (incident,) = world.incidents("unservable_challenger")
    assert incident.because == "delays@2 is not signed"
    why.clear()
    world.day()
    (incident,) = world.incidents("unservable_challenger")
    assert incident.closed is not None
    assert [one.action for one in world.decisions()] == ["canary.start"]
