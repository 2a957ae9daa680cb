"""MLflow's ``runs/log-…`` and tags: params, metrics and tags of runs, all of a request or nothing of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from flyball.compat.mlflow import limits
from flyball.compat.mlflow.experiments import KeyValue
from flyball.compat.mlflow.logged_models import MetricIn, find, measured
from flyball.compat.mlflow.runs import RUN_NAME, OfRun, in_its_words, updated, writable
from flyball.compat.mlflow.wire import Call, MlflowError, does_not_exist, invalid, missing
from flyball.errors import Invalid
from flyball.stores.runs import Point, RunStore

if TYPE_CHECKING:
    from flyball.service import Workspace


class _LogMetric(OfRun, kw_only=True):
    key: str
    value: float
    timestamp: int
    step: int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class _LogParam(OfRun, kw_only=True):
    key: str
    value: str = ""


class _LogBatch(OfRun):
    metrics: tuple[MetricIn, ...] = ()
    params: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class _DeleteTag(OfRun, kw_only=True):
    key: str


class _LogModel(OfRun, kw_only=True):
    model_json: str


def _log_metric(ws: Workspace, asked: _LogMetric) -> dict[str, Any]:
    limits.metric(asked.key, asked.timestamp)
    _write(ws, asked.run, metrics=[cast(MetricIn, asked)])
    return {}


def _log_param(ws: Workspace, asked: _LogParam) -> dict[str, Any]:
    key, value = limits.param(asked.key, asked.value)
    _write(ws, asked.run, params={key: value}, single=True)
    return {}


def _log_batch(ws: Workspace, asked: _LogBatch) -> dict[str, Any]:
    run = limits.run_id(asked.run)
    _named("metrics", asked.metrics)
    _named("params", asked.params)
    _named("tags", asked.tags)
    checked: set[str] = set()  # a batch has a thousand values of a few names
    for place, metric in enumerate(asked.metrics):
        if metric.key not in checked or metric.timestamp < 0:
            checked.add(limits.metric(metric.key, metric.timestamp, f"metrics[{place}]"))
    params = [limits.param(one.key, one.value, f"params[{place}]") for place, one in enumerate(asked.params)]
    tags = [limits.tag(one.key, one.value, f"tags[{place}]") for place, one in enumerate(asked.tags)]
    limits.batch(asked.metrics, asked.params, asked.tags)
    limits.unique(key for key, _ in params)
    _write(ws, run, params=dict(params), metrics=asked.metrics, tags=dict(tags))
    return {}


def _named(what: str, given: Sequence[Any]) -> None:
    place = next((place for place, one in enumerate(given) if not one.key), None)
    if place is not None:
        raise missing(f"{what}[{place}].key")


def _set_tag(ws: Workspace, asked: _LogParam) -> dict[str, Any]:
    key, value = limits.tag(asked.key, asked.value)
    _write(ws, asked.run, tags={key: value})
    return {}


def _write(
    ws: Workspace,
    run: str,
    *,
    params: dict[str, str] | None = None,
    metrics: Sequence[MetricIn] = (),
    tags: dict[str, str] | None = None,
    single: bool = False,
) -> None:
    """All of it or nothing. What was sent twice counts once: a client sends again when an answer is lost."""
    for model in {one.model_id for one in metrics if one.model_id}:
        find(ws, model, allow_deleted=True)
    name = (tags or {}).pop(RUN_NAME, "")
    points = [Point(one.key, one.value, one.step, one.timestamp * 1000) for one in metrics]
    store = RunStore(ws.ledger)
    try:
        with in_its_words(run):
            store.write(run, params=params, metrics=points, tags=tags, once=True, actor=ws.actor)
    except Invalid as error:
        if isinstance(error, MlflowError) or "name" not in error.facts or not params:
            raise
        raise _changed(run, params, store.facts([run])[run].params, single) from error
    if name:
        updated(ws, run, None, None, name)
    if any(one.model_id for one in metrics):
        measured(ws, run, metrics)


def _changed(run: str, given: dict[str, str], known: dict[str, str], single: bool) -> MlflowError:
    """A param is written once; MLflow names both values."""
    differ = [
        {"key": key, "old_value": known[key], "new_value": value}
        for key, value in given.items()
        if key in known and known[key] != value
    ]
    if single and differ:
        return invalid(
            f"Changing param values is not allowed. Param with key='{differ[0]['key']}' was already logged with "
            f"value='{differ[0]['old_value']}' for run ID='{run}'. Attempted logging new value "
            f"'{differ[0]['new_value']}'."
        )
    return invalid(
        f"Changing param values is not allowed. Params were already logged='{differ}' for run ID='{run}'."
    )


def _delete_tag(ws: Workspace, asked: _DeleteTag) -> dict[str, Any]:
    with in_its_words(asked.run):
        gone = RunStore(ws.ledger).untag(asked.run, [asked.key], actor=ws.actor)
    if not gone:
        raise does_not_exist(f"No tag with name: {asked.key} in run with id {asked.run}")
    return {}


def _log_model(ws: Workspace, asked: _LogModel) -> dict[str, Any]:
    """What clients before 3.0 say when they logged a model: a list in a tag of the run."""
    try:
        model = json.loads(asked.model_json)
    except ValueError as error:
        raise invalid(f"Malformed model info. \n {asked.model_json} \n is not a valid JSON.") from error
    wanted = ("artifact_path", "flavors", "utc_time_created", "run_id")
    absent = {name for name in wanted if not isinstance(model, dict) or name not in model}
    if absent:
        raise invalid(f"Model json is missing mandatory fields: {absent}")
    head = writable(ws, asked.run)
    known = RunStore(ws.ledger).facts([head.id])[head.id].tags.get("mlflow.log-model.history", "[]")
    told = {name: model.get(name) for name in ("run_id", "artifact_path", "utc_time_created", "model_uuid")}
    told["flavors"] = {
        name: {key: value for key, value in flavor.items() if key != "config"}
        for name, flavor in model["flavors"].items()
    }
    history = [*json.loads(known), told]
    _write(ws, head.id, tags={"mlflow.log-model.history": json.dumps(history)})
    return {}


CALLS = [
    Call("POST", "runs/log-metric", _LogMetric, _log_metric),
    Call("POST", "runs/log-parameter", _LogParam, _log_param),
    Call("POST", "runs/log-batch", _LogBatch, _log_batch),
    Call("POST", "runs/set-tag", _LogParam, _set_tag),
    Call("POST", "runs/delete-tag", _DeleteTag, _delete_tag),
    Call("POST", "runs/log-model", _LogModel, _log_model),
]
