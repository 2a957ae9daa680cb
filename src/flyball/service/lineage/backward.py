"""What records say they were made from, turned round: who names this thing. Read once, when a walk goes down."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from flyball.core.lineage import Node, is_part
from flyball.service.lineage.nouns import Ref, key_of, refs_of, table_of
from flyball.stores.lineage import LedgerReader

if TYPE_CHECKING:
    from flyball.service.lineage.reading import Reading

# They say nothing of lineage, or say it as another noun does: routes are read from their events.
_SILENT = frozenset(
    {"step", "registration", "environment", "hardware", "configuration", "alias", "route", "endpoint", "commit",
     "collection", "registered_model", "model_name", "trusted_key", "approval", "signature", "view_digest", "service_digest",
     "on_demand_digest"}
)  # fmt: skip
_VERSIONED = {
    "snapshot": "source",
    "model": "model",
    "view": "view",
    "service": "service",
    "on_demand": "on_demand",
}


class Step(NamedTuple):
    """One link, found while walking. ``aside``: shown, and not followed."""

    made: str
    of: str
    role: str
    aside: bool = False


class Served(msgspec.Struct):
    """How an endpoint served a model version."""

    first: datetime
    last: datetime  # when it was routed last
    roles: dict[str, None]
    share: float | None = None  # now; None: not any more


class Backward:
    """Every reference between records, by what is referred to."""

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self._by: dict[str, list[Step]] = {}
        for stored in ledger.all_of([noun for noun in ledger.count() if noun not in _SILENT]):
            self._enter(stored.noun, stored.key, table_of(stored.content))
        for endpoint, models in self._serving().items():
            for model, served in models.items():
                self.add(Step(f"endpoint:{endpoint}", f"model:{model}", _said(served)))

    def of(self, key: str) -> list[Step]:
        """What says that it was made from ``key``."""
        return self._by.get(key, [])

    def _enter(self, noun: str, key: str, record: dict[str, Any]) -> None:
        here = key_of(noun, key)
        for ref in refs_of(noun, record):
            self.add(Step(here, ref.of, ref.role, ref.aside and not is_part(ref.role) and not _by_name(ref)))
        if noun in _VERSIONED:
            self.add(Step(here, f"{_VERSIONED[noun]}:{key.rpartition('@')[0]}", "version"))

    def add(self, step: Step) -> None:
        """Enter one more."""
        self._by.setdefault(step.of, []).append(step)

    def _serving(self) -> dict[str, dict[str, Served]]:
        found: dict[str, dict[str, Served]] = {}
        for endpoint, at, route in self._routes():
            models = found.setdefault(endpoint, {})
            for one in models.values():
                one.share = None
            for model, role, weight in _arms(route):
                known = models.setdefault(model, Served(at, at, {}))
                known.last = at
                known.roles[role] = None
                known.share = weight
        return found

    def _routes(self) -> Iterator[tuple[str, datetime, dict[str, Any]]]:
        for event in self._ledger.routes():
            for change in event.sets:
                if change.noun == "route" and isinstance(change.content, dict):
                    yield change.key, event.at, change.content


def package_node(reading: Reading, key: str) -> Node:
    """A package (``package:numpy==2.0.0``, or any version of it) as a root: environments that hold it lie below."""
    name, _, version = key.partition(":")[2].partition("==")
    node = Node(key=key, noun="package", name=name + (f"=={version}" if version else ""))
    versions: dict[str, int] = {}
    for stored in reading.ledger.all_of(["environment"]):
        packages = table_of(stored.content).get("packages", {})
        found = packages.get(name)
        if found is not None and version in ("", found):
            versions[found] = versions.get(found, 0) + 1
            reading.backward.add(Step(stored.key, key, f"holds {found}"))
    node.facts = {"environments": sum(versions.values()), "versions": ", ".join(versions)}
    node.missing = not versions
    return node


def _by_name(ref: Ref) -> bool:
    """A view reads whatever a source's name stands for: whoever asks about the name means the view too."""
    return ref.of.startswith("source:")


def _arms(route: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    for arm in route.get("arms", ()):
        yield str(arm.get("model")), str(arm.get("role")), float(arm.get("weight", 0.0))
    for shadow in route.get("shadows", ()):
        yield str(shadow), "shadow", 0.0


def _said(served: Served) -> str:
    roles = " and ".join(served.roles)
    if served.share is None:
        return f"served as {roles} from {served.first:%Y-%m-%d %H:%M}, not now"
    return f"serves now: {roles}, {served.share:.0%}, since {served.first:%Y-%m-%d %H:%M}"
