"""Folders that the real MLflow writes, and what it answers from those that Flyball wrote. Runs where MLflow is."""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
RANDOM = np.random.default_rng(21)
FRAME = pd.DataFrame({"a": RANDOM.normal(size=200), "b": RANDOM.normal(size=200)})
LATE = (FRAME["a"] + FRAME["b"] > 0).astype(int)
MINUTES = 3 * FRAME["a"] - FRAME["b"]
KNOWN: dict[str, Any] = {"pip_requirements": ["numpy"]}  # else MLflow starts a process to find them out
TREES = ["sklearn.tree._tree.Tree"]


def write_sklearn(into: str) -> dict[str, Any]:
    """What ``mlflow.sklearn.save_model`` leaves, one folder for each way; each one's own answers."""
    import mlflow
    from mlflow.models import infer_signature
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    save = partial(mlflow.sklearn.save_model, **KNOWN)
    classifier = LogisticRegression().fit(FRAME, LATE)
    regressor = LinearRegression().fit(FRAME.to_numpy(), MINUTES)
    forest = RandomForestClassifier(5, random_state=0).fit(FRAME, LATE)
    named = make_pipeline(
        ColumnTransformer([("one", StandardScaler(), ["b"])], remainder="passthrough"), LinearRegression()
    ).fit(FRAME, MINUTES)
    said = infer_signature(FRAME, classifier.predict(FRAME))
    mlflow.sklearn.save_model(
        classifier, f"{into}/default"
    )  # as most people write it: no signature, no example
    save(classifier, f"{into}/pickle", serialization_format="pickle", signature=said, input_example=FRAME[:3])
    save(classifier, f"{into}/cloudpickle", serialization_format="cloudpickle", signature=said)
    save(classifier, f"{into}/skops", serialization_format="skops", input_example=FRAME[:5])
    save(forest, f"{into}/forest", skops_trusted_types=TREES, input_example=FRAME[:5])
    save(regressor, f"{into}/arrays", input_example=FRAME.to_numpy()[:4])
    save(
        named, f"{into}/named", serialization_format="cloudpickle", signature=infer_signature(FRAME, MINUTES)
    )
    binary = {"default": classifier, "pickle": classifier, "cloudpickle": classifier, "skops": classifier}
    answers = {
        name: one.predict_proba(FRAME)[:, 1].tolist() for name, one in {**binary, "forest": forest}.items()
    }
    answers["arrays"] = regressor.predict(FRAME.to_numpy()).tolist()
    answers["named"] = named.predict(FRAME).tolist()
    return answers


def write_with_code(into: str, code: str) -> dict[str, Any]:
    """An estimator of somebody's own module, logged with ``code_paths``."""
    import mlflow

    sys.path.insert(0, code)
    try:
        model = importlib.import_module("strangers.model").Offset(2.5)
        mlflow.sklearn.save_model(
            model,
            f"{into}/code",
            code_paths=[f"{code}/strangers"],
            serialization_format="cloudpickle",
            input_example=FRAME[:3],
            **KNOWN,
        )
        return {"code": model.predict(FRAME.to_numpy()).tolist()}
    finally:
        sys.path.remove(code)


def write_boosters(into: str) -> dict[str, Any]:
    """What the flavors of XGBoost, LightGBM and ONNX leave, and a model of Python alone."""
    import lightgbm
    import mlflow
    import mlflow.lightgbm
    import mlflow.onnx
    import mlflow.xgboost
    import onnx
    import xgboost
    from mlflow.models import infer_signature

    class Doubled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
            return model_input["a"] * 2

    options = {"n_estimators": 4, "n_jobs": 1}
    xgb = xgboost.XGBClassifier(**options).fit(FRAME, LATE)
    lgb = lightgbm.LGBMClassifier(verbose=-1, **options).fit(FRAME, LATE)
    booster = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(FRAME, LATE), 4)
    mlflow.xgboost.save_model(xgb, f"{into}/xgb wrapper", input_example=FRAME[:3], **KNOWN)
    mlflow.xgboost.save_model(xgb.get_booster(), f"{into}/xgb booster", model_format="json", **KNOWN)
    mlflow.lightgbm.save_model(lgb, f"{into}/lgb wrapper", input_example=FRAME[:3], **KNOWN)
    mlflow.lightgbm.save_model(lgb, f"{into}/lgb pickled", serialization_format="cloudpickle", **KNOWN)
    mlflow.lightgbm.save_model(booster, f"{into}/lgb booster", **KNOWN)
    graph = onnx.load(f"{into}/graph.onnx")
    mlflow.onnx.save_model(
        graph, f"{into}/onnx", signature=infer_signature(FRAME.to_numpy(np.float32)), **KNOWN
    )
    mlflow.pyfunc.save_model(f"{into}/pyfunc", python_model=Doubled(), input_example=FRAME[:3], **KNOWN)
    rows = FRAME.astype(np.float32)
    answers = {name: xgb.predict_proba(rows)[:, 1].tolist() for name in ("xgb wrapper", "xgb booster")}
    answers |= {name: lgb.predict_proba(rows)[:, 1].tolist() for name in ("lgb wrapper", "lgb pickled")}
    return {**answers, "lgb booster": booster.predict(rows).tolist(), "pyfunc": (2 * FRAME["a"]).tolist()}


def answers(folder: str) -> dict[str, Any]:
    """What ``mlflow.pyfunc`` and the flavor's own ``load_model`` answer from a folder."""
    import mlflow

    generic = mlflow.pyfunc.load_model(folder)
    found: dict[str, Any] = {"pyfunc": _plain(generic.predict(FRAME)), "native": {}}
    schema = generic.metadata.get_input_schema()
    found["inputs"] = None if schema is None or not schema.has_input_names() else schema.input_names()
    found["example"] = generic.input_example is not None
    for flavor in ("sklearn", "xgboost", "lightgbm"):
        if flavor in generic.metadata.flavors:
            module = importlib.import_module(f"mlflow.{flavor}")
            native = module.load_model(folder)
            rows = FRAME
            if type(native).__name__ == "Booster" and flavor == "xgboost":
                import xgboost

                rows = xgboost.DMatrix(FRAME)
            found["native"][flavor] = _plain(native.predict(rows))
    return found


def all_answers(folders: dict[str, str]) -> dict[str, Any]:
    """The same of several folders."""
    return {name: answers(folder) for name, folder in folders.items()}


def _plain(answer: Any) -> Any:
    return np.asarray(answer).reshape(-1).tolist()


def load_here(folder: str) -> Any:
    """What Flyball answers from a folder where MLflow can be imported beside it."""
    from flyball.models import registry
    from flyball.models.mlmodel import import_folder, prepare
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger

    ledger, blobs = Ledger.open("sqlite://"), Blobs.open("memory:")
    version = import_folder(ledger, blobs, "here", Path(folder), actor="a", trust="written by the test")
    served = prepare(ledger, blobs, version, actor="a")
    found = registry.load(ledger, blobs, version.ref).predict(FRAME[["b", "a"]].to_numpy()[:, ::-1].copy())
    return {
        "answers": found.tolist(),
        "format": served.format,
        "inputs": [field.name for field in served.signature.inputs],
    }


def main() -> None:
    """One call: the name of a function and its arguments as JSON; the answer on the last line."""
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    sys.stdout.write("\n" + json.dumps(globals()[name](**arguments)) + "\n")


if __name__ == "__main__":
    main()
