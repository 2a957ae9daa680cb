"""MLflow's ``experiments/…``: records of :mod:`flyball.track.experiments` in MLflow's words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from flyball.compat.mlflow import artifacts, limits
from flyball.compat.mlflow.wire import (
    Asked,
    Call,
    MlflowError,
    already_exists,
    does_not_exist,
    invalid,
    offset_of,
    page,
    wrong,
)
from flyball.core.clock import to_us
from flyball.core.records import Experiment
from flyball.errors import Conflict, NotFound
from flyball.stores.runs import Order
from flyball.track import experiments, query

if TYPE_CHECKING:
    from flyball.service import Workspace

View = Literal["active", "deleted", "all"]
_VIEWS: dict[str, View] = {
    "ACTIVE_ONLY": "active",
    "DELETED_ONLY": "deleted",
    "ALL": "all",
    "1": "active",
    "2": "deleted",
    "3": "all",
}


class KeyValue(Asked):
    """A tag or a parameter. MLflow takes ones without a value as empty."""

    key: str = ""
    value: str = ""


class _Create(Asked):
    name: str
    artifact_location: str = ""
    tags: tuple[KeyValue, ...] = ()


class _OfExperiment(Asked):
    experiment_id: str


class _ByName(Asked):
    experiment_name: str


class _Search(Asked):
    view_type: str | int = "ACTIVE_ONLY"
    max_results: int = 0
    filter: str = ""
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class _Update(Asked):
    experiment_id: str
    new_name: str


class _SetTag(Asked):
    experiment_id: str
    key: str
    value: str = ""


class _DeleteTag(Asked):
    experiment_id: str
    key: str


def view_of(given: str | int, parameter: str) -> View:
    """Which of them: by protobuf's name or number."""
    view = _VIEWS.get(str(given))
    if view is None:
        raise wrong(parameter, given)
    return view


def shown(found: Experiment) -> dict[str, Any]:
    """An experiment in MLflow's JSON."""
    return {
        "experiment_id": found.id,
        "name": found.name,
        "artifact_location": found.artifact_location or f"{artifacts.SCHEME}/{found.id}",
        "lifecycle_stage": found.lifecycle,
        "creation_time": to_us(found.created) // 1000,
        "last_update_time": to_us(found.updated) // 1000,
        "tags": [{"key": key, "value": value} for key, value in found.tags.items()],
    }


def find(ws: Workspace, identifier: str) -> Experiment:
    """The experiment of that id, in MLflow's words when there is none; no id is Default's."""
    identifier = identifier or experiments.DEFAULT
    try:
        return experiments.get(ws.ledger, identifier)
    except NotFound:
        if not identifier.lstrip("-").isdigit():
            raise invalid(
                f"Invalid experiment ID '{identifier}'. Experiment ID must be a valid integer."
            ) from None
        raise does_not_exist(f"No Experiment with id={identifier} exists") from None


def active(ws: Workspace, identifier: str) -> Experiment:
    """The same, and it must not be deleted."""
    found = find(ws, identifier)
    if found.lifecycle != "active":
        raise invalid(
            f"The experiment {found.id} must be in the 'active' state. Current state is {found.lifecycle}."
        )
    return found


def searched(found: list[Experiment], where: str, order: Sequence[str]) -> list[Experiment]:
    """Those that match MLflow's filter, in its order: the newest first when nothing is said."""
    expression = query.parse(where, query.EXPERIMENT, strict=True)

    kept = [one for one in found if query.matches(expression, partial(_value, one))]
    orders = [query.parse_order(one, query.EXPERIMENT, strict=True) for one in order] or [
        Order("attribute", "creation_time", True),
        Order("attribute", "experiment_id"),
    ]
    wrong_kind = next((one for one in orders if one.kind != "attribute"), None)
    if wrong_kind is not None:
        raise invalid(f"Invalid order_by entity: {wrong_kind.kind}")
    if not any(one.name == "experiment_id" for one in orders):
        orders.append(Order("attribute", "experiment_id", True))
    for one in reversed(orders):
        kept.sort(key=lambda experiment: _key(experiment, one.name), reverse=one.descending)
    return kept


def _value(one: Experiment, kind: str, name: str) -> Any:
    return one.tags.get(name) if kind == "tag" else _attribute(one, name)


def _attribute(one: Experiment, name: str) -> Any:
    if name == "experiment_id":
        return one.id
    if name == "name":
        return one.name
    return to_us(one.created if name == "creation_time" else one.updated) // 1000


def _key(one: Experiment, name: str) -> Any:
    return int(one.id) if name == "experiment_id" and one.id.isdigit() else _attribute(one, name)


def _create(ws: Workspace, asked: _Create) -> dict[str, Any]:
    name = limits.experiment_name(asked.name)
    location = asked.artifact_location
    if len(location) > limits.ARTIFACT_LOCATION_LENGTH:
        raise invalid(
            "Invalid artifact path length. The length of the artifact path cannot be greater than "
            f"{limits.ARTIFACT_LOCATION_LENGTH} characters. To configure this limit, please set the "
            "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH environment variable."
        )
    if any(mark in location for mark in "#;"):
        raise invalid("'artifact_location' URL can't include fragments or params.")
    if location:
        artifacts.at(location)  # a path of ours must be one
    tags = dict(limits.experiment_tag(one.key, one.value) for one in asked.tags)
    try:
        made = experiments.create(ws.ledger, name, actor=ws.actor, tags=tags, artifact_location=location)
    except Conflict as error:
        raise already_exists(f"Experiment(name={name}) already exists. {error.what}") from error
    return {"experiment_id": made.id}


def _get(ws: Workspace, asked: _OfExperiment) -> dict[str, Any]:
    return {"experiment": shown(find(ws, asked.experiment_id))}


def _get_by_name(ws: Workspace, asked: _ByName) -> dict[str, Any]:
    found = experiments.by_name(ws.ledger, asked.experiment_name)
    if found is None:
        raise does_not_exist(f"Could not find experiment with name '{asked.experiment_name}'")
    return {"experiment": shown(found)}


def _search(ws: Workspace, asked: _Search) -> dict[str, Any]:
    most = limits.max_results(asked.max_results)
    offset_of(asked.page_token)
    view = view_of(asked.view_type, "view_type")
    found = searched(experiments.ls(ws.ledger, view), asked.filter, asked.order_by)
    rows, token = page(found, most, asked.page_token)
    return {
        "experiments": [shown(one) for one in rows],
        **({"next_page_token": token} if token else {}),
    }


def _update(ws: Workspace, asked: _Update) -> dict[str, Any]:
    limits.experiment_name(asked.new_name)
    if find(ws, asked.experiment_id).lifecycle != "active":
        raise MlflowError("INVALID_STATE", "Cannot rename a non-active experiment.")
    try:
        experiments.rename(ws.ledger, asked.experiment_id, asked.new_name, actor=ws.actor)
    except Conflict as error:
        raise already_exists(f"Experiment(name={asked.new_name}) already exists. {error.what}") from error
    return {}


def _delete(ws: Workspace, asked: _OfExperiment) -> dict[str, Any]:
    if find(ws, asked.experiment_id).lifecycle == "deleted":
        raise does_not_exist(f"No Experiment with id={asked.experiment_id} exists")
    experiments.delete(ws.ledger, asked.experiment_id, actor=ws.actor)
    return {}


def _restore(ws: Workspace, asked: _OfExperiment) -> dict[str, Any]:
    if find(ws, asked.experiment_id).lifecycle == "active":
        raise does_not_exist(f"No Experiment with id={asked.experiment_id} exists")
    experiments.restore(ws.ledger, asked.experiment_id, actor=ws.actor)
    return {}


def _set_tag(ws: Workspace, asked: _SetTag) -> dict[str, Any]:
    key, value = limits.experiment_tag(asked.key, asked.value)
    active(ws, asked.experiment_id)
    experiments.set_tags(ws.ledger, asked.experiment_id, {key: value}, actor=ws.actor)
    return {}


def _delete_tag(ws: Workspace, asked: _DeleteTag) -> dict[str, Any]:
    found = active(ws, asked.experiment_id)
    if asked.key not in found.tags:
        raise does_not_exist(f"No tag with name: {asked.key} in experiment with id {asked.experiment_id}")
    experiments.untag(ws.ledger, asked.experiment_id, asked.key, actor=ws.actor)
    return {}


CALLS = [
    Call("POST", "experiments/create", _Create, _create),
    Call("GET", "experiments/get", _OfExperiment, _get),
    Call("GET", "experiments/get-by-name", _ByName, _get_by_name),
    Call("GET", "experiments/search", _Search, _search),
    Call("POST", "experiments/search", _Search, _search),
    Call("POST", "experiments/update", _Update, _update),
    Call("POST", "experiments/delete", _OfExperiment, _delete),
    Call("POST", "experiments/restore", _OfExperiment, _restore),
    Call("POST", "experiments/set-experiment-tag", _SetTag, _set_tag),
    Call("POST", "experiments/delete-experiment-tag", _DeleteTag, _delete_tag),
]
