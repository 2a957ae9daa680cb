"""Who served what, when and why: the history of aliases, stages and routes, read from the events that changed them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from flyball.core.events import Event
from flyball.core.records import Decision, Route
from flyball.errors import NotFound, nearest
from flyball.models.refs import family_of, find_model, versions
from flyball.stores.metadata import Ledger


class Pointing(msgspec.Struct, frozen=True, kw_only=True):
    """An alias (or a stage) at one version, from when to when; ``number`` is ``None`` while it pointed at nothing."""

    at: datetime
    alias: str
    version: str | None
    actor: str
    because: str
    until: datetime | None = None


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint served, from when to when, who set it and why."""

    endpoint: str
    since: datetime
    until: datetime | None
    champion: str
    candidate: str | None
    share: float | None
    shadows: tuple[str, ...]
    generation: int
    actor: str
    because: str


def changes(ledger: Ledger, model: str, alias: str = "") -> list[Pointing]:
    """Every change of a model's aliases and stages, oldest first, by whatever made it."""
    family = family_of(ledger, model)
    record = find_model(ledger, family)
    names = {family} if record is None else {family, record.name, *record.former}
    refs = {one.number: one.ref for one in versions(ledger, model, deleted=True)}
    numbers = {ref: number for number, ref in refs.items()}
    stages: dict[str, str] = {}
    found: list[Pointing] = []
    movers = [("alias.", family), ("route.", ""), *(("model.", name) for name in sorted(names))]
    for event in _events(ledger, movers):
        for change in event.sets:
            if change.noun == "alias" and change.key.rpartition("@")[0] == family:
                found.append(_pointing(event, change.key.rpartition("@")[2], change.content, refs))
            elif change.noun == "model" and change.key in numbers and change.content is not None:
                stage = change.content.get("stage", "None")
                if stage != stages.get(change.key, "None"):
                    stages[change.key] = stage
                    because = event.body.get("because") or event.kind
                    found.append(
                        Pointing(
                            at=event.at,
                            alias=f"stage {stage}",
                            version=change.key,
                            actor=event.actor,
                            because=because,
                        )
                    )
    return [one for one in _with_ends(found) if alias in ("", one.alias)]


def _pointing(event: Event, alias: str, content: dict[str, Any] | None, refs: dict[int, str]) -> Pointing:
    because = (content or {}).get("because") or event.body.get("because") or event.kind
    version = None if content is None else refs.get(content["number"], str(content["number"]))
    return Pointing(at=event.at, alias=alias, version=version, actor=event.actor, because=because)


def _with_ends(found: list[Pointing]) -> list[Pointing]:
    """When each ended: an alias by its next move, a stage of a version by that version's next stage."""
    following: dict[str, datetime] = {}
    ended = []
    for one in reversed(found):
        key = f"stage of {one.version}" if one.alias.startswith("stage ") else one.alias
        ended.append(msgspec.structs.replace(one, until=following.get(key)))
        following[key] = one.at
    return ended[::-1]


def served(ledger: Ledger, endpoint: str = "", *, model: str = "") -> list[Served]:
    """What every endpoint (or one) has served, oldest first; with ``model`` only where that version took part."""
    found: list[Served] = []
    decisions: dict[str, str] = {}
    for event in _events(ledger, [("route.", endpoint)]):
        for change in event.sets:
            if change.noun == "decision" and change.content is not None:
                decision = msgspec.convert(change.content, Decision)
                decisions[decision.id] = decision.because
            if change.noun == "route" and endpoint in ("", change.key) and change.content is not None:
                found.append(_served(event, msgspec.convert(change.content, Route)))
    following: dict[str, datetime] = {}
    told = []
    for one in reversed(found):
        because = f"{one.because}: {decisions[one.because]}" if one.because in decisions else one.because
        told.append(msgspec.structs.replace(one, until=following.get(one.endpoint), because=because))
        following[one.endpoint] = one.since
    return [one for one in told[::-1] if not model or model in (one.champion, one.candidate, *one.shadows)]


def was_champion(ledger: Ledger, endpoint: str, ref: str) -> bool:
    """Whether a version has been the champion of an endpoint: only then is routing to it a way back."""
    return any(one.champion == ref for one in served(ledger, endpoint, model=ref) if one.endpoint == endpoint)


def served_at(ledger: Ledger, endpoint: str, at: datetime) -> Served:
    """What an endpoint served at one time; :class:`NotFound` when it did not exist yet."""
    spans = served(ledger, endpoint)
    if not spans:
        known = ledger.keys("route")
        raise NotFound(f"no endpoint {endpoint!r}", nearest(endpoint, known), endpoint=endpoint)
    for one in reversed(spans):
        if one.since <= at:
            return one
    raise NotFound(
        f"{endpoint} served nothing at {at.isoformat()}",
        f"its first route was set at {spans[0].since.isoformat()}",
        endpoint=endpoint,
    )


def _served(event: Event, route: Route) -> Served:
    candidate = route.candidate
    return Served(
        endpoint=route.endpoint,
        since=event.at,
        until=None,
        champion=route.champion,
        candidate=candidate.model if candidate else None,
        share=candidate.weight if candidate else None,
        shadows=route.shadows,
        generation=route.generation,
        actor=event.actor,
        because=route.because,
    )


def _events(ledger: Ledger, kinds: Iterable[tuple[str, str]]) -> list[Event]:
    """Events of these kinds whose subject begins so, each once, as they were written."""
    found = {
        event.seq: event for kind, subject in kinds for event in ledger.events(kind=kind, subject=subject)
    }
    return [found[seq] for seq in sorted(found)]
