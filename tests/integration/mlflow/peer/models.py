"""Models through the client: logged, registered, loaded; automatic logging of scikit-learn."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

X, Y = make_classification(200, 4, random_state=0)

SCENARIO = """
import warnings
warnings.filterwarnings("error", category=DeprecationWarning, module="flyball")
import mlflow
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

X, y = make_classification(200, 4, random_state=0)
mlflow.set_experiment("{name}")
with mlflow.start_run(run_name="named") as run:
    mlflow.log_params({{"C": 0.5, "solver": "lbfgs"}})
    model = LogisticRegression(C=0.5).fit(X, y)
    info = mlflow.sklearn.log_model(model, "model")
    mlflow.log_metrics({{"accuracy": model.score(X, y)}})
version = mlflow.register_model(info.model_uri, "{model}")
client = mlflow.MlflowClient()
client.set_registered_model_alias("{model}", "champion", version.version)
loaded = mlflow.pyfunc.load_model("models:/{model}@champion")
assert (loaded.predict(X) == model.predict(X)).all()
again = mlflow.sklearn.load_model("models:/{model}@champion")
assert (again.predict_proba(X) == model.predict_proba(X)).all()
print(run.info.run_id, version.version)
"""


def scenario(url: str, name: str, model: str) -> dict[str, str]:
    """The issue's scenario in a fresh process that knows nothing but ``MLFLOW_TRACKING_URI``."""
    done = subprocess.run(
        [sys.executable, "-c", SCENARIO.format(name=name, model=model)],
        env={**os.environ, "MLFLOW_TRACKING_URI": url},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run, version = done.stdout.strip().splitlines()[-1].split()
    return {"run": run, "version": version, "said": done.stderr}


def automatic(name: str) -> dict[str, Any]:
    """``mlflow.sklearn.autolog``: params, metrics, model, dataset, without a line about logging."""
    mlflow.set_experiment(name)
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    mlflow.sklearn.autolog(log_input_examples=True)
    try:
        with warnings.catch_warnings(), mlflow.start_run() as run:
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=0.25).fit(frame, Y)
            model.score(frame, Y)
    finally:
        mlflow.sklearn.autolog(disable=True)
    found = MlflowClient().get_run(run.info.run_id)
    assert found.data.params["C"] == "0.25", found.data.params
    assert found.data.metrics["training_accuracy_score"] > 0.5
    assert found.info.status == "FINISHED"
    assert [one.dataset.name for one in found.inputs.dataset_inputs] == ["dataset"]
    assert len(found.outputs.model_outputs) == 1
    logged = mlflow.get_logged_model(found.outputs.model_outputs[0].model_id)
    assert logged.source_run_id == run.info.run_id
    assert str(logged.status) in ("READY", "LoggedModelStatus.READY")
    loaded = mlflow.pyfunc.load_model(f"models:/{logged.model_id}")
    assert np.array_equal(loaded.predict(frame), model.predict(frame))
    found_models = mlflow.search_logged_models(
        [found.info.experiment_id], filter_string="params.C = '0.25'", output_format="list"
    )
    assert [one.model_id for one in found_models] == [logged.model_id]
    assert mlflow.search_logged_models([found.info.experiment_id])["name"].tolist() == [logged.name]
    return {"run": run.info.run_id, "model": logged.model_id}


def logged(name: str) -> None:
    """Logged models by hand: params, tags, metrics of a model on a dataset, deletion."""
    experiment = mlflow.set_experiment(name)
    with mlflow.start_run():
        model = mlflow.create_external_model(
            "outside", params={f"p{n}": str(n) for n in range(150)}, tags={"a": "1"}
        )
        dataset = mlflow.data.from_pandas(pd.DataFrame({"x": [1]}), name="small")
        mlflow.log_metric("auc", 0.5, model_id=model.model_id, dataset=dataset)
        mlflow.log_metrics({"auc": 0.75, "f1": 0.25}, step=1, model_id=model.model_id, dataset=dataset)
    found = mlflow.get_logged_model(model.model_id)
    assert len(found.params) == 150
    assert found.tags["a"] == "1"
    assert sorted((one.key, one.value, one.dataset_name) for one in found.metrics) == [
        ("auc", 0.5, "small"),
        ("auc", 0.75, "small"),
        ("f1", 0.25, "small"),
    ]
    mlflow.set_logged_model_tags(model.model_id, {"b": "2"})
    mlflow.delete_logged_model_tag(model.model_id, "a")
    tags = mlflow.get_logged_model(model.model_id).tags
    assert "a" not in tags
    assert tags["b"] == "2"
    MlflowClient().delete_logged_model(model.model_id)
    left = mlflow.search_logged_models([experiment.experiment_id], output_format="list")
    assert left == []
