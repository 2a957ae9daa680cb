"""A candidate's trial: harm, safety, or neither; order and restarts change nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from flyball.core.clock import to_us
from flyball.core.records import Route
from flyball.heal import traffic
from flyball.heal.canary import Trial
from flyball.heal.policy import Canary
from flyball.stores.prediction_log import Label, Prediction, Record, Shadow

START = datetime(2013, 6, 1, tzinfo=UTC)
POLICY = Canary(ramp=(0.1, 0.5), ramp_requests=50, deadline_days=10)


def a_route(share: float = 0.1) -> Route:
    champion = traffic.champion_only("delays", "delays@1", at=START, because="")
    return traffic.with_candidate(champion, "delays@2", share, at=START, because="")


def days(
    n: int,
    rng: np.random.Generator,
    *,
    rho: float = 0.1,
    error: float = 0.0,
    worse: float = 0.0,
    first: int = 0,
    base: float = 0.0,
) -> list[Record]:
    """``n`` requests: every arm fails with chance ``base``, the candidate with ``error`` on top; ``worse`` shifts its answers."""
    found: list[Record] = []
    for number in range(first, first + n):
        p = rng.uniform(0.1, 0.9)
        y = float(rng.random() < p)
        to_candidate = rng.random() < rho
        failed = rng.random() < base or (to_candidate and rng.random() < error)
        outputs = {"delays@1": p, "delays@2": float(np.clip(p + worse * rng.choice([-1, 1]), 0, 1))}
        answered = "delays@2" if to_candidate and not failed else "delays@1"
        at = to_us(START + timedelta(minutes=number))
        found.append(
            Prediction(
                id=f"p_{number}", at_us=at, endpoint="delays", assigned="delays@2" if to_candidate else "delays@1",
                arm="candidate" if to_candidate else "champion", rho=rho, model=answered, output=outputs[answered],
                features=[], times_us=[], entities={}, fallback=failed, error="NaN" if failed else "",
            )
        )  # fmt: skip
        other = "delays@1" if answered == "delays@2" else "delays@2"
        found.append(
            Shadow(
                id=f"p_{number}",
                at_us=at,
                endpoint="delays",
                model=other,
                output=None if failed else outputs[other],
            )
        )
        found.append(Label(id=f"p_{number}", value=y, known_us=at, received_us=at))
    return found


def test_a_candidate_that_always_fails_is_harm_within_ten_of_its_requests() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        trial, route = Trial(a_route(), POLICY, START), a_route()
        number = 0
        while trial.judge(route, START).kind != "harm":
            trial.feed(days(1, rng, error=1.0, first=number))
            number += 1
        assert trial.exposed <= 10


def test_a_candidate_with_a_higher_loss_is_harm_and_the_sentence_says_so() -> None:
    trial = Trial(a_route(), POLICY, START)
    trial.feed(days(3000, np.random.default_rng(1), worse=0.25))
    verdict = trial.judge(a_route(), START)
    assert verdict.kind == "harm"
    assert "its loss is higher by 0.0" in verdict.because
    assert verdict.evidence["paired_labels"] == 3000


def test_an_equal_candidate_ramps_and_is_safe_at_the_last_step() -> None:
    rng = np.random.default_rng(2)
    trial = Trial(a_route(), POLICY, START)
    trial.feed(days(800, rng))
    step = trial.judge(a_route(), START)
    assert (step.kind, step.share) == ("ramp", 0.5)
    trial.feed(days(1500, rng, rho=0.5, first=800))
    assert trial.judge(a_route(0.5), START).kind == "safe"


def test_no_traffic_is_no_evidence_and_past_the_deadline_a_person_is_asked() -> None:
    trial = Trial(a_route(), POLICY, START)
    assert trial.judge(a_route(), START).kind == "wait"
    assert trial.judge(a_route(), START + timedelta(days=11)).kind == "overdue"


def test_false_rollbacks_stay_below_the_level_however_often_it_is_looked_at() -> None:
    """200 canaries without a difference, looked at after every 50 requests; alpha 0.05; seed 3. Binomial 99.9 %: 20."""
    rolled_back = 0
    for seed in range(200):
        rng = np.random.default_rng([3, seed])
        trial = Trial(a_route(), POLICY, START)
        for part in range(8):
            trial.feed(days(50, rng, base=0.02, first=50 * part))
            if trial.judge(a_route(), START).kind == "harm":
                rolled_back += 1
                break
    assert rolled_back <= 20


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_and_repetition_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = days(400, rng, error=0.05, worse=0.1)
    once, again = Trial(a_route(), POLICY, START), Trial(a_route(), POLICY, START)
    once.feed(records)
    shuffled = [records[i] for i in rng.permutation(len(records))]
    predictions = [one for one in shuffled if not isinstance(one, Label)]
    again.feed(predictions)
    again.feed(records)  # all of them a second time, with the labels
    one, two = once.judge(a_route(), START).evidence, again.judge(a_route(), START).evidence
    assert one["requests_exposed"] == two["requests_exposed"]
    assert one["paired_labels"] == two["paired_labels"]
    for name, value in one["log_e"].items():
        assert two["log_e"][name] == pytest.approx(value, abs=2e-4)
