"""What people owe: a candidate that is proven and not approved waits in its share; a challenger that workers would refuse
(not signed, say) stays out. Each is said once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flyball.core.records import ModelVersion
from flyball.heal.incidents import close_incident, open_incident, open_of
from flyball.models import approvals
from flyball.stores.metadata import Ledger

CAUSE = "unapproved_candidate"
REFUSED = "unservable_challenger"


def wanting(ledger: Ledger, ref: str) -> tuple[str, ...]:
    """The roles that have not approved ``ref`` as champion; none when no approval is asked for."""
    version = ledger.find("model", ref, ModelVersion)
    return () if version is None else approvals.missing(ledger, version, "champion")


def is_said(ledger: Ledger, ref: str) -> bool:
    """Whether it was said already that ``ref`` waits."""
    return bool(open_of(ledger, CAUSE, ref))


def say(
    ledger: Ledger, ref: str, because: str, *, at: datetime, actor: str, evidence: dict[str, Any]
) -> None:
    """Open the incident that ``ref`` waits for people."""
    open_incident(ledger, CAUSE, ref, because, at=at, actor=actor, evidence=evidence)


def close(ledger: Ledger, ref: str, because: str, *, at: datetime, actor: str) -> None:
    """Nothing waits any more: it was approved, or it was sent away."""
    for incident in open_of(ledger, CAUSE, ref):
        close_incident(ledger, incident, because, at=at, actor=actor)


def stays_out(ledger: Ledger, ref: str, why: str, *, at: datetime, actor: str) -> bool:
    """Whether a challenger can't be let in, for the reason ``why``; an incident while that lasts."""
    if why:
        open_incident(ledger, REFUSED, ref, why, at=at, actor=actor, evidence={})
        return True
    for incident in open_of(ledger, REFUSED, ref):
        close_incident(ledger, incident, "nothing stands against it any more", at=at, actor=actor)
    return False


def forget(ledger: Ledger, *, at: datetime, actor: str) -> None:
    """There is no candidate: whoever waited was promoted or sent away by a person."""
    for incident in open_of(ledger, CAUSE):
        close_incident(ledger, incident, "it is no candidate any more", at=at, actor=actor)
