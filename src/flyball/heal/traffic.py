"""Route traffic between versions: routes in the ledger, and the plan that puts them in force.

A change of serving state is one transaction (aliases, route, decision); the plan is a projection of it, published
afterwards. A governor that starts publishes the plan again when it is behind, so a kill in between heals itself.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from flyball.core import plan as plans
from flyball.core.records import Alias, Arm, EndpointSettings, ModelVersion, Route, Served
from flyball.errors import Conflict, Invalid, NotFound, nearest
from flyball.features.services import OnDemand
from flyball.models import approvals, keys
from flyball.models.formats import is_trusted
from flyball.models.signing import Trust
from flyball.stores.metadata import Ledger, Transaction

Change = tuple[str, str, Any]


def champion_only(endpoint: str, model: str, *, at: datetime, because: str) -> Route:
    """The route in which one version answers everything."""
    arms = (Arm(model=model, weight=1.0, role="champion"),)
    return Route(endpoint=endpoint, generation=0, arms=arms, set_at=at, because=because)


def with_candidate(route: Route, model: str, share: float, *, at: datetime, because: str) -> Route:
    """The same champion with a candidate that answers ``share`` of the requests."""
    if not 0.0 < share < 1.0:
        raise Invalid(
            f"a canary's share must lie between 0 and 1, not {share}", "0.1 sends it one request in ten"
        )
    if model == route.champion:
        raise Invalid(
            f"{model} is the champion of {route.endpoint} already", "name another version as the canary"
        )
    arms = (
        Arm(model=route.champion, weight=1.0 - share, role="champion"),
        Arm(model=model, weight=share, role="candidate"),
    )
    return Route(
        endpoint=route.endpoint,
        generation=0,
        arms=arms,
        sticky_key=route.sticky_key,
        set_at=at,
        because=because,
    )


def changes(tx: Transaction, route: Route, *, at: datetime, going_back: bool = False) -> list[Change]:
    """What a new route sets in the ledger: the route at the next generation, and the aliases it means.

    :class:`Refused` when an alias it moves is protected and an approval is missing; ``going_back`` waits for none.
    """
    generation = 1 + max((one.generation for one in tx.ls("route", Route)), default=0)
    numbered = Route(
        endpoint=route.endpoint,
        generation=generation,
        arms=route.arms,
        shadows=route.shadows,
        sticky_key=route.sticky_key,
        set_at=at,
        because=route.because,
    )
    sets: list[Change] = [("route", route.endpoint, numbered)]
    sets += _alias(tx, route.champion, "champion", at, route.because, going_back)
    if route.candidate is not None:
        sets += _alias(tx, route.candidate.model, "challenger", at, route.because, going_back)
    before = tx.find("route", route.endpoint, Route)
    if before is not None and before.candidate is not None and route.candidate is None:
        family, number, _ = _known(tx, before.candidate.model)
        now = tx.find("alias", f"{family}@challenger", Alias)
        if now is not None and now.number == number:
            sets.append(("alias", f"{family}@challenger", None))  # it is champion now, or it was sent away
    return sets


def _alias(
    tx: Transaction, ref: str, alias: str, at: datetime, because: str, going_back: bool
) -> list[Change]:
    family, number, version = _known(tx, ref)
    key = f"{family}@{alias}"
    now = tx.find("alias", key, Alias)
    if now is not None and now.number == number:
        return []
    if version is not None:
        approvals.guard(tx, version, alias, going_back=going_back)
    return [("alias", key, Alias(model=family, alias=alias, number=number, set_at=at, because=because))]


def _known(tx: Transaction, ref: str) -> tuple[str, int, ModelVersion | None]:
    """The family that the aliases of a version are keyed on, and its number."""
    name, _, number = ref.rpartition("@")
    version = tx.find("model", ref, ModelVersion)
    return (version.kin if version is not None else name), int(number), version


def route_of(ledger: Ledger, endpoint: str) -> Route:
    """The route in force; :class:`NotFound` names the endpoints there are."""
    found = ledger.find("route", endpoint, Route)
    if found is None:
        known = ledger.keys("route")
        raise NotFound(
            f"no endpoint {endpoint!r}",
            f"{nearest(endpoint, known)}; flyball deploy MODEL@VERSION --endpoint {endpoint} makes it",
        )
    return found


def expect(tx: Transaction, endpoint: str, generation: int) -> Route:
    """The route as this transaction sees it; :class:`Conflict` when someone changed it since ``generation``."""
    found = tx.find("route", endpoint, Route)
    if found is None or found.generation != generation:
        now = "gone" if found is None else f"at generation {found.generation}"
        raise Conflict(
            f"the route of {endpoint} has changed (it is {now})", "look at it again: flyball endpoints show"
        )
    return found


def plan_of(
    ledger: Ledger,
    *,
    blobs: str,
    online: str,
    clock: str = "system",
    max_body_bytes: int = 16 * 1024 * 1024,
    whom: Trust | None = None,
) -> plans.Plan:
    """The plan that the ledger's routes mean now; ``whom`` says whose signatures count, and whether one is needed."""
    routes = ledger.ls("route", Route)
    whom = whom if whom is not None else keys.trust_of(ledger)
    return plans.Plan(
        generation=max((route.generation for route in routes), default=0),
        endpoints={route.endpoint: _endpoint(ledger, route, whom) for route in routes},
        blobs=blobs,
        online=online,
        clock=clock,
        max_body_bytes=max_body_bytes,
        trusted_keys=tuple(sorted(whom.keys)),
        require_signature=whom.required,
        features=served_features(ledger),
    )


def _endpoint(ledger: Ledger, route: Route, whom: Trust) -> plans.Endpoint:
    settings = ledger.find("endpoint", route.endpoint, EndpointSettings) or EndpointSettings(
        name=route.endpoint, model=route.champion.rpartition("@")[0]
    )
    refs = dict.fromkeys([*(arm.model for arm in route.arms), *route.shadows])
    versions = {ref: ledger.get("model", ref, ModelVersion) for ref in refs}
    service, views, computed = features_of(ledger, versions[route.champion])
    return plans.Endpoint(
        name=route.endpoint,
        route=route,
        models={ref: served_model(ledger, version, whom) for ref, version in versions.items()},
        service=service,
        views=views,
        on_demand=computed,
        deadline_ms=settings.deadline_ms,
        candidate_share=settings.candidate_share,
    )


def served_model(ledger: Ledger, version: ModelVersion, whom: Trust) -> plans.ServedModel:
    """What a worker loads: the version's own bytes, or what a folder of MLflow's was found to serve as.

    A signature that does not fit goes along as well: the worker refuses it, and says so.
    """
    found = ledger.find("served", version.ref, Served) if version.format == "mlmodel" else None
    what = found or version
    signatures = [one for one in keys.signatures_of(ledger, version) if one.public in whom.keys]
    newest = max(signatures, key=lambda one: one.at, default=None)
    return plans.ServedModel(
        ref=version.ref,
        artifact=what.artifact,
        format=what.format,
        signature=what.signature,
        trusted=is_trusted(version.export),
        signed=None
        if newest is None
        else plans.Signed(statement=newest.statement, signature=newest.signature, public=newest.public),
    )


def features_of(
    ledger: Ledger, version: ModelVersion
) -> tuple[dict[str, Any] | None, dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The service that feeds a model, with its views and on-demand views under the names that its features use."""
    if version.feature_service is None:
        return None, {}, {}
    service = ledger.get("service", version.feature_service, dict[str, Any])
    computed = {
        ref.rpartition("@")[0]: ledger.get("on_demand", ref, dict[str, Any])
        for ref in service.get("on_demand", ())
    }
    reads = [need for one in computed.values() for need in msgspec.convert(one, OnDemand).needs]
    named = {feature.partition(":")[0] for feature in (*service["definition"]["features"], *reads)}
    views = {}
    for ref in service["views"]:
        name = ref if ref in named else ref.rpartition("@")[0]
        views[name] = {**ledger.get("view", ref, dict[str, Any]), "name": name}
    return service["definition"], views, computed


def served_features(ledger: Ledger) -> plans.ServedFeatures:
    """The newest version of each service, view and on-demand view that is defined, and older views that those name."""
    records = {noun: _newest(ledger, noun) for noun in ("service", "view", "on_demand")}
    views = dict(records["view"])
    services = {name: record["definition"] for name, record in records["service"].items()}
    named = [feature for service in services.values() for feature in service["features"]]
    named += [need for one in records["on_demand"].values() for need in msgspec.convert(one, OnDemand).needs]
    for ref in {feature.partition(":")[0] for feature in named if "@" in feature}:
        record = ledger.find("view", ref, dict[str, Any])
        if record is not None:
            views[ref] = {**record, "name": ref}
    return plans.ServedFeatures(
        services=services, views=dict(sorted(views.items())), on_demand=records["on_demand"]
    )


def _newest(ledger: Ledger, noun: str) -> dict[str, dict[str, Any]]:
    """The newest records of a noun by name, of those that the project still defines."""
    defined = ledger.find("feature_set", "defined", dict[str, list[str]]) or {}
    refs: dict[str, int] = {}
    for key in ledger.keys(noun):
        name, _, number = key.rpartition("@")
        if not defined or name in defined.get(noun, ()):
            refs[name] = max(int(number), refs.get(name, 0))
    return {
        name: ledger.get(noun, f"{name}@{number}", dict[str, Any]) for name, number in sorted(refs.items())
    }


def put_in_force(build: Callable[[], plans.Plan], path: Path) -> bool:
    """Publish the plan that ``build`` reads from the ledger, unless just that is in force; says whether it did.

    It is built inside a lock, so that of two publishers at once the later one has the newer ledger. A plan that can't be
    read is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = build()
        try:
            if path.exists() and plans.read(path) == plan:
                return False
        except Invalid:
            pass
        plans.publish(plan, path)
    return True
