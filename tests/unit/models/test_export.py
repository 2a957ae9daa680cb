"""The export answers as the model does, also where values tie with thresholds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from flyball.models.export import convert, export, floor32, largest_difference, run_onnx


@pytest.fixture(autouse=True)
def _one_thread():
    """Many threads on a busy machine wait for one another longer than they work."""
    with threadpool_limits(1):
        yield


GENERATOR = np.random.default_rng(3)
ROWS = 20_000


def decimals(rows: int = ROWS) -> np.ndarray:
    """Values such as 0.1, which float32 can't hold, often equal to one another; some missing."""
    x = np.round(GENERATOR.normal(size=(rows, 8)), 1)
    x[GENERATOR.random(x.shape) < 0.05] = np.nan
    return x


X = decimals()
SCORE = np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 1]) + GENERATOR.normal(size=ROWS)
Y = SCORE > 0


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_boosted_trees_on_20000_rows_answer_alike(kind):
    x = X.astype(kind)
    model = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(x, Y)
    made = export(model, x)
    assert made.onnx is not None, made.facts
    difference = largest_difference(model.predict_proba(x)[:, 1], run_onnx(made.onnx, x.astype(np.float32)))
    assert made.facts["largest_difference"] == difference <= 1e-5
    assert made.facts["rows"] == ROWS


def test_a_threshold_between_two_float32_values_is_rounded_down():
    """Rounded to the nearest, this threshold becomes the upper value itself, which then takes the wrong branch."""
    low = np.float32(0.1)
    high = np.nextafter(low, np.float32(1))
    x = np.where(np.arange(2000) % 2 == 0, low, high).astype(np.float32).reshape(-1, 1)
    model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(x, np.arange(2000) % 2 == 1)
    threshold = float(model._predictors[0][0].nodes[0]["num_threshold"])
    assert float(low) < threshold < float(high)
    wanted = model.predict_proba(x)[:, 1]
    plain = largest_difference(wanted, run_onnx(convert(model, 1).SerializeToString(), x))
    made = export(model, x)
    assert made.facts["thresholds"] == "down"
    assert made.facts["largest_difference"] <= 1e-5
    if np.float32(threshold) == high:  # ties go to even: with these two values, to the upper one
        assert plain > 0.1


def test_floor32_never_rounds_up():
    values = np.concatenate([GENERATOR.normal(size=1000), [0.1, 1e300, -1e300, 0.0, 1e-50, -1e-50]])
    for value in values:
        floored = floor32(float(value))
        assert floored <= value
        with np.errstate(over="ignore"):
            assert float(np.nextafter(np.float32(floored), np.float32(np.inf))) > value


def test_a_regressor_is_proved_relative_to_its_values():
    model = HistGradientBoostingRegressor(max_iter=20, random_state=0).fit(X, 1000 * SCORE)
    made = export(model, X)
    assert made.onnx is not None, made.facts
    assert made.facts["largest_difference"] <= 1e-5


@pytest.mark.parametrize(
    "model",
    [RandomForestClassifier(10, random_state=0), make_pipeline(StandardScaler(), LogisticRegression())],
)
def test_other_models_are_proved_too(model):
    x = np.nan_to_num(X[:2000])
    made = export(model.fit(x, Y[:2000]), pl.DataFrame(x, schema=[f"x{number}" for number in range(8)]))
    assert made.onnx is not None, made.facts


def test_an_export_that_differs_is_not_used():
    """skl2onnx writes categorical splits as numeric ones: no error, other answers. The proof finds it."""
    x = GENERATOR.integers(0, 20, size=(4000, 1)).astype(np.float64)
    late = (x[:, 0] % 3 == 0) ^ (GENERATOR.random(4000) < 0.1)
    model = HistGradientBoostingClassifier(max_iter=5, categorical_features=[0], random_state=0).fit(x, late)
    made = export(model, x)
    assert made.onnx is None
    assert "differs" in made.facts["reason"]
    assert made.facts["largest_difference"] > 0.05


def test_without_a_sample_nothing_is_proved():
    model = LogisticRegression().fit(np.nan_to_num(X[:100]), Y[:100])
    assert "no sample" in export(model, None).facts["reason"]
    assert "no sample" in export(model, X[:0]).facts["reason"]


def test_the_graph_has_one_input_and_one_output():
    model = LogisticRegression().fit(np.nan_to_num(X[:100]), Y[:100])
    graph = convert(model, 8).graph
    assert [one.name for one in graph.input] == ["input"]
    assert [one.name for one in graph.output] == ["probability"]
