"""How a model in memory is asked for one number a row, whatever family it is of."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.errors import Invalid, Unavailable

Ask = Callable[[Any], Any]  # rows (n, k) -> numbers (n,) or (n, 1), or (n, 2) of which the second counts


def ask_of(model: Any, names: Sequence[str]) -> Ask:
    """The function that answers an array of rows: the probabilities of a classifier, the values of what only predicts.

    ``names`` are the columns, for models that look their columns up by name.
    """
    if (special := special_ask(model)) is not None:
        if hasattr(model, "training"):
            import_module("flyball.models.formats.torch").settle(model)
        return special
    if (quick := _past_wrapper(model)) is not None:
        return quick
    if hasattr(model, "predict_proba"):
        answer = model.predict_proba
    elif hasattr(model, "predict"):
        answer = model.predict
    elif callable(model):
        return model  # type: ignore[no-any-return]  # any callable may be a model
    else:
        raise Invalid(
            f"the model is a {type(model).__name__}, which can't answer",
            "a model is callable, or has predict_proba or predict",
        )
    if hasattr(model, "feature_names_in_"):
        # it was fitted on a frame; the order of the columns is the signature's
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
    if picks_by_name(model):
        frame = _framer(names)
        return lambda rows: answer(frame(rows))
    return answer  # type: ignore[no-any-return]


def _past_wrapper(model: Any) -> Ask | None:
    """How the booster inside a wrapper is asked for what the wrapper would answer; ``None`` where only the wrapper can."""
    kind = type(model)
    family = kind.__module__.partition(".")[0]
    if family not in ("xgboost", "lightgbm"):
        return None
    keeper = import_module(f"flyball.models.formats.{family}")
    return keeper.wrapper_asker(model) if keeper.is_own(model) else None


def special_ask(model: Any) -> Ask | None:
    """How boosters, modules of PyTorch and graphs are asked, which have an interface of their own; ``None`` for others."""
    kind = type(model)
    family = kind.__module__.partition(".")[0]
    if family in ("xgboost", "lightgbm") and kind.__name__ == "Booster":
        return import_module(f"flyball.models.formats.{family}").asker(model)  # type: ignore[no-any-return]  # by name
    if "torch" in sys.modules and isinstance(model, sys.modules["torch"].nn.Module):
        ask = import_module("flyball.models.formats.torch").ask
        return lambda rows: ask(model, rows)
    if family == "onnxruntime":
        only = model.get_inputs()[0].name
        return lambda rows: model.run(None, {only: np.ascontiguousarray(rows, dtype=np.float32)})[0]
    return None


def answers_probability(model: Any) -> bool:
    """Whether a booster was trained to say the probability of one of two classes."""
    kind = type(model)
    family = kind.__module__.partition(".")[0]
    if family in ("xgboost", "lightgbm") and kind.__name__ == "Booster":
        return bool(import_module(f"flyball.models.formats.{family}").answers_probability(model))
    return False


def column(raw: Any) -> NDArray[Any]:
    """One number per row: the second of two classes, or the only column. Other shapes stay, to be refused."""
    answer = np.asarray(raw)
    if answer.ndim == 2 and answer.shape[1] == 2:
        return answer[:, 1]
    if answer.ndim == 2 and answer.shape[1] == 1:
        return answer[:, 0]
    return answer


def picks_by_name(model: Any) -> bool:
    """Whether some step takes its columns by name, so that an array would not do."""
    if not hasattr(model, "feature_names_in_"):
        return False
    waiting, seen = [model], 0
    while waiting and seen < 1000:
        seen += 1
        one = waiting.pop()
        if type(one).__name__ == "ColumnTransformer":
            chosen = [columns for _, _, columns in getattr(one, "transformers", ())]
            if any(
                isinstance(name, str)
                for some in chosen
                for name in ([some] if isinstance(some, str) else _listed(some))
            ):
                return True
        waiting += [step for _, step, *_ in getattr(one, "steps", ()) or ()]
        waiting += [step for _, step, *_ in getattr(one, "transformer_list", ()) or ()]
        waiting += [getattr(one, name) for name in ("estimator", "base_estimator") if hasattr(one, name)]
    return False


def _listed(some: Any) -> list[Any]:
    try:
        return list(some)
    except TypeError:
        return []


def _framer(names: Sequence[str]) -> Ask:
    """Rows as a frame of the library that is there: a worker has pandas or polars only where a model needs one."""
    columns = list(names)
    for library in ("pandas", "polars"):
        try:
            module = import_module(library)
        except ImportError:
            continue
        if library == "pandas":
            return lambda rows: module.DataFrame(rows, columns=columns)
        return lambda rows: module.DataFrame(np.asarray(rows), schema=columns)
    raise Unavailable("the model takes its columns by name, from a frame", "pip install pandas")
