"""Ask any native model for one number per row: the probability of class 1, or the predicted value."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flyball.errors import Invalid
from flyball.models.formats.asking import answers_probability, special_ask
from flyball.models.signature import PREDICTION, PROBABILITY, Sample, as_array


def output_of(model: Any) -> str:
    """``"probability"`` for a binary classifier, ``"prediction"`` for everything else."""
    if not hasattr(model, "predict_proba"):
        return PROBABILITY if answers_probability(model) else PREDICTION
    classes = getattr(model, "classes_", None)
    if classes is not None and len(classes) != 2:
        raise Invalid(
            f"{type(model).__name__} has {len(classes)} classes",
            "binary classifiers and regressors are served",
        )
    return PROBABILITY


def is_binary(model: Any) -> bool:
    """Whether a model can say the probability of one of two classes."""
    if not hasattr(model, "predict_proba"):
        return answers_probability(model)
    classes = getattr(model, "classes_", None)
    return classes is None or len(classes) == 2


def score(model: Any, rows: Sample, *, float32: bool = False) -> np.ndarray[Any, Any]:
    """One float64 per row, from ``predict_proba``, ``predict`` or a plain call, whichever the model has.

    A model that was fitted on named columns gets its frame, others an array. With ``float32`` the values are rounded
    first, as a server does.
    """
    given: Any
    if isinstance(rows, pl.DataFrame) and hasattr(model, "feature_names_in_"):
        given = rows.select(pl.all().cast(pl.Float32)) if float32 else rows
    else:
        given = as_array(rows, np.float32 if float32 else None)
        if (names := getattr(model, "feature_names_in_", None)) is not None:
            given = pl.DataFrame(given, schema=list(names))
    if (special := special_ask(model)) is not None:
        answer = np.asarray(special(as_array(given)), dtype=np.float64)
    elif hasattr(model, "predict_proba"):
        answer = np.asarray(model.predict_proba(given), dtype=np.float64)
        answer = answer[:, 1] if answer.ndim == 2 and answer.shape[1] == 2 else answer
    elif hasattr(model, "predict"):
        answer = np.asarray(model.predict(given), dtype=np.float64)
    elif callable(model):
        answer = np.asarray(model(given), dtype=np.float64)
    else:
        raise Invalid(
            f"a {type(model).__name__} can't predict",
            "a model has predict_proba or predict, or can be called",
        )
    if answer.size != len(rows):
        raise Invalid(
            f"{type(model).__name__} answered with shape {answer.shape} to {len(rows)} rows",
            "one number per row",
        )
    return answer.reshape(-1)


def takes_nulls(model: Any, sample: Sample) -> bool:
    """Whether a null may be sent: by scikit-learn's own tag, else whether the sample held one."""
    if hasattr(model, "__sklearn_tags__"):
        return bool(model.__sklearn_tags__().input_tags.allow_nan)
    return bool(np.isnan(as_array(sample, np.float64)).any())
