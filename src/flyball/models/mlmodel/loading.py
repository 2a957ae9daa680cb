"""An MLmodel folder in memory, by its flavor's own library; MLflow is imported only for what nothing else can load.

Workers import this. What runs code when it is loaded is refused until somebody vouched for the folder.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np

from flyball.errors import FlyballError, Invalid, Refused, Unavailable
from flyball.models.formats import asking, bundle, decode, pickles, trial
from flyball.models.formats import lightgbm as lightgbm_format
from flyball.models.formats import onnx as onnx_format
from flyball.models.formats import skops as skops_format
from flyball.models.formats.needs import missing
from flyball.models.mlmodel.folder import Folder
from flyball.models.mlmodel.reading import FLAVORS, MLmodel, read
from flyball.models.mlmodel.signatures import PROBABILITY
from flyball.stores.blobs import Blobs


class LoadedFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's model: the flavor's own object, and what the folder says of it."""

    native: Any
    mlmodel: MLmodel
    folder: Folder

    def ask(self, names: Sequence[str], output: str) -> asking.Ask:
        """How it is asked for one number a row: probabilities where the signature says so, else what it predicts."""
        if self.mlmodel.flavor == "python_function":
            return _ask_generic(self.native, self.mlmodel, names)
        if (special := asking.special_ask(self.native)) is not None:
            return special
        if output == PROBABILITY:
            return asking.ask_of(self.native, names)
        return asking.ask_of(_Predicting(self.native), names)


class _Predicting:
    """A model that is asked for what it predicts, though it has probabilities."""

    def __init__(self, model: Any) -> None:
        self.predict = model.predict
        for name in ("feature_names_in_", "steps", "transformers"):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))


def load_folder(manifest: bytes, blobs: Blobs, *, trusted: bool, name: str = "the folder") -> LoadedFolder:
    """Load the folder that a manifest lists; every file is checked against its digest first.

    :class:`Refused` names the files that would run code while nobody has vouched for them.
    """
    folder = Folder.of_manifest(manifest, blobs)
    return load(folder, trusted=trusted, name=name)


def load(folder: Folder, *, trusted: bool, name: str = "the folder") -> LoadedFolder:
    """Load a folder: only its flavor's own library is imported."""
    mlmodel = read(folder)
    if mlmodel.runs_code and not trusted:
        raise Refused(
            f"{name} comes from elsewhere, and loading {', '.join(mlmodel.runs_code[:5])} runs whatever it says",
            _vouch(name),
            files=list(mlmodel.runs_code),
        )
    try:
        native = _LOADERS[mlmodel.flavor](folder, mlmodel, trusted)
    except ImportError as error:
        raise missing(error, f"the {mlmodel.flavor} flavor of {name}") from error
    except Refused as error:
        hint = error.hint if trusted else _vouch(name)
        raise Refused(f"{name}: {error.what}", hint, **error.facts) from error
    except FlyballError:
        raise
    except Exception as error:
        raise Invalid(
            f"{mlmodel.data or name} does not load: {type(error).__name__}: {str(error)[:300]}",
            "copy the whole file; its requirements.txt says which versions it was made with",
        ) from error
    return LoadedFolder(native=native, mlmodel=mlmodel, folder=folder)


def _vouch(name: str) -> str:
    ref = name if "@" in name else "MODEL@VERSION"
    return f"when you trust where it comes from: flyball models trust {ref}"


def _load_sklearn(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    import_module("sklearn")  # its absence is said as what it is
    return _serialized(folder, mlmodel, trusted, "pickle")


def _serialized(folder: Folder, mlmodel: MLmodel, trusted: bool, otherwise: str) -> Any:
    kind = mlmodel.settings.get("serialization_format") or otherwise
    data = folder.read(mlmodel.data)
    if kind == "skops":
        if not trusted:
            skops_format.trusted(data, strictly=True)
            return skops_format.read(data)
        listed = mlmodel.settings.get("skops_trusted_types") or []
        return skops_format.read(data, also=frozenset(map(str, listed)))
    if kind not in ("pickle", "cloudpickle"):
        raise Invalid(f"unknown serialization_format {kind!r}", "known: pickle, cloudpickle, skops")
    if kind == "cloudpickle":
        import_module("cloudpickle")
    return bundle.loads(data, _sources(folder, mlmodel))


def _sources(folder: Folder, mlmodel: MLmodel) -> bundle.Sources:
    """The modules that came with the model, as MLflow's ``code_paths`` left them."""
    files: dict[str, str] = {}
    texts: dict[str, str] = {}
    for path, data in (folder.under(mlmodel.code) if mlmodel.code else {}).items():
        if not path.endswith(".py"):
            continue
        parts = path.removesuffix(".py").split("/")
        if parts[-1] == "__init__":
            parts = parts[:-1]
        for end in range(1, len(parts)):
            files.setdefault(".".join(parts[:end]), "")
        if parts:
            files[".".join(parts)] = path
            texts[path] = data.decode()
    return bundle.Sources(dict(sorted(files.items())), dict(sorted(texts.items())))


def _load_xgboost(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    data = folder.read(mlmodel.data)
    kind = str(mlmodel.settings.get("model_class", "xgboost.core.Booster"))
    module, _, name = kind.rpartition(".")
    if module.partition(".")[0] != "xgboost" or not (name == "Booster" or name.startswith("XGB")):
        raise Refused(f"the xgboost flavor names the class {kind}", "only XGBoost's own are made")
    import_module("xgboost")  # its absence is said as what it is
    trial.survive("xgboost", data)
    if name == "Booster":
        return import_module("xgboost").Booster(model_file=bytearray(data))
    model = getattr(import_module("xgboost"), name)()
    model.load_model(bytearray(data))
    return model


def _load_lightgbm(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    import_module("lightgbm")
    if mlmodel.settings.get("model_class", "lightgbm.basic.Booster") == "lightgbm.basic.Booster":
        data = folder.read(mlmodel.data)
        trial.survive("lightgbm", data)
        return lightgbm_format.read(data)
    return _serialized(folder, mlmodel, trusted, "cloudpickle")


def _load_onnx(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    data = folder.read(mlmodel.data)
    try:
        return decode("onnx", data)
    except FlyballError:
        raise
    except Exception:
        if len([path for path in folder.paths if path.startswith(mlmodel.data.rpartition("/")[0])]) < 2:
            raise
        # weights in files of their own are found beside the graph on disk only
        with folder.unpack() as place:
            return onnx_format.read(f"{place}/{mlmodel.data}")


def _load_pytorch(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    torch = import_module("torch")
    data = folder.read(mlmodel.data)
    if mlmodel.data.endswith(".pt2"):
        return decode("torch", data)
    sources = _sources(folder, mlmodel)
    reader = SimpleNamespace(
        __name__="pickle", Unpickler=pickles.unpickler(bundle.finder(sources)), load=pickles.read
    )
    model = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False, pickle_module=reader)
    return model.eval() if hasattr(model, "eval") else model


def _load_generic(folder: Folder, mlmodel: MLmodel, trusted: bool) -> Any:
    """Whatever MLflow alone can load; the folder stays on disk as long as the model does."""
    try:
        pyfunc = import_module("mlflow.pyfunc")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mlflow":
            raise
        loader = mlmodel.settings.get("loader_module")
        raise Unavailable(
            f"a model of the loader {loader} is loaded by MLflow itself, which is not installed here",
            "pip install mlflow; models of the flavors " + ", ".join(FLAVORS) + " need no MLflow",
        ) from error
    place = folder.unpack()
    model = pyfunc.load_model(place.name)
    model._flyball_folder = place
    return model


def _ask_generic(model: Any, mlmodel: MLmodel, names: Sequence[str]) -> Callable[[Any], Any]:
    """Asks MLflow's wrapper: a frame of the signature's columns and types, or an array where it says tensor."""
    schema = model.metadata.get_input_schema() if model.metadata is not None else None
    if schema is not None and schema.is_tensor_spec() and not schema.has_input_names():
        dtype = schema.input_types()[0]
        return lambda rows: np.asarray(model.predict(np.asarray(rows, dtype=dtype)))
    pandas = import_module("pandas")
    types = {}
    if schema is not None and not schema.is_tensor_spec():
        types = {
            spec.name: spec.type.to_pandas() for spec in schema.inputs if hasattr(spec.type, "to_pandas")
        }

    def ask(rows: Any) -> Any:
        frame = pandas.DataFrame(np.asarray(rows), columns=list(names))
        return np.asarray(model.predict(frame.astype({k: v for k, v in types.items() if k in frame})))

    return ask


_LOADERS: dict[str, Callable[[Folder, MLmodel, bool], Any]] = {
    "sklearn": _load_sklearn,
    "xgboost": _load_xgboost,
    "lightgbm": _load_lightgbm,
    "onnx": _load_onnx,
    "pytorch": _load_pytorch,
    "python_function": _load_generic,
}
