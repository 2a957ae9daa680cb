"""MLflow's ``logged-models/…``: records of the ledger, one event a change; their files are artifacts of their id.

What was measured of them is too much for events: rows beside the runs' facts, one a point, under the model's id.
"""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa
from blake3 import blake3

from flyball.compat.mlflow import artifacts, experiments, limits
from flyball.compat.mlflow.experiments import KeyValue
from flyball.compat.mlflow.runs import PIPELINE, random_name
from flyball.compat.mlflow.wire import Asked, Call, does_not_exist, invalid, number, wrong
from flyball.core.clock import to_us
from flyball.core.events import Edge
from flyball.core.records import Experiment, LoggedModel
from flyball.stores.run_tables import FACTS, in_parts, rows_of, upsert

if TYPE_CHECKING:
    from flyball.service import Workspace
    from flyball.stores.metadata import Transaction

STATUSES = {
    "pending": "LOGGED_MODEL_PENDING",
    "ready": "LOGGED_MODEL_READY",
    "failed": "LOGGED_MODEL_UPLOAD_FAILED",
}
_OURS = {
    **{theirs: ours for ours, theirs in STATUSES.items()},
    **{str(place): ours for place, ours in enumerate(STATUSES, 1)},
}
_KIND = "model"  # of the rows in run_facts


class _Create(Asked):
    experiment_id: str
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: tuple[KeyValue, ...] = ()
    tags: tuple[KeyValue, ...] = ()


class OfModel(Asked):
    """Every request about one logged model."""

    model_id: str


class _Get(OfModel):
    allow_deleted: bool = False


class _Finalize(OfModel):
    status: str | int


class _Params(OfModel):
    params: tuple[KeyValue, ...] = ()


class _Tags(OfModel):
    tags: tuple[KeyValue, ...] = ()


class _DeleteTag(OfModel):
    tag_key: str


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


class _Artifacts(OfModel):
    artifact_directory_path: str = ""


class Point(msgspec.Struct, frozen=True):
    """What was measured of a model once."""

    key: str
    value: float
    at_us: int
    step: int
    run: str
    dataset_name: str
    dataset_digest: str

    def on(self, name: str, digest: str) -> bool:
        """Whether it was measured on that dataset; an empty word is any."""
        return (not name or name == self.dataset_name) and (not digest or digest == self.dataset_digest)


# --- reading ----------------------------------------------------------------------------------------------------------


def find(ws: Workspace, model: str, allow_deleted: bool = False) -> LoggedModel:
    """The logged model of that id, in MLflow's words when there is none."""
    found = ws.ledger.find("logged_model", model, LoggedModel)
    if found is None or (found.deleted is not None and not allow_deleted):
        raise does_not_exist(f"Logged model with ID '{model}' not found.")
    return found


def root_of(ws: Workspace, found: LoggedModel) -> str:
    """Where its artifacts are."""
    experiment = ws.ledger.find("experiment", found.experiment, Experiment)
    location = experiment.artifact_location if experiment is not None else ""
    return artifacts.logged_model_root(found.id, found.experiment, location)


def shown(ws: Workspace, found: LoggedModel, points: Sequence[Point]) -> dict[str, Any]:
    """A ``LoggedModel`` in MLflow's JSON."""
    return {
        "info": {
            "model_id": found.id,
            "experiment_id": found.experiment,
            "name": found.name,
            "creation_timestamp_ms": to_us(found.created) // 1000,
            "last_updated_timestamp_ms": to_us(found.updated) // 1000,
            "artifact_uri": root_of(ws, found),
            "status": STATUSES[found.status],
            "model_type": found.model_type,
            "source_run_id": found.run,
            "tags": [{"key": key, "value": value} for key, value in found.tags.items()],
        },
        "data": {
            "params": [{"key": key, "value": value} for key, value in found.params.items()],
            "metrics": [_point(found.id, one) for one in points],
        },
    }


def _point(model: str, one: Point) -> dict[str, Any]:
    told = {
        "key": one.key,
        "value": number(one.value),
        "timestamp": one.at_us // 1000,
        "step": one.step,
        "model_id": model,
        "run_id": one.run,
    }
    if one.dataset_name:
        told |= {"dataset_name": one.dataset_name, "dataset_digest": one.dataset_digest}
    return told


def points_of(ws: Workspace, models: Iterable[str]) -> dict[str, list[Point]]:
    """What was measured of these models, by time."""
    found: dict[str, list[Point]] = defaultdict(list)
    columns = (FACTS.c.run, FACTS.c.text, FACTS.c.number, FACTS.c.step, FACTS.c.at_us)
    with ws.ledger.reading() as connection:
        for part in in_parts(models):
            where = sa.and_(FACTS.c.run.in_(part), FACTS.c.kind == _KIND)
            for model, text, value, step, at_us in rows_of(connection, sa.select(*columns).where(where)):
                key, run, dataset, digest = msgspec.json.decode(text)
                measured = math.nan if value is None else value
                found[model].append(Point(key, measured, at_us, step, run, dataset, digest))
    for points in found.values():
        points.sort(key=lambda one: (one.at_us, one.step))
    return found


def measured(ws: Workspace, run: str, metrics: Sequence[MetricIn]) -> None:
    """Note metrics that belong to models, beside the run they were logged in."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in metrics:
        if not one.model_id:
            continue
        told = [one.key, run, one.dataset_name, one.dataset_digest]
        place = blake3(msgspec.json.encode([*told, one.step, one.timestamp])).hexdigest()[:32]
        rows[one.model_id, place] = {
            "run": one.model_id,
            "kind": _KIND,
            "name": place,
            "text": msgspec.json.encode(told).decode(),
            "number": None if math.isnan(one.value) else one.value,
            "step": one.step,
            "at_us": one.timestamp * 1000,
            "points": 0,
            "block": 0,
            "tail": 0,
            "head": None,
        }
    with ws.ledger.writing(alone=f"models of {run}") as connection:
        upsert(connection, FACTS, list(rows.values()))


# --- handlers ---------------------------------------------------------------------------------------------------------


def _create(ws: Workspace, asked: _Create) -> dict[str, Any]:
    name = limits.logged_model_name(asked.name) or random_name()
    experiment = experiments.active(ws, asked.experiment_id)
    with ws.ledger.transaction() as tx:
        now = tx.now()
        made = LoggedModel(
            id=f"m-{secrets.token_hex(16)}",
            experiment=experiment.id,
            name=name,
            created=now,
            updated=now,
            model_type=asked.model_type,
            run=asked.source_run_id,
            params={one.key: one.value for one in asked.params},
            tags={one.key: one.value for one in asked.tags},
        )
        edges = [Edge(made.id, made.run, "run")] if made.run else []
        actor = made.run or PIPELINE
        tx.append(
            "logged_model.made", made.id, actor=actor, sets=[("logged_model", made.id, made)], edges=edges
        )
    return {"model": shown(ws, made, ())}


def _get(ws: Workspace, asked: _Get) -> dict[str, Any]:
    found = find(ws, asked.model_id, asked.allow_deleted)
    return {"model": shown(ws, found, points_of(ws, [found.id])[found.id])}


def _change(
    ws: Workspace, model: str, kind: str, change: Callable[[LoggedModel, Transaction], LoggedModel]
) -> LoggedModel:
    with ws.ledger.transaction() as tx:
        found = tx.find("logged_model", model, LoggedModel)
        if found is None:
            raise does_not_exist(f"Logged model with ID '{model}' not found.")
        changed = change(found, tx)
        tx.append(kind, model, actor=found.run or PIPELINE, sets=[("logged_model", model, changed)])
    return changed


def _finalize(ws: Workspace, asked: _Finalize) -> dict[str, Any]:
    status = _OURS.get(str(asked.status))
    if status is None:
        raise wrong("status", asked.status)

    def change(found: LoggedModel, tx: Transaction) -> LoggedModel:
        return msgspec.structs.replace(found, status=status, updated=tx.now())

    changed = _change(ws, asked.model_id, f"logged_model.{status}", change)
    return {"model": shown(ws, changed, points_of(ws, [changed.id])[changed.id])}


def _delete(ws: Workspace, asked: OfModel) -> dict[str, Any]:
    def change(found: LoggedModel, tx: Transaction) -> LoggedModel:
        return msgspec.structs.replace(found, deleted=tx.now(), updated=tx.now())

    _change(ws, asked.model_id, "logged_model.deleted", change)
    return {}


def _params(ws: Workspace, asked: _Params) -> dict[str, Any]:
    given = {one.key: one.value for one in asked.params}

    def change(found: LoggedModel, _tx: Transaction) -> LoggedModel:
        differ = [key for key, value in given.items() if found.params.get(key, value) != value]
        if differ:
            raise invalid(f"Changing param values is not allowed. Params {differ} were already logged.")
        return msgspec.structs.replace(found, params={**found.params, **given})

    _change(ws, asked.model_id, "logged_model.described", change)
    return {}


def _set_tags(ws: Workspace, asked: _Tags) -> dict[str, Any]:
    given = {one.key: one.value for one in asked.tags}

    def change(found: LoggedModel, _tx: Transaction) -> LoggedModel:
        return msgspec.structs.replace(found, tags={**found.tags, **given})

    _change(ws, asked.model_id, "logged_model.tagged", change)
    return {}


def _delete_tag(ws: Workspace, asked: _DeleteTag) -> dict[str, Any]:
    def change(found: LoggedModel, _tx: Transaction) -> LoggedModel:
        if asked.tag_key not in found.tags:
            raise does_not_exist(f"No tag with key {asked.tag_key!r} found for model with ID {found.id!r}.")
        left = {key: value for key, value in found.tags.items() if key != asked.tag_key}
        return msgspec.structs.replace(found, tags=left)

    _change(ws, asked.model_id, "logged_model.untagged", change)
    return {}


def _artifacts(ws: Workspace, asked: _Artifacts) -> dict[str, Any]:
    folder = limits.artifact_path(asked.artifact_directory_path)
    found = find(ws, asked.model_id)
    return {"files": artifacts.entries(ws, found.id, folder), "root_uri": root_of(ws, found)}


CALLS = [
    Call("POST", "logged-models", _Create, _create),
    Call("GET", "logged-models/<model_id>", _Get, _get),
    Call("PATCH", "logged-models/<model_id>", _Finalize, _finalize),
    Call("DELETE", "logged-models/<model_id>", OfModel, _delete),
    Call("POST", "logged-models/<model_id>/params", _Params, _params),
    Call("PATCH", "logged-models/<model_id>/tags", _Tags, _set_tags),
    Call("DELETE", "logged-models/<model_id>/tags/<tag_key>", _DeleteTag, _delete_tag),
    Call("GET", "logged-models/<model_id>/artifacts/directories", _Artifacts, _artifacts),
]
