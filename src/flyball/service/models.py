"""``fb.models`` and ``flyball models``: the registry."""

from __future__ import annotations

from typing import Any

from flyball.core.records import Alias, ModelVersion
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


def register(name: str, model: Any, **options: Any) -> Any:
    """Register a model: in a pipeline a step, elsewhere at once. Options as in :func:`flyball.models.registry.register`."""
    from flyball.service.steps import register_model

    return register_model(name, model, **options)


@verb("models ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List model versions with the aliases that point at them."""
    aliases: dict[str, list[str]] = {}
    for alias in ws.ledger.ls("alias", Alias):
        aliases.setdefault(f"{alias.model}@{alias.number}", []).append(alias.alias)
    return [
        {
            "ref": one.ref,
            "aliases": ", ".join(aliases.get(one.ref, [])),
            "format": one.format,
            "created": one.created,
            "metrics": " ".join(f"{name}={value:.4g}" for name, value in one.metrics.items()),
            "run": one.run,
        }
        for one in ws.ledger.ls("model", ModelVersion)
    ]


@verb("models show", reads=True)
def show(ref: str, *, ws: Workspace = CURRENT) -> ModelVersion:
    """Show one version: signature, artifact, training data, gate, and how equal its export was proved."""
    from flyball.models import registry

    return registry.resolve(ws.ledger, ref)


@verb("models history", reads=True)
def history(model: str, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show who served what, when and why: every change of an alias, oldest first."""
    rows = []
    for event in ws.ledger.events():
        for change in event.sets:
            if change.noun == "alias" and change.key.partition("@")[0] == model:
                number = None if change.content is None else change.content["number"]
                rows.append(
                    {
                        "at": event.at,
                        "alias": change.key.partition("@")[2],
                        "version": f"{model}@{number}" if number else "-",
                        "actor": event.actor,
                        "because": (change.content or {}).get("because", event.kind),
                    }
                )
    return rows
