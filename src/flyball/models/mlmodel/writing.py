"""Any registered version as an MLmodel folder that ``mlflow.pyfunc.load_model`` and the flavor's own loader read.

The same version gives the same bytes. What MLflow has no flavor for comes with a few lines of its own that load it
(``code/flyball_loader_*.py``); nobody needs Flyball to read it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from pathlib import PurePosixPath
from typing import Any

import msgspec
import yaml

from flyball.core.hashing import digest_bytes, digest_of
from flyball.core.records import Environment, ModelVersion
from flyball.errors import Invalid
from flyball.models.formats import bundle
from flyball.models.formats import lightgbm as lightgbm_format
from flyball.models.mlmodel.folder import Folder
from flyball.models.mlmodel.signatures import to_schema
from flyball.stores.blobs import Blobs

Files = dict[str, bytes]
_dump: Any = yaml.safe_dump  # untyped
_ENV = {"conda": "conda.yaml", "virtualenv": "python_env.yaml"}
_LOADER = '''"""Loads a model that Flyball wrote, for MLflow."""

import json
import os
import pickle


class Model:
    def __init__(self, model):
        self.model = model

    def predict(self, data, params=None):
        named = hasattr(self.model, "feature_names_in_") or not hasattr(data, "to_numpy")
        rows = data if named else data.to_numpy()
        return self.model.predict(rows) if hasattr(self.model, "predict") else self.model(rows)


def _load_pyfunc(path):
    if os.path.isdir(path):
        return Model(_load_lightgbm(path))
    with open(path, "rb") as file:
        return Model(pickle.load(file))


def _load_lightgbm(path):
    import lightgbm
    import numpy
    from sklearn.preprocessing import LabelEncoder

    def rich(value):
        if isinstance(value, dict) and value.keys() == {"array", "dtype"}:
            return numpy.array(value["array"], dtype=numpy.dtype(value["dtype"]))
        return value

    with open(os.path.join(path, "wrapper.json")) as file:
        kept = json.load(file)
    kind = getattr(lightgbm, kept["class"])
    model = kind.__new__(kind)
    vars(model).update({name: rich(value) for name, value in kept["state"].items()})
    booster = lightgbm.Booster(model_file=os.path.join(path, "model.lgb"))
    vars(model).update(_Booster=booster, _evals_result={}, _best_score={}, _class_map=None)
    if getattr(model, "_classes", None) is not None:
        model._le = LabelEncoder()
        model._le.classes_ = model._classes
    return model
'''


class _Written(msgspec.Struct, frozen=True):
    """The model's own files, and the flavors that read them."""

    files: Files
    flavors: dict[str, dict[str, Any]]
    says_numbers: bool = False  # whether pyfunc's answer is our output, not labels


def files_of(version: ModelVersion, blobs: Blobs, environment: Environment | None = None) -> Files:
    """The folder of a version, path to bytes. ``environment`` (of its run) pins what its registration did not note.

    A version that came as a folder is given back as it came.
    """
    if version.format == "mlmodel":
        folder = Folder.of_manifest(blobs.get(version.artifact), blobs)
        return {path: folder.read(path) for path in folder.paths}
    format, data = native_of(version, blobs)
    written = _WRITERS[format](data, _facts(version))
    requires = _requires(version, format, environment)
    python = str(_facts(version).get("python") or (environment.python if environment else "3.11"))
    files = {**written.files, **_environment_files(requires, python), **_example_files(version)}
    files["MLmodel"] = _mlmodel(version, written, files, requires, python)
    return dict(sorted(files.items()))


def native_of(version: ModelVersion, blobs: Blobs) -> tuple[str, bytes]:
    """The format and bytes of the model itself, where there is one, else of what serves."""
    if version.native is not None:
        return version.native_format, blobs.get(version.native)
    return version.format, blobs.get(version.artifact)


def _mlmodel(
    version: ModelVersion,
    written: _Written,
    files: Mapping[str, bytes],
    requires: dict[str, str],
    python: str,
) -> bytes:
    flavors = {name: dict(settings) for name, settings in written.flavors.items()}
    flavors["python_function"] |= {"env": _ENV, "python_version": python}
    for name, key, distribution in _VERSIONS:
        if name in flavors:
            flavors[name] |= {key: _pin(requires, distribution), "code": flavors[name].get("code")}
    content: dict[str, Any] = {
        "flavors": flavors,
        "model_uuid": digest_of([version.ref, version.artifact, version.native])[3:35],
        "utc_time_created": version.created.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "metadata": {
            "flyball": {
                "version": version.ref,
                "files": {path: digest_bytes(data) for path, data in sorted(files.items())},
            }
        },
    }
    if version.signature.inputs:
        content["signature"] = to_schema(version.signature, outputs=written.says_numbers)
    if "input_example.json" in files:
        content["saved_input_example_info"] = {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        }
    if version.run:
        content["run_id"] = version.run
    return _yaml(content)


_VERSIONS = (
    ("sklearn", "sklearn_version", "scikit-learn"),
    ("xgboost", "xgb_version", "xgboost"),
    ("lightgbm", "lgb_version", "lightgbm"),
    ("onnx", "onnx_version", "onnx"),
    ("pytorch", "pytorch_version", "torch"),
)


def _write_skops(data: bytes, facts: dict[str, Any]) -> _Written:
    return _sklearn({"model.skops": data}, "model.skops", "skops", facts.get("trusted_types") or None)


def _write_pickle(data: bytes, facts: dict[str, Any]) -> _Written:
    if facts.get("estimator", True):
        return _sklearn({"model.pkl": data}, "model.pkl", "pickle", None)
    return _own_loader({"model.pkl": data}, "model.pkl")


def _write_python(data: bytes, facts: dict[str, Any]) -> _Written:
    sources, pickled = bundle.unpack(data)
    files = {"model.pkl": pickled} | {f"code/{path}": text.encode() for path, text in sources.texts.items()}
    for module, path in sources.files.items():
        if not path:  # MLflow puts code/ on the path; a package without __init__.py is one all the same
            files.setdefault(f"code/{module.replace('.', '/')}/__init__.py", b"")
    if facts.get("estimator"):
        return _sklearn(files, "model.pkl", "pickle", None, code="code")
    return _own_loader(files, "model.pkl")


def _sklearn(
    files: Files, path: str, kind: str, trusted: list[str] | None, code: str | None = None
) -> _Written:
    flavors: dict[str, dict[str, Any]] = {
        "sklearn": {
            "pickled_model": path,
            "serialization_format": kind,
            "skops_trusted_types": trusted,
            "code": code,
        },
        "python_function": {
            "loader_module": "mlflow.sklearn",
            "model_path": path,
            "predict_fn": "predict",
            **({"code": code} if code else {}),
        },
    }
    return _Written(files, flavors)


def _own_loader(files: Files, data: str, flavors: dict[str, dict[str, Any]] | None = None) -> _Written:
    name = f"flyball_loader_{digest_bytes(_LOADER.encode())[3:11]}"  # two models in one process may bring two of them
    generic = {"loader_module": name, "data": data, "code": "code"}
    files = {**files, f"code/{name}.py": _LOADER.encode()}
    return _Written(files, {**(flavors or {}), "python_function": generic})


def _write_xgboost(data: bytes, facts: dict[str, Any]) -> _Written:
    kind = str(facts.get("class") or "xgboost.core.Booster")
    own = {"data": "model.ubj", "model_class": kind, "model_format": "ubj"}
    generic = {"loader_module": "mlflow.xgboost", "data": "model.ubj"}
    return _Written(
        {"model.ubj": data},
        {"xgboost": own, "python_function": generic},
        kind.endswith(("Booster", "Regressor")),
    )


def _write_lightgbm(data: bytes, facts: dict[str, Any]) -> _Written:
    text, kept = lightgbm_format.split(data)
    own = {"data": "model.lgb", "model_class": "lightgbm.basic.Booster"}
    if kept is None:
        generic = {"loader_module": "mlflow.lightgbm", "data": "model.lgb"}
        return _Written({"model.lgb": text.encode()}, {"lightgbm": own, "python_function": generic}, True)
    own["data"] = "model/model.lgb"
    state = msgspec.json.encode(kept, order="sorted")
    return _own_loader(
        {"model/model.lgb": text.encode(), "model/wrapper.json": state}, "model", {"lightgbm": own}
    )


def _write_onnx(data: bytes, facts: dict[str, Any]) -> _Written:
    own = {"data": "model.onnx", "providers": ["CPUExecutionProvider"], "onnx_session_options": None}
    generic = {"loader_module": "mlflow.onnx", "data": "model.onnx"}
    return _Written({"model.onnx": data}, {"onnx": own, "python_function": generic}, True)


def _write_torch(data: bytes, facts: dict[str, Any]) -> _Written:
    name = "model.pt2" if b"archive_format" in data else "model.pth"
    files = {f"data/{name}": data, "data/pickle_module_info.txt": b"mlflow.pytorch.pickle_module"}
    generic = {"loader_module": "mlflow.pytorch", "data": "data", "pickle_module_name": "pickle"}
    return _Written(files, {"pytorch": {"model_data": "data"}, "python_function": generic}, True)


_WRITERS = {
    "skops": _write_skops,
    "pickle": _write_pickle,
    "python": _write_python,
    "xgboost": _write_xgboost,
    "lightgbm": _write_lightgbm,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
EXTENSIONS = {
    "skops": "skops",
    "pickle": "pkl",
    "python": "zip",
    "xgboost": "ubj",
    "onnx": "onnx",
    "torch": "pt",
}
_NEEDS = {  # what a version needs that was registered before that was noted
    "skops": ("scikit-learn", "skops"),
    "pickle": ("scikit-learn", "numpy"),
    "python": ("numpy",),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm", "scikit-learn"),
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
}


def _facts(version: ModelVersion) -> dict[str, Any]:
    found = version.export.get("native")
    if isinstance(found, dict):
        return found
    return {"estimator": "is not a scikit-learn model" not in str(version.export.get("reason", ""))}


def _requires(version: ModelVersion, format: str, environment: Environment | None) -> dict[str, str]:
    """Only what the flavor needs, as it was installed where the version was made; unknown versions stay open."""
    known: dict[str, str] = dict(_facts(version).get("requires") or {})
    names: dict[str, str] = known or dict.fromkeys(_NEEDS[format], "")
    installed = environment.packages if environment is not None else {}
    return {name: installed.get(re.sub(r"[-_.]+", "-", name).lower(), names[name]) for name in sorted(names)}


def _pin(requires: Mapping[str, str], distribution: str) -> str:
    return next((found for name, found in requires.items() if name.startswith(distribution)), "")


def _environment_files(requires: Mapping[str, str], python: str) -> Files:
    lines = sorted(["mlflow", "pandas", *(f"{name}=={at}" if at else name for name, at in requires.items())])
    lines = [
        line for line in lines if line != "pandas" or not any(one.startswith("pandas==") for one in lines)
    ]
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": lines}],
    }
    env = {
        "python": python,
        "build_dependencies": ["pip", "setuptools", "wheel"],
        "dependencies": ["-r requirements.txt"],
    }
    return {
        "requirements.txt": ("\n".join(lines) + "\n").encode(),
        "conda.yaml": _yaml(conda),
        "python_env.yaml": _yaml(env),
    }


def _example_files(version: ModelVersion) -> Files:
    names = [field.name for field in version.signature.inputs]
    if not names or set(version.example) != set(names):
        return {}
    split = {"columns": names, "data": [[version.example[name] for name in names]]}
    return {
        "input_example.json": msgspec.json.encode(split),
        "serving_input_example.json": msgspec.json.encode({"dataframe_split": split}),
    }


def _yaml(content: Any) -> bytes:
    return str(_dump(content, default_flow_style=False, sort_keys=True, allow_unicode=True)).encode()


def native_file(version: ModelVersion, blobs: Blobs) -> Files:
    """The model itself as the one file that its library reads."""
    if version.format == "mlmodel":
        raise Invalid(f"{version.ref} came as a folder of MLflow's", "flyball models export … --as mlmodel")
    format, data = native_of(version, blobs)
    if format == "lightgbm":
        text, kept = lightgbm_format.split(data)
        return {"model.lgb": text.encode()} if kept is None else {"model.lightgbm.zip": data}
    return {str(PurePosixPath("model").with_suffix(f".{EXTENSIONS[format]}")): data}


def onnx_file(version: ModelVersion, blobs: Blobs, served: str | None = None) -> Files:
    """The graph that serves; :class:`Invalid` says why there is none. ``served`` is the digest of a folder's export."""
    digest = served or (version.artifact if version.format == "onnx" else None)
    if digest is None:
        why = version.export.get("reason", "it was registered without")
        raise Invalid(f"{version.ref} has no ONNX export: {why}", "--as native gives the model itself")
    return {"model.onnx": blobs.get(digest)}
