"""Verbs on what went wrong and what was decided about it."""

from __future__ import annotations

from flyball.core.records import Decision, Incident
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


@verb("incidents ls", reads=True)
def ls(open: bool = False, *, ws: Workspace = CURRENT) -> list[Incident]:
    """List incidents, oldest first; --open leaves out those that are over."""
    return [one for one in ws.ledger.ls("incident", Incident) if not open or one.closed is None]


@verb("incidents show", reads=True)
def show(incident: str, *, ws: Workspace = CURRENT) -> Incident:
    """Show one incident with its evidence."""
    return ws.ledger.get("incident", incident, Incident)


@verb("incidents decisions", reads=True)
def decisions(subject: str = "", *, ws: Workspace = CURRENT) -> list[Decision]:
    """List what the governor decided, oldest first, each with its evidence and what came of it."""
    return [one for one in ws.ledger.ls("decision", Decision) if one.subject.startswith(subject)]


@verb("incidents close")
def close(incident: str, because: str = "closed by a person", *, ws: Workspace = CURRENT) -> Incident:
    """Close an incident by hand; closing "retraining_stopped" lets the governor retrain again."""
    from flyball.heal.incidents import close_incident

    return close_incident(ws.ledger, show(incident, ws=ws), because, at=ws.clock.now(), actor=ws.actor)
