"""What people do with the client: runs in every way, through ``mlflow`` and ``MlflowClient``."""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException


def fluent(name: str) -> dict[str, Any]:
    """An experiment, a run with everything in it, read back by every call that reads."""
    experiment = mlflow.set_experiment(name)
    with mlflow.start_run(run_name="first", description="the first one", tags={"stage": "late"}) as run:
        mlflow.log_param("trees", 200)
        mlflow.log_params({"depth": 7, "rate": 0.1, "long": "x" * 10_000})
        for step in range(20):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.log_metrics({"auc": 0.77, "nothing": float("nan"), "much": float("inf")})
        mlflow.set_tags({"air": "port", "year": 2013})
        mlflow.log_text("hello", "notes/a.txt")
        mlflow.log_dict({"a": [1, 2]}, "notes/b.json")
        mlflow.log_table({"x": [1, 2], "y": ["a", "b"]}, "table.json")
        with mlflow.start_run(run_name="inner", nested=True) as inner:
            mlflow.log_metric("loss", 3.0)
    client = MlflowClient()
    found = client.get_run(run.info.run_id)
    assert found.info.status == "FINISHED", found.info
    assert found.info.run_name == "first"
    assert found.info.experiment_id == experiment.experiment_id
    assert found.info.end_time >= found.info.start_time > 1_600_000_000_000
    assert found.data.params["trees"] == "200"
    assert found.data.params["long"] == "x" * 10_000
    assert found.data.metrics["auc"] == 0.77
    assert found.data.metrics["nothing"] != found.data.metrics["nothing"]
    assert found.data.metrics["much"] == float("inf")
    assert found.data.metrics["loss"] == 1 / 20
    assert found.data.tags["mlflow.note.content"] == "the first one"
    assert found.data.tags["mlflow.source.name"]
    assert found.data.tags["mlflow.user"]
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in history] == list(range(20))
    assert {one.path for one in client.list_artifacts(run.info.run_id)} == {"notes", "table.json"}
    assert {one.path: one.file_size for one in client.list_artifacts(run.info.run_id, "notes")} == {
        "notes/a.txt": 5,
        "notes/b.json": Path(client.download_artifacts(run.info.run_id, "notes/b.json")).stat().st_size,
    }
    assert mlflow.artifacts.load_text(f"{found.info.artifact_uri}/notes/a.txt") == "hello"
    assert mlflow.load_table("table.json", run_ids=[run.info.run_id])["x"].tolist() == [1, 2]
    frame = mlflow.search_runs([experiment.experiment_id], "metrics.auc > 0.5 and tags.stage = 'late'")
    assert frame["run_id"].tolist() == [run.info.run_id]
    assert frame["params.depth"].tolist() == ["7"]
    nested = mlflow.search_runs(
        [experiment.experiment_id], f"tags.mlflow.parentRunId = '{run.info.run_id}'", output_format="list"
    )
    assert [one.info.run_id for one in nested] == [inner.info.run_id]
    return {"run": run.info.run_id, "experiment": experiment.experiment_id}


def resumed(name: str) -> str:
    """A run goes on in a second ``start_run``; a failing block marks it failed."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0, step=0)
    with mlflow.start_run(run_id=run.info.run_id):
        assert MlflowClient().get_run(run.info.run_id).info.status == "RUNNING"
        mlflow.log_metric("loss", 0.5, step=1)
    found = MlflowClient().get_run(run.info.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["loss"] == 0.5
    try:
        with mlflow.start_run() as bad:
            raise ValueError("no")
    except ValueError:
        pass
    assert MlflowClient().get_run(bad.info.run_id).info.status == "FAILED"
    return run.info.run_id


def client_of_experiments(name: str) -> None:
    """Experiments by the client: create, tag, rename, delete, restore, search with pages."""
    client = MlflowClient()
    made = [client.create_experiment(f"{name} {n}", tags={"n": str(n)}) for n in range(5)]
    client.set_experiment_tag(made[0], "colour", "blue")
    assert client.get_experiment(made[0]).tags == {"n": "0", "colour": "blue"}
    client.delete_experiment_tag(made[0], "colour")
    client.rename_experiment(made[0], f"{name} zero")
    assert client.get_experiment_by_name(f"{name} zero").experiment_id == made[0]
    assert client.get_experiment_by_name("no such") is None
    run = client.create_run(made[1])
    client.delete_experiment(made[1])
    assert client.get_experiment(made[1]).lifecycle_stage == "deleted"
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "deleted"
    client.restore_experiment(made[1])
    assert client.get_run(run.info.run_id).info.lifecycle_stage == "active"
    found: list[str] = []
    token = None
    while True:
        page = client.search_experiments(
            ViewType.ALL,
            max_results=2,
            filter_string=f"name LIKE '{name}%'",
            order_by=["name"],
            page_token=token,
        )
        found += [one.name for one in page]
        token = page.token
        if not token:
            break
    assert found == [*(f"{name} {n}" for n in range(1, 5)), f"{name} zero"], found
    assert mlflow.get_experiment("0").name == "Default"
    _refused("RESOURCE_ALREADY_EXISTS", client.create_experiment, f"{name} zero")
    _refused("RESOURCE_ALREADY_EXISTS", client.rename_experiment, made[2], f"{name} zero")
    _refused("RESOURCE_DOES_NOT_EXIST", client.get_experiment, "987654321")


def client_of_runs(name: str) -> None:
    """Runs by the client: batches, deletion and restoration, terminations, refusals."""
    client = MlflowClient()
    experiment = client.create_experiment(name)
    run = client.create_run(experiment, run_name="by the client", tags={"a": "b"}).info.run_id
    client.log_batch(
        run,
        metrics=[Metric("m", n / 7, 1000 + n, n) for n in range(2500)],
        params=[Param(f"p{n}", str(n)) for n in range(250)],
        tags=[RunTag(f"t{n}", str(n)) for n in range(250)],
    )
    found = client.get_run(run)
    assert len(found.data.params) == 250
    assert found.data.metrics == {"m": 2499 / 7}
    assert len(client.get_metric_history(run, "m")) == 2500
    _refused("INVALID_PARAMETER_VALUE", client.log_param, run, "p1", "other")
    client.update_run(run, status="SCHEDULED", name="renamed")
    assert client.get_run(run).info.status == "SCHEDULED"
    client.set_terminated(run, "KILLED")
    assert client.get_run(run).info.status == "KILLED"
    assert client.get_run(run).info.run_name == "renamed"
    client.delete_run(run)
    assert [one.info.run_id for one in client.search_runs([experiment])] == []
    deleted = client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)
    assert [one.info.run_id for one in deleted] == [run]
    _refused("INVALID_PARAMETER_VALUE", client.log_metric, run, "m", 1.0)
    _refused("INVALID_PARAMETER_VALUE", client.set_tag, run, "m", "1")
    client.restore_run(run)
    client.log_metric(run, "m", 9.0, timestamp=9000, step=9999)
    client.set_tag(run, "gone", "soon")
    client.delete_tag(run, "gone")
    _refused("RESOURCE_DOES_NOT_EXIST", client.delete_tag, run, "gone")
    _refused("RESOURCE_DOES_NOT_EXIST", client.get_run, "0" * 32)
    many = [client.create_run(experiment, start_time=n).info.run_id for n in range(1, 8)]
    seen: list[str] = []
    token = None
    while True:
        page = client.search_runs([experiment], max_results=3, order_by=["start_time ASC"], page_token=token)
        seen += [one.info.run_id for one in page]
        token = page.token
        if not token:
            break
    assert seen == [*many, run], seen


def _refused(code: str, function: Any, *arguments: Any) -> None:
    said = _error(function, *arguments)
    assert said is not None, f"{function.__name__}{arguments} went through"
    assert said.error_code == code, said


def _error(function: Any, *arguments: Any, **named: Any) -> MlflowException | None:
    try:
        function(*arguments, **named)
    except MlflowException as error:
        return error
    return None


def files(name: str) -> None:
    """Folders up and down, large files in pieces, names of all kinds, deletion."""
    mlflow.set_experiment(name)
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as temporary, mlflow.start_run() as run:
        folder = Path(temporary) / "folder"
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "deep" / "er" / "a b.txt").write_text("spaced")
        (folder / "übung.txt").write_text("umlaut")
        (folder / "empty.bin").write_bytes(b"")
        large = os.urandom(1 << 20) * 11
        (folder / "large.bin").write_bytes(large)
        mlflow.log_artifacts(str(folder), "up")
        down = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="up"))
        assert sorted(str(one.relative_to(down)) for one in down.rglob("*") if one.is_file()) == [
            "deep/er/a b.txt",
            "empty.bin",
            "large.bin",
            "übung.txt",
        ]
        assert (down / "large.bin").read_bytes() == large
        assert (down / "empty.bin").read_bytes() == b""
        assert (down / "übung.txt").read_text() == "umlaut"
        mlflow.log_text("again", "up/deep/er/a b.txt")
        assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/up/deep/er/a b.txt") == "again"
        assert client.list_artifacts(run.info.run_id, "up/large.bin") == []
        assert client.list_artifacts(run.info.run_id, "nowhere") == []
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        repository = get_artifact_repository(run.info.artifact_uri)
        repository.delete_artifacts("up/deep")
        assert {one.path for one in client.list_artifacts(run.info.run_id, "up")} == {
            "up/empty.bin",
            "up/large.bin",
            "up/übung.txt",
        }
        absent = {"run_id": run.info.run_id, "artifact_path": "up/nothing.txt"}
        said = _error(mlflow.artifacts.download_artifacts, **absent)
        assert "nothing.txt" in str(said), said


def in_parts(name: str) -> None:
    """A file over the client's threshold goes up in parts, several at once, and comes down by ranges."""
    os.environ["MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE"] = str(5 << 20)
    os.environ["MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE"] = str(5 << 20)
    os.environ["MLFLOW_MULTIPART_DOWNLOAD_CHUNK_SIZE"] = str(3 << 20)
    try:
        mlflow.set_experiment(name)
        with tempfile.TemporaryDirectory() as temporary, mlflow.start_run() as run:
            content = os.urandom(1 << 20) * 13
            file = Path(temporary) / "big.bin"
            file.write_bytes(content)
            mlflow.log_artifact(str(file), "parts")
            got = Path(
                mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="parts/big.bin")
            )
            assert got.read_bytes() == content
            os.environ["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] = "true"
            got = Path(
                mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="parts/big.bin")
            )
            assert got.read_bytes() == content
    finally:
        for key in ("UPLOAD_MINIMUM_FILE_SIZE", "UPLOAD_CHUNK_SIZE", "DOWNLOAD_CHUNK_SIZE"):
            del os.environ[f"MLFLOW_MULTIPART_{key}"]
        os.environ.pop("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", None)


def datasets(name: str) -> None:
    """``log_input`` with a frame, and what finds the run by it."""
    mlflow.set_experiment(name)
    frame = pd.DataFrame({"distance": [100.0, 200.0], "carrier": ["UA", "AA"]})
    dataset = mlflow.data.from_pandas(frame, source="flights.csv", name="flights")
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="training", tags={"half": "first"})
        mlflow.log_input(dataset, context="training")
    found = MlflowClient().get_run(run.info.run_id).inputs.dataset_inputs
    assert len(found) == 1
    assert found[0].dataset.name == "flights"
    assert json.loads(found[0].dataset.profile) == {"num_rows": 2, "num_elements": 4}
    assert {tag.key: tag.value for tag in found[0].tags} == {
        "mlflow.data.context": "training",
        "half": "first",
    }
    where = "dataset.name = 'flights' AND dataset.context = 'training'"
    assert mlflow.search_runs(filter_string=where)["run_id"].tolist() == [run.info.run_id]
    source = mlflow.data.get_source(found[0].dataset)
    assert source.uri == "flights.csv", source


def together(run: str, clients: int) -> None:
    """Several clients write one run at once; not one value is lost."""

    def write(number: int) -> None:
        client = MlflowClient()
        for batch in range(5):
            points = [Metric(f"c{number}", n, 1000 * batch + n, 100 * batch + n) for n in range(100)]
            shared = [
                Metric("shared", number, 1000 * number + n, 500 * number + 100 * batch + n)
                for n in range(100)
            ]
            client.log_batch(run, metrics=points + shared, tags=[RunTag(f"t{number}", str(batch))])
            client.log_param(run, f"p{number}.{batch}", batch)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(write, range(clients)))
    client = MlflowClient()
    for number in range(clients):
        assert len(client.get_metric_history(run, f"c{number}")) == 500
    assert len(client.get_metric_history(run, "shared")) == 500 * clients
    found = client.get_run(run)
    assert found.data.metrics["shared"] == clients - 1
    assert len(found.data.params) == 5 * clients
    assert {found.data.tags[f"t{number}"] for number in range(clients)} == {"4"}


def seen(run: str) -> dict[str, Any]:
    """A run that was not made by the client, as the client sees it."""
    found = MlflowClient().get_run(run)
    return {
        "name": found.info.run_name,
        "status": found.info.status,
        "user": found.info.user_id,
        "params": found.data.params,
        "metrics": found.data.metrics,
        "tags": found.data.tags,
        "history": [(one.step, one.value) for one in MlflowClient().get_metric_history(run, "auc")],
        "artifacts": [one.path for one in MlflowClient().list_artifacts(run)],
    }
