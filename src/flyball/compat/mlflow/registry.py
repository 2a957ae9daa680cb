"""MLflow's ``registered-models/…`` and ``model-versions/…``: our registry in MLflow's words.

Three things differ from MLflow on purpose: a number is given once, also when its model was deleted and made again; the
name a renamed model had stays its own; and a protected alias or stage waits for its approvals (``PERMISSION_DENIED``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flyball.compat.mlflow import limits, registry_search
from flyball.compat.mlflow.wire import (
    Asked,
    Call,
    MlflowError,
    already_exists,
    does_not_exist,
    invalid,
    offset_of,
    page,
)
from flyball.core.clock import to_us
from flyball.core.records import Alias, ModelVersion, RegisteredModel
from flyball.errors import Conflict, Invalid, NotFound
from flyball.models import catalogue, refs, registry

if TYPE_CHECKING:
    from flyball.service import Workspace

TAG_VALUE_LENGTH = 100_000
ALIAS_LENGTH = 255
MOST_MODELS, MOST_VERSIONS = 1000, 200_000
_ALIAS = re.compile(r"^[\w\-]*$")
_NUMBERED = re.compile(r"^[vV]?\d+$")
_FEW = 10
_BECAUSE = "through MLflow's client"


class KeyValue(Asked):
    key: str
    value: str = ""


class _Name(Asked):
    name: str


class _CreateModel(Asked):
    name: str
    tags: tuple[KeyValue, ...] = ()
    description: str = ""


class _Rename(Asked):
    name: str
    new_name: str


class _Describe(Asked):
    name: str
    description: str = ""


class _Search(Asked):
    filter: str = ""
    max_results: int = 0
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class _Latest(Asked):
    name: str
    stages: tuple[str, ...] = ()


class _ModelTag(Asked):
    name: str
    key: str
    value: str = ""


class _ModelTagName(Asked):
    name: str
    key: str


class _SetAlias(Asked):
    name: str
    alias: str
    version: str


class _AliasName(Asked):
    name: str
    alias: str


class CreateVersion(Asked):
    name: str
    source: str
    run_id: str = ""
    tags: tuple[KeyValue, ...] = ()
    run_link: str = ""
    description: str = ""
    model_id: str = ""


class _Version(Asked):
    name: str
    version: str


class _DescribeVersion(Asked):
    name: str
    version: str
    description: str = ""


class _Transition(Asked):
    name: str
    version: str
    stage: str
    archive_existing_versions: bool = False


class _VersionTag(Asked):
    name: str
    version: str
    key: str
    value: str = ""


class _VersionTagName(Asked):
    name: str
    version: str
    key: str


# --- registered models ------------------------------------------------------------------------------------------------


def _create(ws: Workspace, asked: _CreateModel) -> dict[str, Any]:
    check_name(asked.name)
    tags = _tags(asked.tags)
    try:
        made = catalogue.create(
            ws.ledger, asked.name, actor=ws.actor, description=asked.description, tags=tags
        )
    except Conflict as error:
        said = f"Registered Model (name={asked.name}) already exists."
        taken = refs.find_model(ws.ledger, asked.name)
        same = taken is not None and taken.name == asked.name
        raise already_exists(said if same else f"{said} {error.what}.") from error
    return {"registered_model": _model(ws, made)}


def _get(ws: Workspace, asked: _Name) -> dict[str, Any]:
    return {"registered_model": _model(ws, named(ws, asked.name))}


def _update(ws: Workspace, asked: _Describe) -> dict[str, Any]:
    named(ws, asked.name)
    changed = catalogue.describe(ws.ledger, asked.name, asked.description, actor=ws.actor)
    assert isinstance(changed, RegisteredModel)
    return {"registered_model": _model(ws, changed)}


def _rename(ws: Workspace, asked: _Rename) -> dict[str, Any]:
    check_name(asked.new_name)
    named(ws, asked.name)
    try:
        changed = catalogue.rename(ws.ledger, asked.name, asked.new_name, actor=ws.actor, because=_BECAUSE)
    except Conflict as error:
        raise already_exists(
            f"Registered Model (name={asked.new_name}) already exists. Error: {error.what}"
        ) from error
    return {"registered_model": _model(ws, changed)}


def _delete(ws: Workspace, asked: _Name) -> dict[str, Any]:
    named(ws, asked.name)
    catalogue.delete_model(ws.ledger, asked.name, actor=ws.actor, because=_BECAUSE)
    return {}


def _search(ws: Workspace, asked: _Search) -> dict[str, Any]:
    most = _most(asked.max_results or 100, MOST_MODELS)
    offset_of(asked.page_token)
    rows, token = page(registry_search.models(ws, asked.filter, asked.order_by), most, asked.page_token)
    return {
        "registered_models": _models(ws, rows),
        **({"next_page_token": token} if token else {}),
    }


def _latest(ws: Workspace, asked: _Latest) -> dict[str, Any]:
    model = named(ws, asked.name)
    stages = {_stage(one) for one in asked.stages or refs.STAGES}
    newest = refs.newest_of_each_stage(ws.ledger, [model])[model.family]
    found = [one for one in newest if one.stage in stages]
    pointing = refs.aliases_of(ws.ledger, model)
    return {"model_versions": [version(model, one, pointing) for one in found]}


def _set_tag(ws: Workspace, asked: _ModelTag) -> dict[str, Any]:
    check_name(asked.name)
    put = _tags([KeyValue(asked.key, asked.value)])
    named(ws, asked.name)
    catalogue.tag(ws.ledger, asked.name, put=put, actor=ws.actor)
    return {}


def _delete_tag(ws: Workspace, asked: _ModelTagName) -> dict[str, Any]:
    check_name(asked.name)
    limits.name(asked.key, "key", limit=10**6)
    named(ws, asked.name)
    catalogue.tag(ws.ledger, asked.name, drop=asked.key, actor=ws.actor)
    return {}


# --- aliases ----------------------------------------------------------------------------------------------------------


def _set_alias(ws: Workspace, asked: _SetAlias) -> dict[str, Any]:
    check_name(asked.name)
    _alias(asked.alias)
    if asked.alias.lower() == "latest":
        raise invalid("'latest' alias name (case insensitive) is reserved.")
    if _NUMBERED.match(asked.alias):
        raise invalid(f"Version alias name '{asked.alias}' is reserved.")
    model, found = _found(ws, asked.name, asked.version)
    registry.set_alias(ws.ledger, model.family, asked.alias, found.number, because=_BECAUSE, actor=ws.actor)
    return {}


def _delete_alias(ws: Workspace, asked: _AliasName) -> dict[str, Any]:
    check_name(asked.name)
    _alias(asked.alias)
    model = named(ws, asked.name)
    if asked.alias in refs.aliases_of(ws.ledger, model):
        registry.delete_alias(ws.ledger, model.family, asked.alias, because=_BECAUSE, actor=ws.actor)
    return {}


def _by_alias(ws: Workspace, asked: _AliasName) -> dict[str, Any]:
    check_name(asked.name)
    _alias(asked.alias)
    model = named(ws, asked.name)
    pointing = refs.aliases_of(ws.ledger, model)
    if asked.alias.lower() == "latest":
        known = refs.versions(ws.ledger, model)
        if not known:
            raise does_not_exist(f"Latest version not found for model {asked.name}.")
        return {"model_version": version(model, known[-1], pointing)}
    if asked.alias not in pointing:
        raise invalid(f"Registered model alias {asked.alias} not found.")
    found = catalogue.version_of(ws.ledger, model, pointing[asked.alias])
    return {"model_version": version(model, found, pointing)}


# --- versions ---------------------------------------------------------------------------------------------------------


def _create_version(ws: Workspace, asked: CreateVersion) -> dict[str, Any]:
    from flyball.compat.mlflow import versions

    check_name(asked.name)
    tags = _tags(asked.tags)
    if tags.get(registry_search.PROMPT, "false").lower() == "true":
        raise MlflowError("NOT_IMPLEMENTED", "Flyball does not offer MLflow's prompts.")
    model = named(ws, asked.name)
    made = versions.create(ws, model, asked, tags)
    return {"model_version": version(named(ws, asked.name), made, refs.aliases_of(ws.ledger, model))}


def _get_version(ws: Workspace, asked: _Version) -> dict[str, Any]:
    return {"model_version": _told(ws, *_found(ws, asked.name, asked.version))}


def _update_version(ws: Workspace, asked: _DescribeVersion) -> dict[str, Any]:
    model, found = _found(ws, asked.name, asked.version)
    changed = catalogue.describe(ws.ledger, found.ref, asked.description, actor=ws.actor)
    assert isinstance(changed, ModelVersion)
    return {"model_version": _told(ws, model, changed)}


def _transition(ws: Workspace, asked: _Transition) -> dict[str, Any]:
    stage = _stage(asked.stage)
    if asked.archive_existing_versions and stage not in ("Staging", "Production"):
        raise invalid(
            "Model version transition cannot archive existing model versions because "
            f"'{asked.stage}' is not an Active stage. Valid stages are ['Staging', 'Production']"
        )
    model, found = _found(ws, asked.name, asked.version)
    moved = catalogue.transition(
        ws.ledger,
        found.ref,
        stage,
        actor=ws.actor,
        archive_others=asked.archive_existing_versions,
        because=_BECAUSE,
    )
    return {"model_version": _told(ws, model, moved)}


def _delete_version(ws: Workspace, asked: _Version) -> dict[str, Any]:
    _, found = _found(ws, asked.name, asked.version)
    catalogue.delete_version(ws.ledger, found.ref, actor=ws.actor, because=_BECAUSE)
    return {}


def _download_uri(ws: Workspace, asked: _Version) -> dict[str, Any]:
    from flyball.compat.mlflow import versions

    _, found = _found(ws, asked.name, asked.version)
    return {"artifact_uri": versions.download_uri(found)}


def _search_versions(ws: Workspace, asked: _Search) -> dict[str, Any]:
    most = _most(asked.max_results or MOST_VERSIONS, MOST_VERSIONS)
    offset_of(asked.page_token)
    rows, token = page(registry_search.versions(ws, asked.filter, asked.order_by), most, asked.page_token)
    pointing = _pointing(ws, {model.family: model for model, _ in rows})
    return {
        "model_versions": [version(model, one, pointing[model.family]) for model, one in rows],
        **({"next_page_token": token} if token else {}),
    }


def _set_version_tag(ws: Workspace, asked: _VersionTag) -> dict[str, Any]:
    check_name(asked.name)
    number_of(asked.version)
    put = _tags([KeyValue(asked.key, asked.value)])
    _, found = _found(ws, asked.name, asked.version)
    catalogue.tag(ws.ledger, found.ref, put=put, actor=ws.actor)
    return {}


def _delete_version_tag(ws: Workspace, asked: _VersionTagName) -> dict[str, Any]:
    check_name(asked.name)
    number_of(asked.version)
    limits.name(asked.key, "key", limit=10**6)
    _, found = _found(ws, asked.name, asked.version)
    catalogue.tag(ws.ledger, found.ref, drop=asked.key, actor=ws.actor)
    return {}


# --- records in MLflow's words ----------------------------------------------------------------------------------------


def version(model: RegisteredModel, one: ModelVersion, pointing: dict[str, int]) -> dict[str, Any]:
    """A version as MLflow's client reads it: under the name that the model has now."""
    from flyball.compat.mlflow import versions

    return {
        "name": model.name,
        "version": str(one.number),
        "creation_timestamp": to_us(one.created) // 1000,
        "last_updated_timestamp": to_us(one.updated or one.created) // 1000,
        "description": one.description,
        "current_stage": one.stage,
        "source": one.source or versions.download_uri(one),
        "run_id": one.run or "",
        "run_link": one.run_link,
        "status": one.status,
        "tags": [{"key": key, "value": value} for key, value in one.tags.items()],
        "aliases": sorted(name for name, number in pointing.items() if number == one.number),
        **({"model_id": one.logged_model} if one.logged_model else {}),
    }


def _told(ws: Workspace, model: RegisteredModel, one: ModelVersion) -> dict[str, Any]:
    return version(model, one, refs.aliases_of(ws.ledger, model))


def _model(ws: Workspace, model: RegisteredModel) -> dict[str, Any]:
    return _models(ws, [model])[0]


def _models(ws: Workspace, models: Sequence[RegisteredModel]) -> list[dict[str, Any]]:
    """Models as MLflow's client reads them, each with the newest version of each stage."""
    pointing = _pointing(ws, {one.family: one for one in models})
    newest = refs.newest_of_each_stage(ws.ledger, models)
    return [
        {
            "name": one.name,
            "creation_timestamp": to_us(one.created) // 1000,
            "last_updated_timestamp": to_us(one.updated) // 1000,
            "description": one.description,
            "latest_versions": [version(one, latest, pointing[one.family]) for latest in newest[one.family]],
            "tags": [{"key": key, "value": value} for key, value in one.tags.items()],
            "aliases": [
                {"alias": name, "version": str(number)}
                for name, number in sorted(pointing[one.family].items())
            ],
        }
        for one in models
    ]


# --- what is asked ----------------------------------------------------------------------------------------------------


def named(ws: Workspace, name: str) -> RegisteredModel:
    """The model of that name now; MLflow's words when there is none."""
    check_name(name)
    try:
        return catalogue.named(ws.ledger, name)
    except NotFound as error:
        raise does_not_exist(f"Registered Model with name={name} not found") from error


def _found(ws: Workspace, name: str, number: str) -> tuple[RegisteredModel, ModelVersion]:
    check_name(name)
    wanted = number_of(number)
    try:
        model = catalogue.named(ws.ledger, name)
        return model, catalogue.version_of(ws.ledger, model, wanted)
    except NotFound as error:
        raise does_not_exist(f"Model Version (name={name}, version={wanted}) not found") from error


def number_of(given: str) -> int:
    """A version's number."""
    try:
        return int(given)
    except ValueError as error:
        raise invalid(f"Parameter 'version' must be an integer, got '{given}'.") from error


def check_name(name: str) -> None:
    """What can name a model."""
    if not name.strip():
        raise invalid("Missing value for required parameter 'name'.")
    if any(letter in name for letter in "/:"):
        raise invalid(f"Invalid model name '{name}'. Names cannot contain '/' or ':'.")
    if name in (".", ".."):
        raise limits.refused(
            "name",
            name,
            "Names may be treated as files in certain cases, and must not resolve to other names when treated as "
            f"such. This name would resolve to {name!r}",
        )
    try:
        catalogue.check_name(name)
    except Invalid as error:
        raise invalid(f"{error.what}. {error.hint}") from error


def _tags(given: Sequence[KeyValue]) -> dict[str, str]:
    for one in given:
        limits.name(one.key, "key")
        if len(one.value) > TAG_VALUE_LENGTH:
            raise limits.too_long("value", TAG_VALUE_LENGTH)
    return {one.key: one.value for one in given}


def _alias(name: str) -> None:
    if not _ALIAS.match(name):
        raise invalid(
            f"Invalid alias name: '{name}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )
    if len(name) > ALIAS_LENGTH:
        raise limits.too_long("Registered model alias name", ALIAS_LENGTH)


def _stage(given: str) -> str:
    try:
        return catalogue.canonical_stage(given)
    except Invalid as error:
        raise invalid(error.what) from error


def _most(given: int, limit: int) -> int:
    if given < 1:
        raise invalid(f"Invalid value for max_results. It must be a positive integer, but got {given}")
    if given > limit:
        raise invalid(
            "Invalid value for request parameter max_results. It must be at most "
            f"{limit}, but got value {given}"
        )
    return given


def _pointing(ws: Workspace, models: dict[str, RegisteredModel]) -> dict[str, dict[str, int]]:
    """Where the aliases of these models point; of many, all aliases are read at once."""
    if len(models) <= _FEW:
        return {family: refs.aliases_of(ws.ledger, model) for family, model in models.items()}
    found: dict[str, dict[str, int]] = {family: {} for family in models}
    for alias in ws.ledger.ls("alias", Alias):
        found.setdefault(alias.model, {})[alias.alias] = alias.number
    return found


CALLS = [
    Call("POST", "registered-models/create", _CreateModel, _create),
    Call("GET", "registered-models/get", _Name, _get),
    Call("PATCH", "registered-models/update", _Describe, _update),
    Call("POST", "registered-models/rename", _Rename, _rename),
    Call("DELETE", "registered-models/delete", _Name, _delete),
    Call("GET", "registered-models/search", _Search, _search),
    Call("GET", "registered-models/get-latest-versions", _Latest, _latest),
    Call("POST", "registered-models/get-latest-versions", _Latest, _latest),
    Call("POST", "registered-models/set-tag", _ModelTag, _set_tag),
    Call("DELETE", "registered-models/delete-tag", _ModelTagName, _delete_tag),
    Call("POST", "registered-models/alias", _SetAlias, _set_alias),
    Call("DELETE", "registered-models/alias", _AliasName, _delete_alias),
    Call("GET", "registered-models/alias", _AliasName, _by_alias),
    Call("POST", "model-versions/create", CreateVersion, _create_version),
    Call("GET", "model-versions/get", _Version, _get_version),
    Call("PATCH", "model-versions/update", _DescribeVersion, _update_version),
    Call("POST", "model-versions/transition-stage", _Transition, _transition),
    Call("DELETE", "model-versions/delete", _Version, _delete_version),
    Call("GET", "model-versions/get-download-uri", _Version, _download_uri),
    Call("GET", "model-versions/search", _Search, _search_versions),
    Call("POST", "model-versions/set-tag", _VersionTag, _set_version_tag),
    Call("DELETE", "model-versions/delete-tag", _VersionTagName, _delete_version_tag),
]


def routes(ws: Workspace) -> list[Call]:
    """The registry's calls."""
    return CALLS
