"""The cause before the cure, as a table; and a policy that says what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from flyball.errors import Invalid
from flyball.heal.causes import Limits, Signals, diagnose
from flyball.heal.policy import read_policy

LIMITS = Limits(max_error_share=0.05, max_p99_ms=500.0, min_requests=100, min_coverage=0.8)
FELL = {"quality_fell": True, "label_coverage": 0.97, "calibration_broken": True}


@pytest.mark.parametrize(
    ("seen", "cause", "action"),
    [
        ({}, "none", "nothing"),
        ({**FELL, "requests": 500, "error_share": 0.3}, "infrastructure", "shed"),
        ({**FELL, "requests": 500, "p99_ms": 900.0}, "infrastructure", "shed"),
        (
            {**FELL, "requests": 50, "error_share": 0.3},
            "concept_drift",
            "retrain",
        ),  # too few to blame the machinery
        ({**FELL, "open_contracts": ("weather",)}, "upstream_data_bug", "quarantine"),
        ({**FELL, "label_coverage": 0.4}, "label_bug", "freeze_labels"),
        ({**FELL, "label_rate_jumped": True}, "label_bug", "freeze_labels"),
        ({"shock_days": ("2013-07-10",), "quality_fell": False}, "shock", "watch"),
        ({"shock_days": ("2013-07-10",), **FELL}, "concept_drift", "retrain"),
        ({**FELL, "inputs_moved": True}, "harmful_covariate_shift", "retrain"),
        ({**FELL, "inputs_moved": False}, "concept_drift", "retrain"),
        ({"inputs_moved": True, "quality_fell": False}, "benign_covariate_shift", "watch"),
        ({"inputs_moved": True, "quality_fell": None}, "benign_covariate_shift", "watch"),
    ],
)
def test_the_first_stage_that_explains_it_ends_the_search(
    seen: dict[str, Any], cause: str, action: str
) -> None:
    found = diagnose(Signals(**seen), LIMITS)
    assert (found.cause, found.action) == (cause, action)
    assert found.because


def test_nothing_but_a_fall_in_quality_ever_asks_for_retraining() -> None:
    import itertools

    for moved, jumped, contract, shock in itertools.product(
        [True, False, None], [True, False], [True, False], [True, False]
    ):
        seen = Signals(
            quality_fell=False,
            inputs_moved=moved,
            label_rate_jumped=jumped,
            open_contracts=("weather",) if contract else (),
            shock_days=("2013-07-10",) if shock else (),
        )
        assert diagnose(seen, LIMITS).action != "retrain"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[canary]\nalpa = 0.1", r"unknown key canary.alpa[\s\S]*did you mean 'alpha'"),
        ("[canary]\nramp = [0.5, 0.1]", "rising shares"),
        ("[canary]\nramp = []", "rising shares"),
        ("[canary]\nalpha = 0.9", "between 0 and 0.5"),
        ('[quality]\nwindow_days = "x"', "Expected `int`"),
        ("nonsense", "is not TOML"),
    ],
)
def test_a_wrong_policy_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_policy(text)


def test_parameters_of_the_pipeline_are_taken_as_they_are() -> None:
    assert read_policy("[retrain.params]\ntrees = 40\n").retrain.params == {"trees": 40}
