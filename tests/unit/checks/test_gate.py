"""The gate: what passes, what is refused and by which sentence."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from flyball.checks.gate import GatePolicy, Verdict, evaluate
from flyball.checks.report import to_junit, to_markdown
from flyball.errors import Invalid


def flights(rows: int = 6000, days: int = 14, seed: int = 1) -> dict[str, Any]:
    """Labels, the true probabilities, and a champion that knows less."""
    rng = np.random.default_rng(seed)
    truth = rng.beta(2, 5, rows)
    y = (rng.random(rows) < truth).astype(float)
    champion = np.clip(0.6 * truth + 0.4 * 0.28 + rng.normal(0, 0.05, rows), 0.01, 0.99)
    origin = rng.choice(["EWR", "JFK", "LGA"], rows)
    return {
        "y": y,
        "truth": truth,
        "champion": champion,
        "days": np.arange(rows) * days // rows,
        "origin": origin,
    }


def judge(data: dict[str, Any], challenger: Any, policy: GatePolicy | None = None, **more: Any) -> Verdict:
    return evaluate(
        data["y"],
        challenger,
        data["champion"],
        data["days"],
        slices={"origin": data["origin"]},
        policy=policy,
        **more,
    )


def test_a_better_model_passes_and_says_by_how_much() -> None:
    data = flights()
    verdict = judge(
        data, data["truth"], GatePolicy(thresholds={"auc": ">= 0.6", "calibration_gap": "<= 0.05"})
    )
    assert verdict.passed
    assert verdict.refused_by == ()
    assert verdict.difference is not None
    assert verdict.difference.high is not None
    assert verdict.difference.high < 0
    assert (verdict.rows, verdict.days) == (6000, 14)
    assert {one.name for one in verdict.slices} == {"origin=EWR", "origin=JFK", "origin=LGA"}
    assert any("better beyond doubt" in one for one in verdict.because)


def test_a_model_no_different_from_the_champion_is_refused_or_taken_as_the_policy_says() -> None:
    data = flights()
    same = data["champion"]
    refused = judge(data, same)
    assert not refused.passed
    assert "not better beyond doubt" in refused.refused_by[0]
    assert judge(data, same, GatePolicy(must_beat=False, tolerance=0.001)).passed


def test_a_worse_model_is_refused_even_where_a_tolerance_is_given() -> None:
    data = flights()
    data["champion"], worse = data["truth"], data["champion"]
    verdict = judge(data, worse, GatePolicy(must_beat=False, tolerance=0.001))
    assert "not surely worse by less than 0.001" in verdict.refused_by[0]


def test_a_threshold_refuses_with_the_figure() -> None:
    data = flights()
    verdict = judge(data, data["truth"], GatePolicy(thresholds={"auc": ">= 0.99"}))
    assert len(verdict.refused_by) == 1
    assert verdict.refused_by[0].startswith("auc 0.")
    assert verdict.refused_by[0].endswith("is not >= 0.99")


def test_a_slice_left_behind_refuses_although_the_whole_gains() -> None:
    data = flights()
    worse_there = np.where(data["origin"] == "LGA", 0.6, data["truth"])
    champion = np.where(data["origin"] == "LGA", data["truth"], 0.28)
    data["champion"] = champion
    verdict = judge(data, worse_there, GatePolicy(must_beat=False, tolerance=1.0, slice_max_loss=0.05))
    assert [one.name for one in verdict.slices if one.refused] == ["origin=LGA"]
    assert len(verdict.refused_by) == 1
    assert verdict.refused_by[0].startswith("slice origin=LGA loses")
    assert "of 3 slices looked at" in verdict.refused_by[0]
    assert judge(data, worse_there, GatePolicy(must_beat=False, tolerance=1.0, slice_max_loss=None)).passed


def test_a_thousand_noisy_slices_refuse_nobody() -> None:
    data = flights()
    noise = np.random.default_rng(3).integers(0, 20, 6000)
    jitter = np.clip(data["truth"] + np.random.default_rng(4).normal(0, 0.1, 6000), 0.01, 0.99)
    policy = GatePolicy(must_beat=False, tolerance=1.0, slice_max_loss=0.0)
    champion = np.clip(data["truth"] + np.random.default_rng(5).normal(0, 0.1, 6000), 0.01, 0.99)
    verdict = evaluate(data["y"], jitter, champion, data["days"], slices={"noise": noise}, policy=policy)
    assert verdict.passed
    assert len(verdict.slices) == 20


def test_a_small_slice_is_named_and_not_judged() -> None:
    data = flights()
    data["origin"][:10] = "SWF"
    small = next(one for one in judge(data, data["truth"]).slices if one.name == "origin=SWF")
    assert (small.difference, small.because) == (None, "not enough data: 10 rows, 200 are needed")


@pytest.mark.parametrize(
    ("rows", "days", "reason"),
    [
        (100, 14, "100 labelled rows, 500 are needed"),
        (6000, 3, "3 days, 5 are needed"),
        (0, 1, "0 labelled rows, 500 are needed"),
    ],
)
def test_not_enough_data_is_a_refusal_with_that_reason(rows: int, days: int, reason: str) -> None:
    data = flights(rows, days)
    verdict = judge(data, data["truth"])
    assert not verdict.passed
    assert f"not enough data: {reason}" in verdict.refused_by


def test_labels_of_one_class_are_not_enough() -> None:
    data = flights()
    data["y"] = np.zeros(6000)
    verdict = judge(data, data["truth"])
    assert verdict.refused_by == ("not enough data: 0 rows of the rarer class, 50 are needed",)
    assert verdict.metrics["auc"] is None


def test_a_model_that_answers_with_no_number_is_refused() -> None:
    data = flights()
    data["truth"][5] = np.nan
    assert judge(data, data["truth"]).refused_by == ("the challenger answers 1 rows with no number",)


def test_the_first_model_has_no_champion_to_beat() -> None:
    data = flights()
    verdict = evaluate(
        data["y"], data["truth"], None, data["days"], policy=GatePolicy(thresholds={"auc": ">= 0.6"})
    )
    assert verdict.passed
    assert verdict.champion_metrics is None
    assert "there is no champion to compare with" in verdict.because


def test_a_regression_is_judged_by_its_errors() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(10, 5, 1000)
    policy = GatePolicy(thresholds={"mae": "<= 2"}, compare_metric="absolute_error")
    verdict = evaluate(
        y, y + rng.normal(0, 1, 1000), y + rng.normal(0, 3, 1000), np.arange(1000) // 100, policy=policy
    )
    assert verdict.passed
    assert set(verdict.metrics) == {"mae", "rmse", "bias"}
    assert verdict.positives is None


def test_the_same_seed_gives_the_same_verdict() -> None:
    data = flights()
    assert judge(data, data["truth"], seed=4) == judge(data, data["truth"], seed=4)


@pytest.mark.parametrize("condition", ["0.7", ">= x", "=> 1", ""])
def test_a_threshold_that_means_nothing_is_refused_when_it_is_written(condition: str) -> None:
    with pytest.raises(Invalid, match="threshold of auc"):
        GatePolicy(thresholds={"auc": condition})


def test_an_unknown_metric_names_the_known() -> None:
    data = flights()
    with pytest.raises(Invalid, match="no metric 'auk'") as error:
        judge(data, data["truth"], GatePolicy(thresholds={"auk": ">= 1"}))
    assert "auc" in error.value.hint


def test_rows_that_do_not_pair_and_missing_labels_are_refused() -> None:
    data = flights()
    with pytest.raises(Invalid):
        judge(data, data["truth"][:-1])
    data["y"][0] = np.nan
    with pytest.raises(Invalid, match="1 labels are missing"):
        judge(data, data["truth"])


def test_a_verdict_can_be_stored_and_shown_to_people_and_to_ci() -> None:
    data = flights()
    verdict = judge(data, data["champion"], GatePolicy(thresholds={"auc": ">= 0.6"}))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    page = to_markdown(verdict)
    assert page.startswith("## Gate: **refused**")
    assert "| auc | 0." in page
    assert "| ✓ | origin=" in page
    suite = ElementTree.fromstring(to_junit(verdict, "delays"))
    assert suite.get("failures") == "1"
    failure = suite.find(".//failure")
    assert failure is not None
    assert "not better beyond doubt" in str(failure.get("message"))


def test_junit_holds_whatever_a_data_value_holds() -> None:
    data = flights()
    data["origin"] = np.where(data["origin"] == "LGA", "a<b>&\x00", data["origin"])
    policy = GatePolicy(must_beat=False, tolerance=1.0, slice_max_loss=-1.0)
    assert ElementTree.fromstring(to_junit(judge(data, data["truth"], policy))).tag == "testsuites"


def test_a_broken_champion_does_not_stand_in_the_way() -> None:
    data = flights()
    data["champion"][0] = np.inf
    verdict = judge(data, data["truth"])
    assert verdict.passed
    assert verdict.because == ("the champion answers 1 rows with no number: not compared",)
