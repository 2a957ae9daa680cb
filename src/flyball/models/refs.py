"""What a ref such as ``delays@champion`` means: versions, aliases and how they came to point where they do."""

from __future__ import annotations

from flyball.core.events import Event
from flyball.core.records import Alias, ModelVersion
from flyball.errors import NotFound, nearest
from flyball.stores.metadata import Ledger


def lineage_name(ref: str) -> str:
    """A model version's name in the lineage graph, where ``delays@3`` could as well be data."""
    return f"model:{ref}"


def history(ledger: Ledger, model: str, alias: str) -> list[Event]:
    """Every time an alias was set, oldest first: who, when, why (``body``: number, before, because)."""
    key = f"{model}@{alias}"
    return [event for event in ledger.events(kind="alias.set", subject=key) if event.subject == key]


def versions(ledger: Ledger, model: str) -> list[ModelVersion]:
    """All versions of a model, oldest first."""
    return ledger.ls("model", ModelVersion, f"{model}@")


def aliases_of(ledger: Ledger, model: str) -> dict[str, int]:
    """Where each alias points now."""
    return {one.alias: one.number for one in ledger.ls("alias", Alias, f"{model}@")}


def resolve(ledger: Ledger, ref: str) -> ModelVersion:
    """The version that ``delays@champion``, ``delays@7`` or ``delays`` (the newest) names now."""
    name, _, wanted = ref.partition("@")
    known = versions(ledger, name)
    if not known:
        names = sorted({key.partition("@")[0] for key in ledger.keys("model")})
        raise NotFound(f"no model {name!r}", nearest(name, names), ref=ref)
    if wanted in ("", "latest"):
        return known[-1]
    pointing = aliases_of(ledger, name)
    number = str(pointing.get(wanted, wanted))
    for version in known:
        if str(version.number) == number:
            return version
    hint = f"{name} has versions 1 to {known[-1].number} and aliases {', '.join(sorted(pointing)) or 'none'}"
    raise NotFound(f"no model version {ref!r}", hint, ref=ref)
