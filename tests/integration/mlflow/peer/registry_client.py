"""What people do with MLflow's client and its registry; carried out in MLflow's own venv."""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression


def frame(rows: int = 200) -> pd.DataFrame:
    generator = np.random.default_rng(7)
    return pd.DataFrame({"a": generator.normal(size=rows), "b": generator.normal(size=rows)})


def fitted(strength: float = 1.0) -> LogisticRegression:
    rows = frame()
    return LogisticRegression(C=strength).fit(rows, (rows["a"] + rows["b"] > 0).astype(int))


def story(name: str) -> dict[str, Any]:
    """The whole of it, as the first page of everyone's notebook has it."""
    mlflow.set_experiment(f"experiment of {name}")
    rows = frame()
    with mlflow.start_run(run_name="the first") as run:
        model = fitted()
        mlflow.log_params({"C": 1.0, "solver": "lbfgs"})
        logged = mlflow.sklearn.log_model(model, "model", input_example=rows.head(3))
        mlflow.log_metric("accuracy", 0.9)
    client = MlflowClient()
    made = mlflow.register_model(logged.model_uri, name)
    client.set_registered_model_alias(name, "champion", made.version)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@champion")
    native = mlflow.sklearn.load_model(f"models:/{name}/{made.version}")
    told = client.get_model_version_by_alias(name, "champion")
    return {
        "run": run.info.run_id,
        "version": told.version,
        "status": told.status,
        "run_of_version": told.run_id,
        "aliases": list(told.aliases),
        "uri": client.get_model_version_download_uri(name, made.version),
        "equal": bool((loaded.predict(rows) == model.predict(rows)).all()),
        "native_equal": bool(np.array_equal(native.predict_proba(rows), model.predict_proba(rows))),
        "probabilities": model.predict_proba(rows)[:5, 1].tolist(),
    }


def registered_as_it_is_logged(name: str) -> list[str]:
    """``registered_model_name=`` of ``log_model``, twice."""
    mlflow.set_experiment(f"experiment of {name}")
    rows = frame()
    for strength in (0.5, 2.0):
        with mlflow.start_run():
            model = fitted(strength)
            mlflow.sklearn.log_model(
                model,
                name="model",
                registered_model_name=name,
                signature=infer_signature(rows, model.predict(rows)),
            )
    client = MlflowClient()
    return sorted(one.version for one in client.search_model_versions(f"name = '{name}'"))


def from_a_run(name: str) -> dict[str, Any]:
    """``runs:/…`` as the source, and the low-level calls."""
    mlflow.set_experiment(f"experiment of {name}")
    with mlflow.start_run() as run:
        mlflow.sklearn.log_model(fitted(), name="model")
    first = mlflow.register_model(f"runs:/{run.info.run_id}/model", name, tags={"from": "a run"})
    client = MlflowClient()
    client.update_model_version(name, first.version, description="told")
    client.set_model_version_tag(name, first.version, "checked", "yes")
    copy = client.copy_model_version(f"models:/{name}/{first.version}", f"{name} (prod)")
    loaded = mlflow.pyfunc.load_model(f"models:/{name} (prod)/{copy.version}")
    told = client.get_model_version(name, first.version)
    return {
        "tags": told.tags,
        "description": told.description,
        "source": told.source.startswith("models:/m-"),
        "model_of_copy": copy.source,
        "run_of_copy": copy.run_id == run.info.run_id,
        "answers": len(loaded.predict(frame(4))),
    }


def asked(name: str, alias: str) -> dict[str, Any]:
    """What the client knows of a version, and what it answers when it is loaded."""
    client = MlflowClient()
    model = client.get_registered_model(name)
    version = client.get_model_version_by_alias(name, alias)
    loaded = mlflow.pyfunc.load_model(f"models:/{name}@{alias}")
    answers = loaded.predict(frame(5))
    return {
        "aliases": dict(model.aliases),
        "latest": [one.version for one in model.latest_versions],
        "version": version.version,
        "run": version.run_id,
        "tags": dict(model.tags),
        "answers": np.asarray(answers, dtype=float).reshape(-1).tolist(),
    }


def everything(name: str) -> dict[str, Any]:
    """Every call of the registry's client once, in an order that makes sense."""
    client = MlflowClient()
    client.create_registered_model(name, tags={"team": "air"}, description="for the story")
    mlflow.set_experiment(f"experiment of {name}")
    with mlflow.start_run() as run:
        mlflow.sklearn.log_model(fitted(), name="model")
    uri = f"runs:/{run.info.run_id}/model"
    numbers = [mlflow.register_model(uri, name).version for _ in range(3)]
    client.update_registered_model(name, "told anew")
    client.set_registered_model_tag(name, "year", "2013")
    client.delete_registered_model_tag(name, "team")
    client.set_registered_model_alias(name, "best", "2")
    client.set_registered_model_alias(name, "worst", "1")
    client.delete_registered_model_alias(name, "worst")
    client.transition_model_version_stage(name, "2", "Production")
    client.transition_model_version_stage(name, "3", "Production", archive_existing_versions=True)
    latest = {one.current_stage: one.version for one in client.get_latest_versions(name)}
    client.delete_model_version(name, "1")
    client.rename_registered_model(name, f"{name} renamed")
    model = client.get_registered_model(f"{name} renamed")
    pages = client.search_registered_models(f"name LIKE '{name}%'", max_results=1)
    versions = client.search_model_versions(
        f"name = '{name} renamed'", order_by=["version_number DESC"], max_results=1
    )
    more = client.search_model_versions(
        f"name = '{name} renamed'",
        order_by=["version_number DESC"],
        max_results=1,
        page_token=versions.token,
    )
    refused = []
    for act in (
        lambda: client.get_model_version(f"{name} renamed", "1"),
        lambda: client.create_registered_model(name),
        lambda: client.get_registered_model("no such model"),
        lambda: client.set_registered_model_alias(f"{name} renamed", "latest", "2"),
        lambda: client.transition_model_version_stage(f"{name} renamed", "2", "nowhere"),
    ):
        try:
            act()
            refused.append("")
        except MlflowException as error:
            refused.append(error.error_code)
    client.delete_registered_model(f"{name} renamed")
    return {
        "numbers": numbers,
        "description": model.description,
        "tags": dict(model.tags),
        "aliases": dict(model.aliases),
        "latest": latest,
        "stages": client.get_model_version_stages(name, "2"),
        "found": [one.name for one in pages],
        "pages": [[one.version for one in versions], [one.version for one in more]],
        "refused": refused,
        "gone": len(client.search_registered_models(f"name LIKE '{name}%'")),
    }


def alias(name: str, alias: str, version: str) -> None:
    """Point an alias at a version."""
    MlflowClient().set_registered_model_alias(name, alias, version)


def elsewhere(name: str) -> str:
    """Register what lies in a bucket of one's own."""
    client = MlflowClient()
    client.create_registered_model(name)
    made = client.create_model_version(name, "s3://bucket/model")
    return client.get_model_version_download_uri(name, made.version)
