"""LightGBM's boosters as LightGBM's text, and its scikit-learn wrappers as that text beside their state: reading runs nothing.

A wrapper has no format of its own but a pickle. Its state is plain data (numbers, texts, the classes' labels), so that
is what is kept; a wrapper that holds more (an objective of one's own) is not kept this way.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from importlib import import_module
from typing import Any

import msgspec
import numpy as np

from flyball.errors import Invalid
from flyball.models.formats.archive import pack, unpack

_WRAPPERS = ("LGBMClassifier", "LGBMRegressor", "LGBMRanker")
_TEXT, _STATE = "model.txt", "wrapper.json"
_DERIVED = {
    "_Booster",
    "_le",
    "_class_map",
    "_evals_result",
    "_best_score",
}  # not needed to predict, or made again


def is_own(model: Any) -> bool:
    """Whether it is a booster or a wrapper of LightGBM itself."""
    kind = type(model)
    return kind.__module__.startswith("lightgbm.") and kind.__name__ in ("Booster", *_WRAPPERS)


def write(model: Any, sample: Any = None) -> bytes:
    """The model's text, for a wrapper with its state."""
    lightgbm = import_module("lightgbm")
    if not is_own(model):
        raise Invalid(f"a {type(model).__name__} is not LightGBM's", 'format="auto" finds what keeps it')
    if isinstance(model, lightgbm.Booster):
        return bytes(model.model_to_string().encode())
    try:
        booster = model.booster_
    except Exception as error:
        raise Invalid(f"a {type(model).__name__} that was not fitted: {error}", "fit it first") from error
    state = {name: _plain(name, value) for name, value in vars(model).items() if name not in _DERIVED}
    kept = msgspec.json.encode({"class": type(model).__name__, "state": state}, order="sorted")
    # as predicting does: the trees up to the best, where training stopped early
    return pack({_TEXT: booster.model_to_string().encode(), _STATE: kept})


def read(data: bytes) -> Any:
    """The booster, or the wrapper that it was kept from."""
    lightgbm = import_module("lightgbm")
    text, kept = split(data)
    try:
        booster = lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError, KeyError) as error:
        raise Invalid(
            f"not a LightGBM model, or a torn one: {str(error)[:200]}", "copy the whole file"
        ) from error
    if kept is None:
        return booster
    kind = getattr(lightgbm, kept["class"])
    model = kind.__new__(kind)
    vars(model).update({name: _rich(value) for name, value in kept["state"].items()}, _Booster=booster)
    vars(model).update(_evals_result={}, _best_score={}, _class_map=None)
    if getattr(model, "_classes", None) is not None:
        model._le = import_module("sklearn.preprocessing").LabelEncoder()
        model._le.classes_ = model._classes
    return model


def split(data: bytes) -> tuple[str, dict[str, Any] | None]:
    """The booster's text, and the class and state of the wrapper (``None`` for a booster); loads no LightGBM."""
    if not data.startswith(b"PK"):
        return _text(data), None
    try:
        parts = unpack(data)
        kept = msgspec.json.decode(parts[_STATE], type=dict[str, Any])
        text = _text(parts[_TEXT])
    except (zipfile.BadZipFile, KeyError, msgspec.DecodeError) as error:
        raise Invalid(f"not a LightGBM model, or a torn one: {error}", "copy the whole file") from error
    if kept.get("class") not in _WRAPPERS:
        raise Invalid(f"{kept.get('class')!r} is no class of LightGBM's", f"known: {', '.join(_WRAPPERS)}")
    return text, kept


def asker(model: Any) -> Callable[[Any], Any]:
    """How a booster is asked, by one thread."""
    return lambda rows: model.predict(rows, num_threads=1)


def wrapper_asker(model: Any) -> Callable[[Any], Any] | None:
    """How a fitted wrapper's booster is asked for the same numbers, in a tenth of the wrapper's time; ``None`` where the
    wrapper has options of its own."""
    if not isinstance(model.objective_, str) or set(getattr(model, "_other_params", {})) - {
        "verbose",
        "verbosity",
    }:
        return None
    return asker(model.booster_)


def answers_probability(model: Any) -> bool:
    """Whether a booster's answers are probabilities, by the objective it was trained with."""
    objective = next(
        (line for line in model.model_to_string(0, 1).splitlines() if line.startswith("objective=")), ""
    )
    return objective.removeprefix("objective=").partition(" ")[0] in ("binary", "cross_entropy", "xentropy")


def _text(data: bytes) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise Invalid("not a LightGBM model: it is no text", "copy the whole file") from error
    # LightGBM 4.7 ends the process over most texts that were cut: look for their ends first
    if not text.startswith("tree\n") or "\nend of trees\n" not in text or "\nend of parameters\n" not in text:
        raise Invalid(
            "not a LightGBM model, or a torn one: it has no beginning or no end", "copy the whole file"
        )
    return text


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"array": [_plain(name, one) for one in value.tolist()], "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and np.isfinite(value):
        return value
    if type(value) in (list, tuple):
        return [_plain(name, one) for one in value]
    if type(value) is dict and all(type(key) is str for key in value) and "array" not in value:
        return {key: _plain(name, one) for key, one in value.items()}
    raise Invalid(
        f"its {name} is a {type(value).__name__}, which is no plain data", 'format="pickle" keeps it'
    )


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"array", "dtype"}:
            return np.array(value["array"], dtype=np.dtype(value["dtype"]))
        return {key: _rich(one) for key, one in value.items()}
    return [_rich(one) for one in value] if isinstance(value, list) else value
