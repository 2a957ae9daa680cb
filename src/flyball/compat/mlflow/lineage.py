"""MLflow's ``runs/log-inputs`` and ``runs/outputs``: datasets and models of runs, as edges of our lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flyball.compat.mlflow import artifacts, limits
from flyball.compat.mlflow.experiments import KeyValue
from flyball.compat.mlflow.inputs import (
    CONTEXT,
    DATASET,
    MODEL_IN,
    MODEL_OUT,
    Described,
    Input,
    input_of,
    known,
)
from flyball.compat.mlflow.limits import too_long
from flyball.compat.mlflow.runs import OfRun, head_of, info_of, locations, writable
from flyball.compat.mlflow.wire import Asked, Call, invalid
from flyball.core.clock import to_us
from flyball.core.events import Edge
from flyball.core.records import Dataset, Run
from flyball.stores import run_facts
from flyball.stores.run_seal import sealed_record
from flyball.stores.runs import RunStore

if TYPE_CHECKING:
    from flyball.service import Workspace

_LENGTHS = {"name": 500, "digest": 36, "source": 65_535, "schema": 1_048_575, "profile": 16_777_215}
MOST_SUMMARIES = 1000
MOST_EXPERIMENTS = 20


class _DatasetIn(Asked):
    name: str
    digest: str
    source_type: str
    source: str
    schema: str = ""
    profile: str = ""


class _DatasetInput(Asked):
    dataset: _DatasetIn
    tags: tuple[KeyValue, ...] = ()


class _Model(Asked):
    model_id: str
    step: int = 0


class _LogInputs(OfRun):
    datasets: tuple[_DatasetInput, ...] = ()
    models: tuple[_Model, ...] = ()


class _Outputs(OfRun):
    models: tuple[_Model, ...] = ()


class _ListArtifacts(OfRun):
    path: str = ""
    page_token: str = ""


class _SearchDatasets(Asked):
    experiment_ids: tuple[str, ...] = ()


def _log_inputs(ws: Workspace, asked: _LogInputs) -> dict[str, Any]:
    run = limits.run_id(asked.run)
    for one in asked.datasets:
        _check(one)
    head = writable(ws, run)
    tags = RunStore(ws.ledger).facts([head.id])[head.id].tags
    records: dict[str, Dataset] = {}
    for one in asked.datasets:
        content = ws.blobs.put(msgspec.json.encode(Described(**msgspec.structs.asdict(one.dataset))))
        labels = tuple((tag.key, tag.value) for tag in one.tags)
        place = sum(key.startswith(DATASET) for key in tags)
        found = Input(one.dataset.name, one.dataset.digest, content, labels, place)
        if found.fact not in tags and content not in records:
            records[content] = Dataset(
                name=found.name,
                digest=found.digest,
                source_type=one.dataset.source_type,
                content=content,
                first=ws.ledger.clock.now(),
            )
            tags[found.fact] = msgspec.json.encode(found).decode()
    made = {key: value for key, value in tags.items() if key.startswith(DATASET)}
    told = {f"{MODEL_IN}{one.model_id}": "" for one in asked.models}
    _note(ws, run, {**made, **told}, records, [Edge(run, one.model_id, "model") for one in asked.models])
    return {}


def _outputs(ws: Workspace, asked: _Outputs) -> dict[str, Any]:
    writable(ws, asked.run)
    told = {f"{MODEL_OUT}{one.model_id}": str(one.step) for one in asked.models}
    _note(ws, asked.run, told, {}, [Edge(one.model_id, asked.run, "run") for one in asked.models])
    return {}


def _note(
    ws: Workspace, run: str, tags: dict[str, str], records: dict[str, Dataset], edges: list[Edge]
) -> None:
    """Tags, records and edges in one event; a run that has ended is sealed again."""
    with ws.ledger.transaction() as tx:
        tx.alone(run)
        run_facts.add_texts(tx.connection, run, "tag", tags, to_us(tx.now()))
        found = tx.find("run", run, Run)
        if found is None:
            raise invalid(f"Run with id={run} not found")
        inputs = dict(found.inputs)
        for content, dataset in records.items():
            inputs[f"{dataset.name}@{dataset.digest}"] = content
        if records:
            found = msgspec.structs.replace(found, inputs=inputs)
        if found.ended is not None:
            found = sealed_record(tx.connection, found)
        sets: list[tuple[str, str, Any]] = [("run", run, found)]
        for content, dataset in records.items():
            if tx.find("dataset", content, Dataset) is None:
                sets.append(("dataset", content, dataset))
        edges = [*edges, *(Edge(run, content, "dataset") for content in records)]
        tx.append("run.linked", run, actor=found.actor, sets=sets, edges=edges)


def _check(one: _DatasetInput) -> None:
    for name, limit in _LENGTHS.items():
        if len(getattr(one.dataset, name)) > limit:
            raise too_long(name, limit)
    for tag in one.tags:
        if len(tag.key) > 255:
            raise too_long("key", 255)
        if len(tag.value) > 500:
            raise too_long("value", 500)


def _list_artifacts(ws: Workspace, asked: _ListArtifacts) -> dict[str, Any]:
    folder = limits.artifact_path(asked.path)
    head = head_of(ws, asked.run)
    uri = info_of(head, locations(ws, [head])[head.experiment])["artifact_uri"]
    place = artifacts.at(uri)
    if place is None:
        raise invalid(
            f"The artifacts of run {head.id} are at {uri}, which Flyball does not read; ask that store."
        )
    owner, inner = place
    under = f"{inner}/" if inner else ""
    files = artifacts.entries(ws, owner, f"{under}{folder}")
    return {"files": [{**one, "path": one["path"].removeprefix(under)} for one in files], "root_uri": uri}


def _search_datasets(ws: Workspace, asked: _SearchDatasets) -> dict[str, Any]:
    if not asked.experiment_ids:
        raise invalid("SearchDatasets request must specify at least one experiment_id.")
    if len(asked.experiment_ids) > MOST_EXPERIMENTS:
        raise invalid(
            f"SearchDatasets request cannot specify more than {MOST_EXPERIMENTS} experiment_ids. Received "
            f"{len(asked.experiment_ids)} experiment_ids."
        )
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for _, text, experiment in known(ws, asked.experiment_ids):
        one = input_of(text)
        for context in [value for key, value in one.tags if key == CONTEXT] or [""]:
            told = {"experiment_id": experiment, "name": one.name, "digest": one.digest}
            found[experiment, one.name, one.digest, context] = told | (
                {"context": context} if context else {}
            )
    return {"dataset_summaries": list(found.values())[:MOST_SUMMARIES]}


CALLS = [
    Call("POST", "runs/log-inputs", _LogInputs, _log_inputs),
    Call("POST", "runs/outputs", _Outputs, _outputs),
    Call("GET", "artifacts/list", _ListArtifacts, _list_artifacts),
    Call("POST", "experiments/search-datasets", _SearchDatasets, _search_datasets),
]
