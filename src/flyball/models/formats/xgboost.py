"""XGBoost's boosters and scikit-learn wrappers in XGBoost's own UBJSON: reading it runs nothing.

What a wrapper keeps there is what predicting needs, not the parameters it was trained with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from flyball.errors import Invalid

_WRAPPERS = {"classifier": "XGBClassifier", "regressor": "XGBRegressor", "ranker": "XGBRanker"}
_KEPT = {**{name: kind for kind, name in _WRAPPERS.items()}, "XGBRFClassifier": "classifier"} | {
    "XGBRFRegressor": "regressor"
}
_NOTE = "scikit_learn"  # the attribute in which XGBoost's own save_model says which wrapper it was


def is_own(model: Any) -> bool:
    """Whether it is a booster or a wrapper of XGBoost itself; a class that somebody derived is not."""
    kind = type(model)
    return kind.__module__.startswith("xgboost.") and (kind.__name__ == "Booster" or kind.__name__ in _KEPT)


def write(model: Any, sample: Any = None) -> bytes:
    """The model's UBJSON; the model itself stays as it is."""
    xgboost = import_module("xgboost")
    if not is_own(model):
        raise Invalid(f"a {type(model).__name__} is not XGBoost's", 'format="auto" finds what keeps it')
    if isinstance(model, xgboost.Booster):
        return bytes(model.save_raw("ubj"))
    if not _is_nan(model.missing):
        raise Invalid(f"XGBoost does not keep missing={model.missing!r}", 'format="pickle" does')
    try:
        raw = model.get_booster().save_raw("ubj")
    except Exception as error:
        raise Invalid(f"a {type(model).__name__} that was not fitted: {error}", "fit it first") from error
    copy = xgboost.Booster(model_file=raw)
    copy.set_attr(**{_NOTE: json.dumps({"_estimator_type": _KEPT[type(model).__name__]})})
    return bytes(copy.save_raw("ubj"))


def read(data: bytes) -> Any:
    """The booster, or the wrapper that it was kept from. Bytes from elsewhere go through :mod:`.trial` first."""
    xgboost = import_module("xgboost")
    if not data.startswith(b"{") or len(data) < 3:
        raise Invalid("not an XGBoost model: it does not begin like one", "copy the whole file")
    try:
        booster = xgboost.Booster(model_file=bytearray(data))
    except xgboost.core.XGBoostError as error:
        what = str(error).strip().splitlines()
        raise Invalid(
            f"not an XGBoost model, or a torn one: {what[-1][:200] if what else ''}", "copy the whole file"
        ) from error
    kind = class_of(booster)
    if kind == "Booster":
        return booster
    model = getattr(xgboost, kind)()
    model.load_model(bytearray(data))
    return model


def class_of(booster: Any) -> str:
    """The class that a booster was kept from: ``Booster``, or the wrapper that its note names."""
    note = booster.attr(_NOTE)
    kind = json.loads(note).get("_estimator_type", "") if note else ""
    return _WRAPPERS.get(kind, "Booster")


def asker(model: Any) -> Callable[[Any], Any]:
    """How a booster is asked, by one thread: what it was trained to minimise decides what its answers mean."""
    xgboost = import_module("xgboost")
    model.set_param({"nthread": 1})  # processes are our parallelism
    if _is_linear(model):
        names = model.feature_names
        return lambda rows: model.predict(xgboost.DMatrix(rows, feature_names=names, nthread=1))
    return model.inplace_predict  # type: ignore[no-any-return]  # untyped


def wrapper_asker(model: Any) -> Callable[[Any], Any] | None:
    """How a fitted wrapper's booster is asked for the same numbers; ``None`` where the wrapper does more than ask."""
    booster = model.get_booster()
    if _is_linear(booster) or not _is_nan(model.missing):
        return None
    classifies = hasattr(model, "predict_proba")
    if classifies and model.objective != "binary:logistic":
        return None
    ask = asker(booster)
    try:
        best = model.best_iteration
    except AttributeError:  # it was not stopped early
        return ask
    return lambda rows: ask(rows, iteration_range=(0, best + 1))  # type: ignore[call-arg]  # inplace_predict takes it


def answers_probability(model: Any) -> bool:
    """Whether a booster's answers are probabilities, by the objective it was trained with."""
    objective = json.loads(model.save_config())["learner"]["objective"]["name"]
    return objective in ("binary:logistic", "reg:logistic")


def _is_linear(booster: Any) -> bool:
    return bool(json.loads(booster.save_config())["learner"]["gradient_booster"]["name"] == "gblinear")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
