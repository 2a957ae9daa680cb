"""MLflow's ``runs/…``: heads, params, metrics and tags of :mod:`flyball.stores.runs` in MLflow's words.

A run that the client makes has no code and no environment of ours: the server's are not its own. Its
``mlflow.source.*`` tags are kept. Its ``mlflow.runName`` and ``mlflow.parentRunId`` are those of our run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

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
from flyball.stores.runs import Facts, Head, RunStore
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
    Call("POST", "runs/search", _Search, _search),
]
