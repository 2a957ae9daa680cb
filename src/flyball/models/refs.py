"""What a ref such as ``delays@champion`` means: models by any name they have had, versions, aliases, stages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from flyball.core.events import Event
from flyball.core.records import Alias, ModelVersion, RegisteredModel
from flyball.errors import NotFound, nearest
from flyball.stores.metadata import Ledger, Transaction

Reader = Ledger | Transaction  # both find and list
_FEW = 10
STAGES = ("None", "Staging", "Production", "Archived")  # MLflow's; a ref may name one as if it were an alias


class Head(msgspec.Struct, frozen=True):
    """What finding a version among many needs of it; the rest of its record is skipped."""

    name: str
    number: int
    family: str = ""
    stage: str = "None"
    deleted: bool = False


def lineage_name(ref: str) -> str:
    """A model version's name in the lineage graph, where ``delays@3`` could as well be data."""
    return f"model:{ref}"


def family_of(reader: Reader, name: str) -> str:
    """The first name of the model that is, or once was, called ``name``: what its aliases are keyed on."""
    return reader.find("model_name", name, str) or name


def kin_of(reader: Reader, ref: str) -> str:
    """The family of a version by its ref, known or not."""
    version = reader.find("model", ref, ModelVersion)
    return version.kin if version is not None else ref.rpartition("@")[0]


def find_model(reader: Reader, name: str) -> RegisteredModel | None:
    """The model that is, or once was, called ``name``, deleted or not; ``None`` when there never was one."""
    found = reader.find("registered_model", name, RegisteredModel)  # a first name is never another model's
    if found is not None:
        return found
    family = family_of(reader, name)
    if family != name:
        return reader.find("registered_model", family, RegisteredModel)
    older = [one for one in reader.ls("model", ModelVersion, f"{family}@") if one.kin == family]
    if not older:
        return None
    first, last = older[0], older[-1]  # registered before models had records of their own
    number = max(one.number for one in older)
    return RegisteredModel(
        name=family, family=family, created=first.created, updated=last.created, last=number
    )


def get_model(reader: Reader, name: str) -> RegisteredModel:
    """The model by any name it has had; :class:`NotFound` names those there are."""
    found = find_model(reader, name)
    if found is None:
        raise NotFound(f"no model {name!r}", nearest(name, [one.name for one in models(reader)]), ref=name)
    if found.deleted:
        raise NotFound(
            f"the model {found.name!r} was deleted", "flyball models ls --deleted still shows it", ref=name
        )
    return found


def models(reader: Reader, *, deleted: bool = False) -> list[RegisteredModel]:
    """All models in the order they were made; deleted ones only when asked for."""
    found = reader.ls("registered_model", RegisteredModel)
    known = {name for one in found for name in (one.family, one.name, *one.former)}
    older = dict.fromkeys(key.rpartition("@")[0] for key in _version_keys(reader))
    found += [one for name in older if name not in known and (one := find_model(reader, name)) is not None]
    ordered = sorted(found, key=lambda one: one.created)
    return [one for one in ordered if deleted or not one.deleted]


def _version_keys(reader: Reader) -> list[str]:
    if isinstance(reader, Ledger):
        return reader.keys("model")
    return [f"{one.name}@{one.number}" for one in reader.ls("model", Head)]


def history(ledger: Ledger, model: str, alias: str) -> list[Event]:
    """Every time an alias was set by name, oldest first: who, when, why (``body``: number, before, because).

    Deployments move aliases too: :func:`flyball.models.timeline.changes` has them all.
    """
    key = f"{family_of(ledger, model)}@{alias}"
    return [event for event in ledger.events(kind="alias.set", subject=key) if event.subject == key]


def versions(reader: Reader, model: str | RegisteredModel, *, deleted: bool = False) -> list[ModelVersion]:
    """All versions of a model by number; deleted ones only when asked for."""
    record = model if isinstance(model, RegisteredModel) else find_model(reader, model)
    if record is None:
        return []
    found = [
        one
        for name in dict.fromkeys([record.family, *record.former, record.name])
        for one in reader.ls("model", ModelVersion, f"{name}@")
        if one.kin == record.family and one.name == name and (deleted or not one.deleted)
    ]
    return sorted(found, key=lambda one: one.number)


def newest_of_each_stage(reader: Reader, models: Sequence[RegisteredModel]) -> dict[str, list[ModelVersion]]:
    """By family: the newest version of each stage, stages in the order in which their first version came."""
    wanted = {one.family for one in models}
    names = [name for one in models for name in dict.fromkeys([one.family, *one.former, one.name])]
    prefixes = [f"{name}@" for name in names] if len(names) <= _FEW else [""]  # of many, all are read at once
    heads = {
        f"{one.name}@{one.number}": one for prefix in prefixes for one in reader.ls("model", Head, prefix)
    }
    newest: dict[str, dict[str, Head]] = {family: {} for family in wanted}
    for one in sorted(heads.values(), key=lambda one: one.number):
        family = one.family or one.name
        if family in wanted and not one.deleted:
            newest[family][one.stage] = one
    return {
        family: [
            version
            for one in stages.values()
            if (version := reader.find("model", f"{one.name}@{one.number}", ModelVersion)) is not None
        ]
        for family, stages in newest.items()
    }


def aliases_of(reader: Reader, model: str | RegisteredModel) -> dict[str, int]:
    """Where each alias points now."""
    family = model.family if isinstance(model, RegisteredModel) else family_of(reader, model)
    return {one.alias: one.number for one in reader.ls("alias", Alias, f"{family}@") if one.model == family}


def find_version(reader: Reader, model: RegisteredModel, number: int) -> ModelVersion | None:
    """One version by number, deleted or not."""
    for name in dict.fromkeys([model.name, *model.former, model.family]):
        found = reader.find("model", f"{name}@{number}", ModelVersion)
        if found is not None and found.kin == model.family:
            return found
    return None


def resolve(reader: Reader, ref: str, *, deleted: bool = False) -> ModelVersion:
    """The version that ``delays@champion``, ``delays@7``, ``delays@production`` or ``delays`` (the newest) names now.

    An alias wins over a stage of the same name. A deleted version is found only when ``deleted`` ones are asked for.
    """
    name, wanted = split(reader, ref)
    model = find_model(reader, name) if deleted else get_model(reader, name)
    if model is None:
        raise NotFound(f"no model {name!r}", nearest(name, [one.name for one in models(reader)]), ref=ref)
    found = _version(reader, model, wanted, deleted)
    if found is None and wanted and (whole := find_model(reader, ref)) is not None:
        model, found = whole, _version(reader, whole, "", deleted)  # a name with an @ in it
    if found is None:
        raise _not_found(reader, model, ref, wanted)
    if found.deleted and not deleted:
        raise NotFound(f"{ref} was deleted", f"flyball explain {found.ref} still knows it", ref=ref)
    return found


def split(reader: Reader, ref: str) -> tuple[str, str]:
    """Name and what is wanted of it: a name that holds an ``@`` itself is found by its whole."""
    name, mark, wanted = ref.rpartition("@")
    if not mark:
        return ref, ""
    if find_model(reader, name) is None and find_model(reader, ref) is not None:
        return ref, ""
    return name, wanted


def _version(reader: Reader, model: RegisteredModel, wanted: str, deleted: bool) -> ModelVersion | None:
    if wanted in ("", "latest"):
        return _newest(reader, model, deleted)
    if wanted.isascii() and wanted.isdigit():
        return find_version(reader, model, int(wanted))
    alias = reader.find("alias", f"{model.family}@{wanted}", Alias)
    if alias is not None:
        return find_version(reader, model, alias.number)
    stage = wanted.capitalize()
    if stage not in STAGES[1:]:
        return None
    return next(
        (one for one in newest_of_each_stage(reader, [model])[model.family] if one.stage == stage), None
    )


def _newest(reader: Reader, model: RegisteredModel, deleted: bool) -> ModelVersion | None:
    """Down from the highest number that was given: the first that is there mostly is the one."""
    for number in range(model.last, 0, -1):
        found = find_version(reader, model, number)
        if found is not None and (deleted or not found.deleted):
            return found
    return None


def _not_found(reader: Reader, model: RegisteredModel, ref: str, wanted: str) -> NotFound:
    known, gone = versions(reader, model), ""
    if not known:
        known, gone = versions(reader, model, deleted=True), ", all deleted"
    if not known:
        return NotFound(f"{model.name} has no versions", "flyball models ls shows what there is", ref=ref)
    numbers = [one.number for one in known]
    told = (
        f"versions {numbers[0]} to {numbers[-1]}"
        if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1))
        else f"{'version' if len(numbers) == 1 else 'versions'} {', '.join(map(str, numbers))}"
    )
    aliases = ", ".join(sorted(aliases_of(reader, model))) or "none"
    hint = f"{model.name} has {told}{gone} and aliases {aliases}"
    return NotFound(f"no model version {ref!r}", hint, ref=ref)
