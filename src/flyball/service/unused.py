"""``flyball ls``: what a workspace holds; with --unused what of it nothing uses, with sizes and ages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import FlyballError
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.service.lineage.backward import Backward
    from flyball.service.lineage.reading import Reading

_KEEP = timedelta(
    days=30
)  # what `flyball gc` keeps of cached steps and deleted runs, when it is told nothing
_INNER = frozenset(  # records that serve others
    {
        "registration",
        "step",
        "alias",
        "tag",
        "model_name",
        "view_digest",
        "service_digest",
        "on_demand_digest",
        "endpoint",
    }
)
_NOUNS = {"route": "endpoint", "snapshot": "data"}


class Unused(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that nothing uses. ``bytes`` is what it holds; parts that others hold as well would stay."""

    what: str
    name: str
    bytes: int | None
    created: datetime | None
    age_days: float | None
    because: str


@verb("ls", reads=True)
def ls(unused: bool = False, *, ws: Workspace = CURRENT) -> list[Any]:
    """List what there is by noun; with --unused what nothing reads, serves, aliases or mentions.

    Nothing is removed: flyball data forget and models delete let a thing go, and flyball gc takes bytes that nothing needs.
    """
    from flyball.service.lineage.reading import Reading

    with ws.ledger.reading() as connection:
        reading = Reading(connection)
        if not unused:
            return [
                {"what": _NOUNS.get(noun, noun).replace("_", " "), "count": many}
                for noun, many in reading.ledger.count().items()
                if noun not in _INNER
            ]
        found = list(_Looking(ws, reading).all())
    return [*found, *_blobs(ws)]


class _Looking:
    """One look over the records."""

    def __init__(self, ws: Workspace, reading: Reading) -> None:
        self._ws = ws
        self._ledger = reading.ledger
        self._backward: Backward = reading.backward
        self._now = ws.clock.now()

    def all(self) -> Iterator[Unused]:
        yield from self._snapshots()
        yield from self._models()
        for noun, users in (("view", "service"), ("on_demand", "service"), ("service", "model")):
            yield from self._features(noun, users)
        yield from self._experiments()

    def _snapshots(self) -> Iterator[Unused]:
        tagged = {f"{tag['name']}@{tag['number']}" for _, tag in self._records("tag")}
        newest = {key.rpartition("@")[0]: key for key in self._ledger.keys("snapshot")}
        for key, record in self._records("snapshot"):
            if key in tagged or record.get("forgotten") or self._users(f"snapshot:{key}", record):
                continue
            last = newest[key.rpartition("@")[0]] == key
            files = record.get("files", ())
            yield self._one(
                "data",
                key,
                record,
                record.get("size_bytes") or sum(file["size_bytes"] for file in files),
                "no run has read it"
                + (" yet; it is the newest of its name" if last else ", nothing was made from it"),
            )

    def _users(self, key: str, record: dict[str, Any]) -> bool:
        """Whether a run, a model or other data was made from a snapshot; the version after it does not count."""
        made = [step.made for step in self._backward.of(key) if not step.aside]
        made += [
            row.made for row in self._ledger.edges([key], "down") if row.role not in ("parent", "tagged")
        ]
        return bool(made)

    def _models(self) -> Iterator[Unused]:
        aliased = {f"{alias['model']}@{alias['number']}" for _, alias in self._records("alias")}
        for key, record in self._records("model"):
            family = f"{record.get('family') or record.get('name')}@{record.get('number')}"
            served = any(step.made.startswith("endpoint:") for step in self._backward.of(f"model:{key}"))
            if served or family in aliased or record.get("deleted"):
                continue
            size = sum(self._size(record.get(field)) for field in ("artifact", "native"))
            yield self._one("model", key, record, size, "it was never served, and no alias points at it")

    def _features(self, noun: str, users: str) -> Iterator[Unused]:
        for key, record in self._records(noun):
            if not any(step.made.startswith(f"{users}:") for step in self._backward.of(f"{noun}:{key}")):
                yield self._one(noun, key, record, None, f"no {users} uses it")

    def _experiments(self) -> Iterator[Unused]:
        import sqlalchemy as sa

        from flyball.stores.run_tables import RUNS

        used = set(self._ledger.connection.execute(sa.select(RUNS.c.experiment).distinct()).scalars())
        for key, record in self._records("experiment"):
            if key not in used and key != "0" and record.get("lifecycle") == "active":
                yield self._one("experiment", f"{record.get('name')} ({key})", record, None, "it has no runs")

    def _records(self, noun: str) -> Iterator[tuple[str, dict[str, Any]]]:
        from flyball.service.lineage.nouns import table_of

        for stored in self._ledger.all_of([noun]):
            yield stored.key, table_of(stored.content)

    def _size(self, digest: Any) -> int:
        try:
            return self._ws.blobs.size_bytes(digest) if digest else 0
        except FlyballError:
            return 0

    def _one(self, what: str, name: str, record: dict[str, Any], size: int | None, because: str) -> Unused:
        created = record.get("created")
        at = datetime.fromisoformat(created) if isinstance(created, str) else None
        return Unused(
            what=what, name=name, bytes=size, created=at, age_days=_days(self._now, at), because=because
        )


def _blobs(ws: Workspace) -> Iterator[Unused]:
    """What ``flyball gc`` would take, and what is only too young for it."""
    from flyball.core.clock import SystemClock
    from flyball.service.reach import mark

    now = SystemClock().now()  # the store's own times are the machine's
    stored = list(ws.blobs.stats())
    limit = ws.clock.now() - _KEEP
    kept = mark(ws, steps_before=limit, deleted_before=limit).kept
    for one in sorted(stored, key=lambda one: -one.size_bytes):
        if one.digest not in kept:
            yield Unused(
                what="blob",
                name=one.digest,
                bytes=one.size_bytes,
                created=one.modified,
                age_days=_days(now, one.modified),
                because="nothing needs it: flyball gc takes it when it is a day old",
            )


def _days(now: datetime, at: datetime | None) -> float | None:
    return None if at is None else round((now - at).total_seconds() / 86400, 1)
