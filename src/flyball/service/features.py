"""Verbs on features: what is defined, what is applied, what is online now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import NotFound, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.definitions import Service, View


@verb("features apply")
def apply(plan: bool = False, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Record the project's views and services; a changed definition is a new version. --plan only shows what would change."""
    rows = []
    refs: dict[str, str] = {}
    for name, view in views(ws).items():
        refs[name], change = _version(ws, "view", name, view.digest, msgspec.to_builtins(view), plan)
        rows.append({"name": name, "kind": "view", "version": refs[name], "change": change})
    for name, service in services(ws).items():
        used = [refs[view.name] for view in service.uses(views(ws))]
        content = {"definition": msgspec.to_builtins(service), "views": used, "digest": service.digest}
        digest = service.digest + "".join(used)
        ref, change = _version(ws, "service", name, digest, content, plan)
        rows.append({"name": name, "kind": "service", "version": ref, "change": change})
    return rows


def _version(
    ws: Workspace, noun: str, name: str, digest: str, content: dict[str, Any], plan: bool
) -> tuple[str, str]:
    """The ref of this definition: the newest version when it is the same, else the next number."""
    with ws.ledger.transaction() as tx:
        number = tx.next_number(noun, name)
        newest = tx.find(f"{noun}_digest", f"{name}@{number - 1}", str) if number > 1 else None
        if newest == digest:
            return f"{name}@{number - 1}", "none"
        if not plan:
            tx.append(
                f"{noun}.applied",
                f"{name}@{number}",
                actor=ws.actor,
                sets=[(noun, f"{name}@{number}", content), (f"{noun}_digest", f"{name}@{number}", digest)],
            )
    return f"{name}@{number}", "new" if number == 1 else "changed"


def views(ws: Workspace) -> dict[str, View]:
    """The views that the project defines."""
    from flyball.features.definitions import View

    return {view.name: view for view in ws.definitions.of(View).values()}


def services(ws: Workspace) -> dict[str, Service]:
    """The services that the project defines."""
    from flyball.features.definitions import Service

    return {service.name: service for service in ws.definitions.of(Service).values()}


def service_named(ws: Workspace, name: str) -> Service:
    """One service; :class:`NotFound` names those there are."""
    found = services(ws)
    if name not in found:
        raise NotFound(f"no feature service {name!r}", nearest(name, list(found)))
    return found[name]


def applied(ws: Workspace, name: str) -> str:
    """The ref of a service's newest applied version; applies the definitions when they were never."""
    service_named(ws, name)
    for row in apply(ws=ws):
        if row["kind"] == "service" and row["name"] == name:
            return str(row["version"])
    raise NotFound(f"no feature service {name!r}", "flyball features apply")


@verb("features ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List the features that the project defines, by view."""
    return [
        {
            "feature": feature,
            "entity": ", ".join(view.entity),
            "source": view.source,
            "happened": view.happened,
            "known": view.known,
        }
        for view in views(ws).values()
        for feature in view.features
    ]


@verb("features show", reads=True)
def show(name: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Show one view or service, as it is defined now."""
    found: dict[str, Any] = {**views(ws), **services(ws)}
    if name not in found:
        raise NotFound(f"no view or service {name!r}", nearest(name, list(found)))
    return {"digest": found[name].digest, **msgspec.to_builtins(found[name])}


@verb("features get", reads=True)
def get(
    service: str,
    entity: dict[str, str] | None = None,
    feature: dict[str, str] | None = None,
    at: str = "",
    *,
    ws: Workspace = CURRENT,
) -> dict[str, Any]:
    """Read a service's values online: --entity NAME=VALUE, --feature NAME=VALUE for request fields."""
    from flyball.core.clock import to_us
    from flyball.features.online import OnlineReader
    from flyball.service.serving import number, parse_when

    found = service_named(ws, service)
    reader = OnlineReader(found, views(ws), ws.online)
    request = {name: number(value) for name, value in (feature or {}).items()}
    moment = parse_when(at) if at else ws.clock.now()
    row = reader.read(dict(entity or {}), request, to_us(moment))
    return dict(zip(found.features, row.values, strict=True))


@verb("features materialize")
def materialize(
    view: str, data: str = "", rebuild: bool = False, *, ws: Workspace = CURRENT
) -> dict[str, Any]:
    """Fill the online store from the newest snapshot of a view's source (or from --data NAME@N); safe to repeat.

    --rebuild empties the view first: after a corrupt store, or a column that was added.
    """
    from flyball.features.filling import materialize as fill
    from flyball.versions import data as snapshots

    known = views(ws)
    if view not in known:
        raise NotFound(f"no view {view!r}", nearest(view, list(known)))
    rows = snapshots.use(ws.ledger, ws.blobs, data or known[view].source).frame()
    if rebuild:
        ws.online.clear(known[view].stored_as)
    return {"view": view, "rows": fill(known[view], rows, ws.online)}
