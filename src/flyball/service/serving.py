"""Verbs on what serves: deploy, route, promote, roll back, predict, label."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flyball.core.clock import parse_time
from flyball.core.records import EndpointSettings, ModelVersion, Route
from flyball.errors import Invalid, Refused
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.core.plan import Plan
    from flyball.models.signing import Trust


@verb("deploy")
def deploy(
    model: str,
    *,
    endpoint: str,
    canary: bool = False,
    share: float = 0.1,
    because: str = "asked for by a person",
    ws: Workspace = CURRENT,
) -> Route:
    """Serve a version at an endpoint: at once, or with --canary as a candidate that must prove itself.

    A candidate starts with ``share`` of the requests; the governor ramps it, promotes it or sends it back by evidence.
    """
    from flyball.heal import traffic
    from flyball.models import registry

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", endpoint):
        raise Invalid(
            f"{endpoint!r} can't name an endpoint", "use letters, digits, '-', '_' and '.'", field="endpoint"
        )
    version = registry.resolve(ws.ledger, model)
    _ready(ws, version)
    now = ws.clock.now()
    expected: int | None = None
    if canary:
        before = traffic.route_of(ws.ledger, endpoint)
        route, expected = (
            traffic.with_candidate(before, version.ref, share, at=now, because=because),
            before.generation,
        )
    else:
        route = traffic.champion_only(endpoint, version.ref, at=now, because=because)
    return set_route(
        ws, route, "route.canary_started" if canary else "route.deployed", version, expected=expected
    )


def _ready(ws: Workspace, version: ModelVersion) -> None:
    """:class:`Refused` here, where the person stands, for what the workers would refuse: signatures, pickles of strangers."""
    from flyball.heal import traffic
    from flyball.models import keys, signing
    from flyball.models.mlmodel import prepare

    whom = trust_in(ws)
    keys.check(ws.ledger, version, whom)
    if version.format == "mlmodel":
        prepare(ws.ledger, ws.blobs, version, actor=ws.actor)
    if version.format == "elsewhere":
        raise Invalid(
            f"the files of {version.ref} are not here: {version.export.get('reason', version.source)}",
            "log the model to this server and register it again",
            model=version.ref,
        )
    signing.verify_served(
        traffic.served_model(ws.ledger, version, whom), keys=tuple(whom.keys), required=whom.required
    )


def refusal_of(ws: Workspace, ref: str) -> str:
    """Why workers would not load a version, or ""."""
    from flyball.models import registry

    try:
        _ready(ws, registry.resolve(ws.ledger, ref))
    except (Refused, Invalid) as error:
        return error.what
    return ""


def set_route(
    ws: Workspace,
    route: Route,
    kind: str,
    version: ModelVersion | None = None,
    *,
    expected: int | None = None,
) -> Route:
    """One transaction for route, aliases and endpoint; then the plan is published.

    ``expected`` is the generation that was decided upon: :class:`Conflict` when someone was faster.
    """
    from flyball.heal import traffic
    from flyball.models.timeline import was_champion

    back = kind == "route.rolled_back" and was_champion(ws.ledger, route.endpoint, route.champion)
    with ws.ledger.transaction() as tx:
        if expected is not None:
            traffic.expect(tx, route.endpoint, expected)
        sets = traffic.changes(tx, route, at=ws.clock.now(), going_back=back)
        if version is not None and tx.find("endpoint", route.endpoint, EndpointSettings) is None:
            settings = EndpointSettings(
                name=route.endpoint,
                model=version.name,
                deadline_ms=ws.config.serve.deadline_ms,
                candidate_share=ws.config.serve.candidate_share,
            )
            sets.append(("endpoint", route.endpoint, settings))
        tx.append(kind, route.endpoint, actor=ws.actor, sets=sets, body={"because": route.because})
    publish_plan(ws)
    return traffic.route_of(ws.ledger, route.endpoint)


def publish_plan(ws: Workspace) -> None:
    """Put in force what the ledger says; does nothing when it is in force already."""
    from flyball.heal import traffic

    def build() -> Plan:
        return traffic.plan_of(
            ws.ledger,
            blobs=ws.blobs_url,
            online=ws.online_url,
            clock=ws.config.serve.clock,
            max_body_bytes=ws.config.serve.max_body_bytes,
            whom=trust_in(ws),
        )

    traffic.put_in_force(build, ws.plan_path)


def trust_in(ws: Workspace) -> Trust:
    """Whose signatures of model versions count in this project."""
    from flyball.models.keys import trust_of

    settings = ws.config.models
    return trust_of(ws.ledger, settings.trusted, required=settings.require_signature)


@verb("promote")
def promote(endpoint: str, because: str = "asked for by a person", *, ws: Workspace = CURRENT) -> Route:
    """Make the candidate of an endpoint its champion, now."""
    from flyball.heal import traffic

    route = traffic.route_of(ws.ledger, endpoint)
    if route.candidate is None:
        raise Invalid(
            f"{endpoint} has no candidate", f"flyball deploy MODEL@VERSION --endpoint {endpoint} --canary"
        )
    new = traffic.champion_only(endpoint, route.candidate.model, at=ws.clock.now(), because=because)
    return set_route(ws, new, "route.promoted", expected=route.generation)


@verb("rollback")
def rollback(
    endpoint: str, to: str = "", because: str = "asked for by a person", *, ws: Workspace = CURRENT
) -> Route:
    """Send a candidate away; without one, go back to the champion before this one (or to the version named)."""
    from flyball.heal import traffic
    from flyball.models import registry

    route = traffic.route_of(ws.ledger, endpoint)
    if to:
        target = registry.resolve(ws.ledger, to).ref
    elif route.candidate is not None:
        target = route.champion
    else:
        target = _champion_before(ws, endpoint, route.champion)
    if target != route.champion:
        _ready(ws, registry.resolve(ws.ledger, target, deleted=True))
    new = traffic.champion_only(endpoint, target, at=ws.clock.now(), because=because)
    return set_route(ws, new, "route.rolled_back", expected=route.generation)


def _champion_before(ws: Workspace, endpoint: str, champion: str) -> str:
    import msgspec

    for event in reversed([one for one in ws.ledger.events(subject=endpoint) if one.subject == endpoint]):
        for change in event.sets:
            if change.noun == "route" and change.key == endpoint and change.content is not None:
                earlier = msgspec.convert(change.content, Route).champion
                if earlier != champion:
                    return earlier
    raise Invalid(f"{endpoint} has served nothing before {champion}", "name a version: --to MODEL@VERSION")


@verb("endpoints ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List endpoints with what they serve."""
    return [
        {
            "endpoint": route.endpoint,
            "champion": route.champion,
            "candidate": route.candidate.model if route.candidate else None,
            "share": route.candidate.weight if route.candidate else None,
            "generation": route.generation,
            "since": route.set_at,
            "because": route.because,
        }
        for route in ws.ledger.ls("route", Route)
    ]


@verb("endpoints show", reads=True)
def show(endpoint: str, *, ws: Workspace = CURRENT) -> Route:
    """Show the route of one endpoint."""
    from flyball.heal import traffic

    return traffic.route_of(ws.ledger, endpoint)


@verb("predict")
def predict(
    endpoint: str,
    entity: dict[str, str] | None = None,
    feature: dict[str, str] | None = None,
    at: str = "",
    *,
    ws: Workspace = CURRENT,
) -> dict[str, Any]:
    """Ask a running endpoint for one prediction: --entity NAME=VALUE and --feature NAME=VALUE, repeated."""
    client = _client(ws)
    return dict(
        client.predict(
            endpoint,
            entities={name: number(value) for name, value in (entity or {}).items()},
            features={name: number(value) for name, value in (feature or {}).items()},
            at=parse_when(at) if at else None,
        )
    )


@verb("label")
def label(prediction: str, value: float, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Tell what a prediction turned out to be."""
    _client(ws).feedback([{"id": prediction, "value": value}])
    return {"id": prediction, "value": value}


def _client(ws: Workspace) -> Any:
    from flyball.serve.client import Client

    return Client(f"http://{ws.config.serve.host}:{ws.config.serve.port}")


def parse_when(text: str) -> datetime:
    """A time from the command line; what is none is the caller's to mend."""
    try:
        return parse_time(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no time", "write it like 2013-04-01T10:00:00Z", field="at") from error


def number(text: str) -> Any:
    """A word of the command line as the number it looks like, else as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
