"""MLflow's ``runs/…``: heads, params, metrics and tags of :mod:`flyball.stores.runs` in MLflow's words.

A run that the client makes has no code and no environment of ours: the server's are not its own. Its
``mlflow.source.*`` tags are kept. Its ``mlflow.runName`` and ``mlflow.parentRunId`` are those of our run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from flyball.compat.mlflow import artifacts, experiments, limits
from flyball.compat.mlflow.experiments import KeyValue
from flyball.compat.mlflow.inputs import condition, inputs_and_outputs, is_ours
from flyball.compat.mlflow.wire import (
    Asked,
    Call,
    MlflowError,
    does_not_exist,
    invalid,
    missing,
    number,
    offset_of,
    token_of,
    wrong,
)
from flyball.core.clock import from_us, to_us
from flyball.core.ids import new_id
from flyball.core.records import Experiment, Run
from flyball.errors import Invalid, NotFound
from flyball.stores import run_facts
from flyball.stores.run_seal import put_head, sealed_record
from flyball.stores.runs import Facts, Head, Point, RunStore
from flyball.track import query
from flyball.track.query import STATUSES

if TYPE_CHECKING:
    from flyball.service import Workspace

Status = Literal["running", "done", "failed", "refused", "scheduled", "killed"]
RUN_NAME, PARENT = "mlflow.runName", "mlflow.parentRunId"
PIPELINE = "mlflow"  # what a client's runs are called in our own lists
_OURS: dict[str, Status] = {
    "RUNNING": "running",
    "SCHEDULED": "scheduled",
    "FINISHED": "done",
    "FAILED": "failed",
    "KILLED": "killed",
}
_OURS |= {str(place): _OURS[name] for place, name in enumerate(_OURS, 1) if not name.isdigit()}
_NAMES = ("calm", "keen", "brisk", "quiet", "bold", "bright", "swift", "steady", "merry", "nimble")
_NOUNS = ("swift", "heron", "kite", "tern", "crane", "plover", "wren", "falcon", "gull", "finch")


class OfRun(Asked):
    """Every request about one run: ``run_uuid`` is what old clients say."""

    run_id: str = ""
    run_uuid: str = ""

    @property
    def run(self) -> str:
        found = self.run_id or self.run_uuid
        if not found:
            raise missing("run_id")
        return found


class _Create(Asked):
    experiment_id: str = ""
    user_id: str = ""
    run_name: str = ""
    start_time: int = 0
    tags: tuple[KeyValue, ...] = ()


class _Update(OfRun):
    status: str | int | None = None
    end_time: int | None = None
    run_name: str = ""


class _Search(Asked):
    experiment_ids: tuple[str, ...] = ()
    filter: str = ""
    run_view_type: str | int = "ACTIVE_ONLY"
    max_results: int = 1000
    order_by: tuple[str, ...] = ()
    page_token: str = ""


class MetricIn(Asked):
    """One value of a metric, as a batch has it."""

    key: str
    value: float
    timestamp: int
    step: int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""
    run_id: str = ""


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


# --- one run ----------------------------------------------------------------------------------------------------------


@contextmanager
def in_its_words(run: str) -> Iterator[None]:
    """Our refusals about a run in MLflow's words."""
    try:
        yield
    except NotFound as error:
        if error.facts.get("key") == run:
            raise does_not_exist(f"Run with id={run} not found") from error
        raise
    except Invalid as error:
        if error.facts == {"run": run}:
            raise not_active(run) from error
        raise


def not_active(run: str) -> MlflowError:
    """What MLflow says of a deleted run that is to be written."""
    return invalid(f"The run {run} must be in the 'active' state. Current state is deleted.")


def head_of(ws: Workspace, run: str) -> Head:
    """The run's head, in MLflow's words when there is none."""
    with in_its_words(run):
        return RunStore(ws.ledger).head(run)


def writable(ws: Workspace, run: str) -> Head:
    """The same, and it must not be deleted."""
    head = head_of(ws, run)
    if head.deleted_us is not None:
        raise not_active(run)
    return head


def info_of(head: Head, location: str) -> dict[str, Any]:
    """``RunInfo``."""
    info = {
        "run_id": head.id,
        "run_uuid": head.id,
        "run_name": head.name,
        "experiment_id": head.experiment,
        "user_id": head.actor.removeprefix("person:") if head.actor != PIPELINE else "",
        "status": STATUSES.get(head.status, "FAILED"),
        "start_time": head.started_us // 1000,
        "artifact_uri": artifacts.run_root(head.id, head.experiment, location),
        "lifecycle_stage": "active" if head.deleted_us is None else "deleted",
    }
    if head.ended_us is not None:
        info["end_time"] = head.ended_us // 1000
    return info


class _Metric(msgspec.Struct, gc=False):
    key: str
    value: float | str
    timestamp: int
    step: int


class _Tag(msgspec.Struct, gc=False):
    key: str
    value: str


def data_of(head: Head, facts: Facts) -> dict[str, Any]:
    """``RunData``: latest metrics, params and tags; inputs and outputs have places of their own."""
    tags = [_Tag(key, value) for key, value in facts.tags.items() if not is_ours(key)]
    if RUN_NAME not in facts.tags and head.name:
        tags.append(_Tag(RUN_NAME, head.name))
    if head.parent and PARENT not in facts.tags:
        tags.append(_Tag(PARENT, head.parent))
    return {
        "metrics": [
            _Metric(key, number(one.value), one.at_us // 1000, one.step) for key, one in facts.metrics.items()
        ],
        "params": [_Tag(key, value) for key, value in facts.params.items()],
        "tags": tags,
    }


def shown(ws: Workspace, head: Head, facts: Facts, location: str) -> dict[str, Any]:
    """A whole ``Run``."""
    inputs, outputs = inputs_and_outputs(ws, facts.tags)
    return {
        "info": info_of(head, location),
        "data": data_of(head, facts),
        "inputs": inputs,
        "outputs": outputs,
    }


def locations(ws: Workspace, heads: Sequence[Head]) -> dict[str, str]:
    """Where the artifacts of these runs' experiments are, where someone chose a place."""
    wanted = {one.experiment for one in heads}
    found = {one: ws.ledger.find("experiment", one, Experiment) for one in wanted}
    return {key: one.artifact_location if one is not None else "" for key, one in found.items()}


def _location(ws: Workspace, head: Head) -> str:
    return locations(ws, [head])[head.experiment]


# --- handlers ---------------------------------------------------------------------------------------------------------


def _create(ws: Workspace, asked: _Create) -> dict[str, Any]:
    experiment = experiments.active(ws, asked.experiment_id)
    tags = dict(limits.tag(one.key, one.value) for one in asked.tags)
    named = tags.get(RUN_NAME, "")
    if asked.run_name and named and asked.run_name != named:
        raise invalid(
            "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values "
            f"(run_name='{asked.run_name}', mlflow.runName='{named}')."
        )
    name = asked.run_name or named or random_name()
    tags[RUN_NAME] = name
    if asked.start_time < 0:
        raise wrong("start_time", asked.start_time)
    with ws.ledger.transaction() as tx:
        run = Run(
            id=new_id("run", tx.now()),
            pipeline=PIPELINE,
            started=from_us(asked.start_time * 1000),
            status="running",
            params={},
            code="",
            environment="",
            actor=f"person:{asked.user_id}" if asked.user_id else PIPELINE,
            name=name,
            experiment=experiment.id,
            parent=tags.get(PARENT, "")[:40],
        )
        tx.append("run.started", run.id, actor=run.actor, sets=[("run", run.id, run)])
        put_head(tx, run)
        run_facts.add_texts(tx.connection, run.id, "tag", tags, to_us(tx.now()))
    head = RunStore(ws.ledger).head(run.id)
    return {"run": shown(ws, head, Facts(tags=tags), experiment.artifact_location)}


def random_name() -> str:
    """A name for what was given none."""
    return f"{secrets.choice(_NAMES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(1000)}"


def _get(ws: Workspace, asked: OfRun) -> dict[str, Any]:
    head = head_of(ws, asked.run)
    facts = RunStore(ws.ledger).facts([head.id])[head.id]
    return {"run": shown(ws, head, facts, _location(ws, head))}


def _update(ws: Workspace, asked: _Update) -> dict[str, Any]:
    status: Status | None = None
    if asked.status is not None:
        if str(asked.status) not in _OURS:
            raise wrong("status", asked.status)
        status = _OURS[str(asked.status)]
    updated(ws, asked.run, status, asked.end_time, asked.run_name)
    head = head_of(ws, asked.run)
    return {"run_info": info_of(head, _location(ws, head))}


def updated(ws: Workspace, run: str, status: Status | None, end_ms: int | None, name: str) -> None:
    """Change how a run stands, when it ended, what it is called; a run that ends is sealed."""
    with in_its_words(run), ws.ledger.transaction() as tx:
        tx.alone(run)
        found = tx.find("run", run, Run)
        if found is None:
            raise does_not_exist(f"Run with id={run} not found")
        if found.deleted is not None:
            raise not_active(run)
        ended = found.ended if end_ms is None else from_us(end_ms * 1000)
        if end_ms is None and status in ("running", "scheduled"):
            ended = None  # it goes on: it is sealed again when it ends
        elif end_ms is None and status is not None and ended is None:
            ended = tx.now()
        changed = msgspec.structs.replace(
            found, status=status or found.status, ended=ended, name=name or found.name
        )
        if name:
            run_facts.add_texts(tx.connection, run, "tag", {RUN_NAME: name}, to_us(tx.now()))
        if changed.ended is not None:
            changed = sealed_record(tx.connection, changed)
        kind = f"run.{changed.status}" if status and status != found.status else "run.updated"
        tx.append(kind, run, actor=found.actor, sets=[("run", run, changed)])
        put_head(tx, changed)


def _delete(ws: Workspace, asked: OfRun) -> dict[str, Any]:
    with in_its_words(asked.run):
        RunStore(ws.ledger).delete(asked.run, actor=ws.actor)
    return {}


def _restore(ws: Workspace, asked: OfRun) -> dict[str, Any]:
    with in_its_words(asked.run):
        RunStore(ws.ledger).restore(asked.run, actor=ws.actor)
    return {}


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
    from flyball.compat.mlflow.logged_models import find, measured

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


def _search(ws: Workspace, asked: _Search) -> dict[str, Any]:
    if asked.max_results > limits.SEARCH_RESULTS:
        raise wrong("max_results", asked.max_results, " Hint: Value was of type 'int'.")
    limits.max_results(asked.max_results)
    start = offset_of(asked.page_token)
    for one in asked.experiment_ids:
        if not one.isdigit():
            raise invalid(f"Invalid experiment ID '{one}'. Experiment ID must be a valid integer.")
    asked_for = query.run_query(
        asked.filter,
        asked.order_by,
        experiments=asked.experiment_ids,
        view=experiments.view_of(asked.run_view_type, "run_view_type"),
        limit=asked.max_results,
        token=asked.page_token,
        strict=True,
        extra=lambda compare: condition(ws, compare),
    )
    found = RunStore(ws.ledger).search(asked_for)
    places = locations(ws, [one.head for one in found.runs])
    runs = [shown(ws, one.head, one.facts, places[one.head.experiment]) for one in found.runs]
    return {"runs": runs, **({"next_page_token": token_of(start + len(runs))} if found.token else {})}


CALLS = [
    Call("POST", "runs/create", _Create, _create),
    Call("GET", "runs/get", OfRun, _get),
    Call("POST", "runs/update", _Update, _update),
    Call("POST", "runs/delete", OfRun, _delete),
    Call("POST", "runs/restore", OfRun, _restore),
    Call("POST", "runs/log-metric", _LogMetric, _log_metric),
    Call("POST", "runs/log-parameter", _LogParam, _log_param),
    Call("POST", "runs/log-batch", _LogBatch, _log_batch),
    Call("POST", "runs/set-tag", _LogParam, _set_tag),
    Call("POST", "runs/delete-tag", _DeleteTag, _delete_tag),
    Call("POST", "runs/log-model", _LogModel, _log_model),
    Call("POST", "runs/search", _Search, _search),
]
