"""The cause before the cure: from signals to one class of the cause table, in a fixed order.

Infrastructure, data contract, label fault, shock, covariate shift, concept drift: the first stage that explains the drop
ends the search, so nobody retrains a model because a server was slow or a feed changed its unit.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Cause = Literal[
    "infrastructure",
    "upstream_data_bug",
    "label_bug",
    "shock",
    "benign_covariate_shift",
    "harmful_covariate_shift",
    "concept_drift",
    "bad_release",
    "none",
]
Action = Literal["shed", "quarantine", "freeze_labels", "watch", "retrain", "rollback", "nothing"]


class Signals(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen over one window; ``None`` is "not enough data", which is never taken for "all is well"."""

    requests: int = 0
    error_share: float = 0.0  # of the champion's own requests
    p99_ms: float = 0.0
    open_contracts: tuple[str, ...] = ()  # views whose feed is quarantined now
    label_coverage: float | None = None
    label_rate_jumped: bool = False  # far outside its own past, for the whole window, with the inputs still
    shock_days: tuple[str, ...] = ()  # single extreme days at the end of the window
    quality_fell: bool | None = None
    calibration_broken: bool | None = None
    inputs_moved: bool | None = None
    moved: str = "inputs moved"  # which inputs, as a sentence
    because: str = ""  # the figures behind the fall in quality, as a sentence


class Limits(msgspec.Struct, frozen=True):
    """What the signals are held against."""

    max_error_share: float
    max_p99_ms: float
    min_requests: int
    min_coverage: float


class Diagnosis(msgspec.Struct, frozen=True):
    """One cause, the sentence that explains it, what to do, and what never to do about it."""

    cause: Cause
    because: str
    action: Action
    never: str = ""


def diagnose(seen: Signals, limits: Limits) -> Diagnosis:
    """Find the first stage that explains what was seen.

    >>> limits = Limits(max_error_share=0.05, max_p99_ms=500, min_requests=100, min_coverage=0.8)
    >>> diagnose(Signals(requests=500, error_share=0.4, quality_fell=True), limits).cause
    'infrastructure'
    >>> diagnose(Signals(requests=500, label_coverage=0.98, quality_fell=True, inputs_moved=False), limits).cause
    'concept_drift'
    """
    if seen.requests >= limits.min_requests:
        if seen.error_share > limits.max_error_share:
            return Diagnosis("infrastructure", f"{seen.error_share:.1%} of requests fail", "shed", "retrain")
        if seen.p99_ms > limits.max_p99_ms:
            return Diagnosis("infrastructure", f"p99 latency is {seen.p99_ms:.0f} ms", "shed", "retrain")
    if seen.open_contracts:
        views = ", ".join(seen.open_contracts)
        return Diagnosis(
            "upstream_data_bug",
            f"the feed of {views} breaks its contract",
            "quarantine",
            "retrain on that window",
        )
    if seen.label_coverage is not None and seen.label_coverage < limits.min_coverage and seen.quality_fell:
        share = f"only {seen.label_coverage:.0%} of the window's labels came"
        return Diagnosis("label_bug", share, "freeze_labels", "retrain, roll back a model")
    if seen.label_rate_jumped:
        return Diagnosis("label_bug", "the rate of labels jumped at once", "freeze_labels", "retrain")
    if seen.shock_days and not seen.quality_fell:
        days = ", ".join(seen.shock_days)
        return Diagnosis("shock", f"{days}: far from the days before, and not lasting", "watch", "retrain")
    if seen.quality_fell:
        if seen.inputs_moved:
            because = f"{seen.because or 'quality fell'}; {seen.moved}"
            return Diagnosis("harmful_covariate_shift", because, "retrain", "promote without a gate")
        because = seen.because or "labels show the loss up beyond its own variation"
        return Diagnosis("concept_drift", because, "retrain", "wait for the schedule")
    if seen.inputs_moved:
        return Diagnosis(
            "benign_covariate_shift", f"{seen.moved}; quality holds", "watch", "retrain on drift alone"
        )
    return Diagnosis("none", "nothing beyond its own variation", "nothing")
