"""What people say of models and versions: names, descriptions, tags, stages; renaming, and deleting softly.

Deleted models and versions are hidden and kept: predictions go on being explained, and no number is given twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from flyball.core.records import Alias, ModelVersion, RegisteredModel, Route
from flyball.errors import Conflict, Invalid, NotFound, Refused
from flyball.models import approvals
from flyball.models.refs import (
    STAGES,
    Reader,
    find_model,
    find_version,
    get_model,
    resolve,
    versions,
)
from flyball.stores.metadata import Ledger, Transaction

Change = tuple[str, str, Any]
LONGEST_NAME = 256
MOST_TAGS = 1000  # of one model or version: each change writes them all
MOST_LETTERS = 100_000  # of a description, or of a tag's value


def create(
    ledger: Ledger, name: str, *, actor: str, description: str = "", tags: Mapping[str, str] | None = None
) -> RegisteredModel:
    """A model without versions yet; :class:`Conflict` when the name is taken, or was another model's once."""
    with ledger.transaction() as tx:
        before = find_model(tx, name)
        if before is not None and not before.deleted:
            raise _taken(before, name)
        record = fresh(tx, name, before, description=description, tags=tags)
        tx.append(
            "model.created",
            record.family,
            actor=actor,
            at=record.created,
            sets=[("registered_model", record.family, record)],
        )
    return record


def fresh(
    tx: Transaction,
    name: str,
    before: RegisteredModel | None,
    *,
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> RegisteredModel:
    """A new model's record. One that was deleted comes back empty, and counts on from the numbers it had."""
    check_name(name)
    check_text(description, "a description")
    check_tags(tags or {})
    at = tx.now()
    former = () if before is None else dict.fromkeys([*before.former, before.name])
    return RegisteredModel(
        name=name,
        family=name if before is None else before.family,
        created=at,
        updated=at,
        former=tuple(one for one in former if one != name),
        last=0 if before is None else before.last,
        description=description,
        tags=dict(tags or {}),
    )


def describe(ledger: Ledger, ref: str, text: str, *, actor: str) -> RegisteredModel | ModelVersion:
    """Say what a model (``delays``) or one version (``delays@7``) is for."""
    check_text(text, "a description")
    return _say(ledger, ref, "model.described", {"description": text}, actor=actor, body={"text": text})


def tag(
    ledger: Ledger, ref: str, *, put: Mapping[str, str] | None = None, drop: str = "", actor: str
) -> RegisteredModel | ModelVersion:
    """Set tags of a model or a version, or drop one."""
    with ledger.transaction() as tx:
        before = _thing(tx, ref)
        tags = {**before.tags, **(put or {})}
        tags.pop(drop, None)
        check_tags(tags)
        if tags == before.tags:
            return before
        body = {"put": dict(put or {}), "drop": drop}
        return _write(
            tx, before, "model.tagged", {"tags": tags, "updated": before.updated}, actor=actor, body=body
        )


def rename(ledger: Ledger, name: str, new: str, *, actor: str, because: str = "") -> RegisteredModel:
    """Give a model another name. Versions keep the refs they were registered under; the old name goes on finding them."""
    check_name(new)
    with ledger.transaction() as tx:
        before = get_model(tx, name)
        if new == before.name:
            return before
        other = find_model(tx, new)
        if other is not None and other.family != before.family:
            raise _taken(other, new)
        former = dict.fromkeys([*before.former, before.name])
        record = msgspec.structs.replace(
            before, name=new, former=tuple(one for one in former if one != new), updated=tx.now()
        )
        tx.append(
            "model.renamed",
            before.family,
            actor=actor,
            sets=[
                ("registered_model", before.family, record),
                *(("model_name", one, before.family) for one in (before.name, new)),
            ],
            body={"from": before.name, "to": new, "because": because},
        )
    return record


def transition(
    ledger: Ledger, ref: str, stage: str, *, actor: str, archive_others: bool = False, because: str = ""
) -> ModelVersion:
    """Put a version into a stage (None, Staging, Production, Archived); with ``archive_others`` alone."""
    stage = canonical_stage(stage)
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        if stage != version.stage:
            approvals.guard(tx, version, stage)
        at = tx.now()
        moved = msgspec.structs.replace(version, stage=stage, updated=at)
        sets: list[Change] = [("model", moved.ref, moved)]
        if archive_others:
            sets += [
                ("model", one.ref, msgspec.structs.replace(one, stage="Archived", updated=at))
                for one in versions(tx, version.kin)
                if one.stage == stage and one.number != version.number
            ]
        model = touched(tx, version.kin, at)
        sets.append(("registered_model", model.family, model))
        body = {"stage": stage, "before": version.stage, "because": because}
        tx.append("model.staged", moved.ref, actor=actor, at=at, sets=sets, body=body)
    return moved


def delete_version(ledger: Ledger, ref: str, *, actor: str, because: str = "") -> ModelVersion:
    """Hide a version and drop its aliases; its number is never given again. :class:`Refused` while it serves."""
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        _refuse_serving(tx, [version])
        at = tx.now()
        gone = msgspec.structs.replace(version, deleted=True, stage="None", updated=at)
        model = touched(tx, version.kin, at)
        tx.append(
            "model.deleted",
            gone.ref,
            actor=actor,
            at=at,
            sets=[
                ("model", gone.ref, gone),
                ("registered_model", model.family, model),
                *_without_aliases(tx, [version]),
            ],
            body={"because": because},
        )
    return gone


def delete_model(ledger: Ledger, name: str, *, actor: str, because: str = "") -> RegisteredModel:
    """Hide a model with all its versions and aliases. :class:`Refused` while one of them serves."""
    with ledger.transaction() as tx:
        model = get_model(tx, name)
        present = versions(tx, model.family)
        _refuse_serving(tx, present)
        at = tx.now()
        gone = msgspec.structs.replace(model, deleted=True, updated=at, roles=())
        hidden = [msgspec.structs.replace(one, deleted=True, stage="None", updated=at) for one in present]
        tx.append(
            "model.deleted",
            model.family,
            actor=actor,
            at=at,
            sets=[
                ("registered_model", model.family, gone),
                *(("model", one.ref, one) for one in hidden),
                *_without_aliases(tx, present),
            ],
            body={"because": because, "versions": [one.number for one in present]},
        )
    return gone


def touched(tx: Transaction, family: str, at: Any) -> RegisteredModel:
    """The model's record with a new time of change."""
    return msgspec.structs.replace(get_model(tx, family), updated=at)


def canonical_stage(stage: str) -> str:
    """A stage as it is written, whatever the case it was given in."""
    found = next((one for one in STAGES if one.lower() == stage.lower()), None)
    if found is None:
        raise Invalid(
            f"Invalid Model Version stage: {stage}. Value must be one of {', '.join(STAGES)}.", stage=stage
        )
    return found


def serving_at(reader: Reader, ref: str) -> list[str]:
    """The endpoints whose route names a version now."""
    return [
        route.endpoint
        for route in reader.ls("route", Route)
        if ref in route.shadows or any(arm.model == ref for arm in route.arms)
    ]


def check_name(name: str) -> None:
    """What can name a model at all, MLflow's names included; pipelines and the command line ask for tamer ones."""
    if not name.strip() or any(letter in name for letter in "/:\n"):
        raise Invalid(f"{name!r} can't name a model", "use letters, digits, '-', '_' and '.'")
    if len(name) > LONGEST_NAME:
        raise Invalid(f"a model's name has {len(name)} letters", f"at most {LONGEST_NAME}")


def check_tags(tags: Mapping[str, str]) -> None:
    """As many tags as one record can carry, none of them a document."""
    if len(tags) > MOST_TAGS:
        raise Invalid(f"that would be {len(tags)} tags", f"a model or a version has at most {MOST_TAGS}")
    for key, value in tags.items():
        check_text(value, f"the tag {key!r:.80}")


def check_text(text: str, what: str) -> None:
    """Words for people, not a file."""
    if len(text) > MOST_LETTERS:
        raise Invalid(
            f"{what} has {len(text)} letters", f"at most {MOST_LETTERS}; keep longer ones as an artifact"
        )


def _say(
    ledger: Ledger, ref: str, kind: str, change: dict[str, Any], *, actor: str, body: dict[str, Any]
) -> RegisteredModel | ModelVersion:
    with ledger.transaction() as tx:
        return _write(tx, _thing(tx, ref), kind, change, actor=actor, body=body)


def _thing(tx: Transaction, ref: str) -> RegisteredModel | ModelVersion:
    """A model when the whole ref is its name, else a version."""
    model = find_model(tx, ref)
    if model is not None and not model.deleted:
        return model
    return resolve(tx, ref) if "@" in ref else get_model(tx, ref)


def _write(
    tx: Transaction,
    before: RegisteredModel | ModelVersion,
    kind: str,
    change: dict[str, Any],
    *,
    actor: str,
    body: dict[str, Any],
) -> RegisteredModel | ModelVersion:
    at = tx.now()
    record = msgspec.structs.replace(before, **{"updated": at, **change})  # tags leave it, as MLflow does
    noun, key = (
        ("model", record.ref) if isinstance(record, ModelVersion) else ("registered_model", record.family)
    )
    tx.append(kind, key, actor=actor, at=at, sets=[(noun, key, record)], body=body)
    return record


def _without_aliases(tx: Transaction, gone: list[ModelVersion]) -> list[Change]:
    numbers = {one.number for one in gone}
    family = gone[0].kin if gone else ""
    return [
        ("alias", one.key, None)
        for one in tx.ls("alias", Alias, f"{family}@")
        if one.model == family and one.number in numbers
    ]


def _refuse_serving(tx: Transaction, gone: list[ModelVersion]) -> None:
    for version in gone:
        if endpoints := serving_at(tx, version.ref):
            raise Refused(
                f"{version.ref} serves at {', '.join(endpoints)}",
                f"deploy another version first: flyball deploy MODEL@VERSION --endpoint {endpoints[0]}",
                version=version.ref,
                endpoints=endpoints,
            )


def _taken(other: RegisteredModel, name: str) -> Conflict:
    if other.name == name and not other.deleted:
        return Conflict(f"a model {name!r} exists", "flyball models ls", name=name)
    was = "a deleted model" if other.deleted else f"the model that is now called {other.name!r}"
    return Conflict(
        f"{name!r} was the name of {was}, whose versions are still known by it",
        "take another name",
        name=name,
    )


def named(reader: Reader, name: str) -> RegisteredModel:
    """The model that is called exactly this now: former names don't count. For clients that know no others."""
    found = find_model(reader, name)
    if found is None or found.deleted or found.name != name:
        raise NotFound(f"no model {name!r}", name=name)
    return found


def version_of(reader: Reader, model: RegisteredModel, number: int) -> ModelVersion:
    """One version by number; :class:`NotFound` when there is none or it was deleted."""
    found = find_version(reader, model, number)
    if found is None or found.deleted:
        raise NotFound(f"no version {number} of {model.name}", name=model.name, version=number)
    return found
