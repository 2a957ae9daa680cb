"""What the governor may do, read from ``policy.toml``. Every number that a decision depends on is here, with its unit.

>>> read_policy("[quality]\\nwindow_days = 28\\n").quality.window_days
28
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec

from flyball.errors import Invalid, nearest


class Canary(msgspec.Struct, frozen=True):
    """How a candidate is let in, and by which evidence it is let through or sent back."""

    ramp: tuple[float, ...] = (0.1, 0.3, 0.5)  # shares of requests; each step waits for the evidence below
    ramp_requests: int = 100  # a candidate's own requests without harm before the next share
    alpha: float = 0.05  # false rollbacks, over the whole life of a canary, however often it is looked at
    safe_errors: float = 0.05  # SAFE: its error rate is not worse by this much
    safe_loss: float = 0.01  # SAFE: its Brier loss on the same requests is not worse by this much
    deadline_days: float = 14.0  # neither HARM nor SAFE by then: hold, tell a person, never promote
    label_wait_days: float = 3.0  # a label that has not come by then will not come


class Quality(msgspec.Struct, frozen=True):
    """When the champion has drifted beyond its own variation in time (``docs/decisions/005-calibration-is-the-alarm.md``)."""

    window_days: int = 21
    false_alarms_per_month: float = 0.05
    min_labelled: int = 500
    min_coverage: float = 0.8
    drift_days: int = 7  # inputs are compared over so many days, once in so many days
    drift_rate: float = 0.01  # of the columns that alarm, so many are false
    shock_sigmas: float = (
        3.0  # robust distance of one day from the days before it; such days say nothing about drift
    )
    shock_floor: float = 0.0  # a shock below this share of positives is no incident
    day_starts_h: float = 0.0  # when a day begins, in hours after midnight UTC


class Retrain(msgspec.Struct, frozen=True):
    """When and how a challenger is trained; ``[retrain.params]`` are given to the pipeline as they are."""

    pipeline: str = ""
    cool_down_days: float = 14.0  # doubles after each refused challenger
    budget: int = 12  # retrainings a year
    stop_after_refusals: int = 2  # in a row; then a person is told
    time_parameter: str = "until"  # which parameter is given the present
    params: dict[str, Any] = {}


class Infrastructure(msgspec.Struct, frozen=True):
    """What counts as the machinery failing, whatever the model."""

    max_error_share: float = 0.05
    max_p99_ms: float = 500.0
    min_requests: int = 100


class Features(msgspec.Struct, frozen=True):
    """How often what predictions were fed is recomputed offline, and how many of them each time."""

    skew_every_s: float = 3600.0  # 0: never
    skew_sample: int = 500


class Policy(msgspec.Struct, frozen=True):
    """The whole of it. ``dry_run`` decides and records, and changes nothing."""

    endpoint: str = ""
    dry_run: bool = False
    canary: Canary = Canary()
    quality: Quality = Quality()
    retrain: Retrain = Retrain()
    infrastructure: Infrastructure = Infrastructure()
    features: Features = Features()


def read_policy(text: str, origin: str = "policy.toml") -> Policy:
    """A policy from TOML; an unknown key is an error that names the nearest."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Invalid(f"{origin} is not TOML: {error}", "mend that line") from error
    _known(raw, Policy, origin, "")
    try:
        policy = msgspec.convert(raw, Policy)
    except msgspec.ValidationError as error:
        raise Invalid(f"{origin}: {error}", "every duration is in the unit its name ends with") from error
    _sensible(policy, origin)
    return policy


def load_policy(path: Path) -> Policy:
    """The policy of a project; the defaults when it has none."""
    return read_policy(path.read_text(), path.name) if path.is_file() else Policy()


def _known(raw: dict[str, Any], kind: Any, origin: str, above: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in raw.items():
        if key not in fields:
            raise Invalid(
                f"{origin} has an unknown key {above}{key}", nearest(key, list(fields)), key=above + key
            )
        if (
            isinstance(value, dict)
            and isinstance(fields[key], type)
            and issubclass(fields[key], msgspec.Struct)
        ):
            _known(value, fields[key], origin, f"{above}{key}.")


def _sensible(policy: Policy, origin: str) -> None:
    shares = policy.canary.ramp
    if not shares or any(not 0.0 < share < 1.0 for share in shares) or list(shares) != sorted(shares):
        raise Invalid(
            f"{origin}: canary.ramp must be rising shares between 0 and 1, not {list(shares)}", "[0.1, 0.5]"
        )
    if not 0.0 < policy.canary.alpha < 0.5:
        raise Invalid(f"{origin}: canary.alpha must lie between 0 and 0.5", "0.05 is usual")
