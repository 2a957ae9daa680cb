"""Incidents: something is wrong, from when to when, and why. Opening one twice for the same thing opens it once."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Incident
from flyball.stores.metadata import Ledger


def open_of(ledger: Ledger, cause: str = "", subject: str = "") -> list[Incident]:
    """Incidents that are open now, of this cause and about this subject when given."""
    return [
        one
        for one in ledger.ls("incident", Incident)
        if one.closed is None and cause in ("", one.cause) and subject in ("", one.subject)
    ]


def open_incident(
    ledger: Ledger,
    cause: str,
    subject: str,
    because: str,
    *,
    at: datetime,
    actor: str,
    evidence: dict[str, Any],
) -> Incident:
    """Open an incident, or give back the one that is open for this cause and subject."""
    already = open_of(ledger, cause, subject)
    if already:
        return already[0]
    incident = Incident(
        id=new_id("inc", at), cause=cause, subject=subject, opened=at, because=because, evidence=evidence
    )
    with ledger.transaction() as tx:
        tx.append("incident.opened", subject, actor=actor, at=at, sets=[("incident", incident.id, incident)])
    return incident


def close_incident(ledger: Ledger, incident: Incident, because: str, *, at: datetime, actor: str) -> Incident:
    """Close an incident; closing it twice changes nothing."""
    if incident.closed is not None:
        return incident
    closed = msgspec.structs.replace(incident, closed=at, closed_because=because)
    with ledger.transaction() as tx:
        tx.append(
            "incident.closed", incident.subject, actor=actor, at=at, sets=[("incident", incident.id, closed)]
        )
    return closed
