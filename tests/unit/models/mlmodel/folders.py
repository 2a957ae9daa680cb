"""MLmodel folders as MLflow writes them, made without MLflow."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import yaml

COLUMNS = [
    {"type": "double", "name": "a", "required": True},
    {"type": "double", "name": "b", "required": True},
]


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def mlmodel(flavors: dict[str, Any], inputs: Any = COLUMNS, **more: Any) -> bytes:
    """The text of an MLmodel file."""
    content: dict[str, Any] = {
        "flavors": flavors,
        "mlflow_version": "3.17.2",
        "model_uuid": "5f56c4b67b874d48acf7ab19e405c072",
        "utc_time_created": "2026-11-24 22:15:32.276532",
        **more,
    }
    if inputs is not None:
        outputs = [{"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}]
        content["signature"] = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}
    return yaml.safe_dump(content).encode()


def sklearn_folder(
    model: Any, *, example: bool = True, inputs: Any = COLUMNS, **more: Any
) -> dict[str, bytes]:
    """What ``mlflow.sklearn.save_model(model, serialization_format="pickle")`` leaves."""
    files = {
        "model.pkl": model if isinstance(model, bytes) else pickle.dumps(model),
        "requirements.txt": b"mlflow==3.17.2\nscikit-learn==1.9.1\n",
        "conda.yaml": b"name: mlflow-env\n",
        "python_env.yaml": b"python: 3.11.7\n",
    }
    if example:
        split = {"columns": ["a", "b"], "data": [[0.1, -0.5], [1.5, 0.25], [-0.75, 2.0]]}
        files["input_example.json"] = json.dumps(split).encode()
        files["serving_input_example.json"] = json.dumps({"dataframe_split": split}).encode()
        more["saved_input_example_info"] = {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        }
    sklearn = {"pickled_model": "model.pkl", "serialization_format": "pickle", "code": None}
    generic = {"loader_module": "mlflow.sklearn", "model_path": "model.pkl", "python_version": "3.11.7"}
    return {"MLmodel": mlmodel({"sklearn": sklearn, "python_function": generic}, inputs, **more), **files}
