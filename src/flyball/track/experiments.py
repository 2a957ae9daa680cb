"""Experiments: runs that are looked at together. "0" is Default and always there.

    ensure(ledger, name, *, actor) -> Experiment     the active one of that name, made when there is none
    create(ledger, name, *, actor, tags={}, artifact_location="") -> Experiment      a name that exists is Conflict
    get(ledger, id) -> Experiment                    NotFound names those there are; "0" is made on first need
    by_name(ledger, name) -> Experiment | None       deleted ones too
    ls(ledger, view="active" | "deleted" | "all") -> [Experiment]       oldest first
    rename(ledger, id, name, *, actor)               set_tags(ledger, id, tags, *, actor)
    untag(ledger, id, name, *, actor)                delete(ledger, id, *, actor) / restore(ledger, id, *, actor)

Each change is an event; all return the Experiment as it is then. A name belongs to one experiment, deleted or not.
Deleting one takes its runs out of sight with it, and restoring brings back those (and only those) that went with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa

from flyball.core.clock import to_us
from flyball.core.records import Experiment, Run
from flyball.errors import Conflict, Invalid, NotFound, nearest
from flyball.stores.run_facts import check_name
from flyball.stores.run_seal import put_head
from flyball.stores.run_tables import RUNS

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger, Transaction

DEFAULT = "0"
DEFAULT_NAME = "Default"
View = Literal["active", "deleted", "all"]

# Which id a name had last: looking a name up reads all experiments, and each run that starts asks.
_known: WeakKeyDictionary[Ledger, dict[str, str]] = WeakKeyDictionary()


def ensure(ledger: Ledger, name: str, *, actor: str) -> Experiment:
    """The active experiment of that name; made when there is none, brought back when it was deleted."""
    identifier = _known.setdefault(ledger, {}).get(name)
    if identifier is not None:
        found = ledger.find("experiment", identifier, Experiment)
        if found is not None and found.name == name and found.lifecycle == "active":
            return found
    found = by_name(ledger, name)
    if found is not None and found.lifecycle == "deleted":
        found = restore(ledger, found.id, actor=actor)
    if found is None:
        found = _default(ledger) if name == DEFAULT_NAME else None
    if found is None:
        try:
            found = create(ledger, name, actor=actor)
        except Conflict:  # another process made it meanwhile
            found = by_name(ledger, name)
            if found is None:
                raise
    _known[ledger][name] = found.id
    return found


def create(
    ledger: Ledger,
    name: str,
    *,
    actor: str,
    tags: Mapping[str, str] | None = None,
    artifact_location: str = "",
) -> Experiment:
    """A new experiment; a name that exists (deleted or not) is :class:`Conflict`."""
    _check(name)
    with ledger.transaction() as tx:
        _make_default(tx)
        known = tx.ls("experiment", Experiment)
        taken = next((one for one in known if one.name == name), None)
        if taken is not None:
            raise Conflict(
                f"there is an experiment {name!r} ({taken.lifecycle}, id {taken.id})",
                "restore it" if taken.lifecycle == "deleted" else "use it, or take another name",
                id=taken.id,
                lifecycle=taken.lifecycle,
            )
        numbers = [int(one.id) for one in known if one.id.isdigit()]
        now = tx.now()
        made = Experiment(
            id=str(max(numbers, default=0) + 1),
            name=name,
            created=now,
            updated=now,
            tags=dict(tags or {}),
            artifact_location=artifact_location,
        )
        tx.append("experiment.created", made.id, actor=actor, sets=[("experiment", made.id, made)])
    return made


def get(ledger: Ledger, identifier: str) -> Experiment:
    """The experiment of that id; "0" is there from its first need on."""
    if identifier == DEFAULT:
        return _default(ledger)
    found = ledger.find("experiment", identifier, Experiment)
    if found is None:
        known = [one.id for one in ls(ledger)]
        raise NotFound(f"no experiment {identifier!r}", nearest(identifier, known), id=identifier)
    return found


def by_name(ledger: Ledger, name: str) -> Experiment | None:
    """The experiment of that name, deleted or not, or ``None``."""
    if name == DEFAULT_NAME:
        return next((one for one in ls(ledger, "all") if one.name == name), None)
    return next((one for one in ledger.ls("experiment", Experiment) if one.name == name), None)


def ls(ledger: Ledger, view: View = "active") -> list[Experiment]:
    """Experiments, oldest first; Default is one of them even when no run is in it."""
    _default(ledger)
    return [one for one in ledger.ls("experiment", Experiment) if view in ("all", one.lifecycle)]


def rename(ledger: Ledger, identifier: str, name: str, *, actor: str) -> Experiment:
    """Give an experiment another name."""
    _check(name)
    get(ledger, identifier)
    with ledger.transaction() as tx:
        found = _active(tx, identifier)
        taken = next((one for one in tx.ls("experiment", Experiment) if one.name == name), None)
        if taken is not None and taken.id != identifier:
            raise Conflict(
                f"there is an experiment {name!r} (id {taken.id})", "take another name", id=taken.id
            )
        return _set(tx, "experiment.renamed", msgspec.structs.replace(found, name=name), actor)


def set_tags(ledger: Ledger, identifier: str, tags: Mapping[str, str], *, actor: str) -> Experiment:
    """Set tags of an experiment; of each the last value counts."""
    for name in tags:
        check_name("tag", name)
    get(ledger, identifier)
    with ledger.transaction() as tx:
        found = _active(tx, identifier)
        changed = msgspec.structs.replace(found, tags={**found.tags, **tags})
        return _set(tx, "experiment.tagged", changed, actor)


def untag(ledger: Ledger, identifier: str, name: str, *, actor: str) -> Experiment:
    """Take a tag away; :class:`NotFound` when it is not there."""
    get(ledger, identifier)
    with ledger.transaction() as tx:
        found = _active(tx, identifier)
        if name not in found.tags:
            raise NotFound(
                f"the experiment {identifier} has no tag {name!r}", nearest(name, list(found.tags))
            )
        left = {key: value for key, value in found.tags.items() if key != name}
        return _set(tx, "experiment.untagged", msgspec.structs.replace(found, tags=left), actor)


def delete(ledger: Ledger, identifier: str, *, actor: str) -> Experiment:
    """Take an experiment and its runs out of sight. Default can't be."""
    if identifier == DEFAULT:
        raise Invalid("the experiment Default can't be deleted", "delete its runs: flyball runs delete")
    return _move(ledger, identifier, "deleted", actor)


def restore(ledger: Ledger, identifier: str, *, actor: str) -> Experiment:
    """Bring a deleted experiment back, and the runs that went with it."""
    return _move(ledger, identifier, "active", actor)


def _move(ledger: Ledger, identifier: str, lifecycle: Literal["active", "deleted"], actor: str) -> Experiment:
    before = get(ledger, identifier)
    with ledger.transaction() as tx:
        found = tx.find("experiment", identifier, Experiment) or before
        if found.lifecycle == lifecycle:
            return found
        now = tx.now()
        # The runs that went with an experiment carry its very time: only those come back with it.
        went: sa.ColumnElement[bool] = RUNS.c.deleted_us.is_(None)
        if lifecycle == "active":
            went = RUNS.c.deleted_us == to_us(found.updated)
        query = sa.select(RUNS.c.id).where(RUNS.c.experiment == identifier, went)
        moved = msgspec.structs.replace(found, lifecycle=lifecycle, updated=now)
        runs: list[Run] = []
        for key in tx.connection.execute(query).scalars().all():
            run = tx.find("run", key, Run)
            if run is not None:
                runs.append(msgspec.structs.replace(run, deleted=now if lifecycle == "deleted" else None))
        kind = "experiment.deleted" if lifecycle == "deleted" else "experiment.restored"
        sets = [("experiment", identifier, moved), *(("run", run.id, run) for run in runs)]
        tx.append(kind, identifier, actor=actor, sets=sets)
        for run in runs:
            put_head(tx, run)
    return moved


def _default(ledger: Ledger) -> Experiment:
    found = ledger.find("experiment", DEFAULT, Experiment)
    if found is None:
        with ledger.transaction() as tx:
            found = _make_default(tx)
    return found


def _make_default(tx: Transaction) -> Experiment:
    found = tx.find("experiment", DEFAULT, Experiment)
    if found is None:
        now = tx.now()
        found = Experiment(id=DEFAULT, name=DEFAULT_NAME, created=now, updated=now)
        tx.append("experiment.created", DEFAULT, actor="flyball", sets=[("experiment", DEFAULT, found)])
    return found


def _active(tx: Transaction, identifier: str) -> Experiment:
    found = tx.find("experiment", identifier, Experiment)
    if found is None:
        raise NotFound(f"no experiment {identifier!r}", "flyball runs experiments names them", id=identifier)
    if found.lifecycle == "deleted":
        raise Invalid(f"the experiment {found.name!r} is deleted", "restore it first", id=identifier)
    return found


def _set(tx: Transaction, kind: str, changed: Experiment, actor: str) -> Experiment:
    changed = msgspec.structs.replace(changed, updated=tx.now())
    tx.append(kind, changed.id, actor=actor, sets=[("experiment", changed.id, changed)])
    return changed


def _check(name: str) -> None:
    if not name or len(name) > 500:
        raise Invalid("the name of an experiment is 1 to 500 letters", "give it one")
    check_name("experiment", name[:250])
