"""Models in memory: digests first, signature order, and every impossible answer caught."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.core.plan import ServedModel
from flyball.core.records import Field, Signature
from flyball.errors import Invalid, NotFound, Refused
from flyball.serve.runtime import LoadedModel, load
from flyball.stores.blobs import Blobs

PROBABILITY = Signature((Field("a", "FP32"), Field("b", "FP32")), (Field("probability", "FP32"),))
VALUE = Signature((Field("a", "FP32"), Field("b", "FP32")), (Field("minutes", "FP32"),))
ROWS = np.array([[1.0, 2.0], [3.0, np.nan]], dtype=np.float32)


def served(blobs: Blobs, data: bytes, format: str = "pickle", signature: Signature = VALUE) -> ServedModel:
    return ServedModel(ref="m@1", artifact=blobs.put(data), format=format, signature=signature)


def answering(answer: Any, signature: Signature = PROBABILITY) -> LoadedModel:
    blobs = Blobs.open("memory:")
    return LoadedModel(served(blobs, b"", signature=signature), lambda rows: np.asarray(answer))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([0.5, np.nan], "NaN"),
        ([np.inf, 0.5], "infinity"),
        ([0.5], "shape"),
        ([[0.5, 0.5], [0.5, 0.5]], "shape"),
        (0.5, "shape"),
        ([0.5, 1.1], "no probability"),
        ([-0.1, 0.5], "no probability"),
        (["a", "b"], "could not convert"),
    ],
)
def test_an_impossible_answer_is_an_error(answer: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        answering(answer).run(ROWS)


def test_rounding_outside_a_probability_is_cut() -> None:
    assert answering([1.0000001, -1e-9]).run(ROWS) == [1.0, 0.0]
    assert answering([-5.0, 70.0], VALUE).run(ROWS) == [-5.0, 70.0]


def test_a_pickled_callable_gets_float32_rows_in_order() -> None:
    blobs = Blobs.open("memory:")
    model = load(served(blobs, pickle.dumps(partial(np.nansum, axis=1))), blobs)
    assert model.run(ROWS) == [3.0, 3.0]


def test_bytes_are_checked_before_they_are_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    blobs = Blobs.open(f"file:{tmp_path}/blobs")
    good = served(blobs, pickle.dumps(partial(np.nansum, axis=1)))
    place = tmp_path / "blobs" / good.artifact[3:5] / good.artifact[5:]
    place.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(Refused, match="have changed"):
        load(good, blobs)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("data", "format", "said"),
    [
        (b"not a pickle", "pickle", "does not load"),
        (pickle.dumps(7), "pickle", "which can't answer"),
        (b"not a graph", "onnx", "does not load"),
        (b"", "cobol", "has format 'cobol'"),
    ],
)
def test_what_can_not_be_loaded_says_so(data: bytes, format: str, said: str) -> None:
    blobs = Blobs.open("memory:")
    with pytest.raises(Invalid, match=said):
        load(served(blobs, data, format), blobs)


def test_text_inputs_and_absent_bytes_are_refused() -> None:
    blobs = Blobs.open("memory:")
    text = Signature((Field("tail", "BYTES"),), VALUE.outputs)
    with pytest.raises(Invalid, match="takes text"):
        load(served(blobs, pickle.dumps(len), signature=text), blobs)
    absent = ServedModel(ref="m@1", artifact="b3:" + "0" * 64, format="onnx", signature=VALUE)
    with pytest.raises(NotFound):
        load(absent, blobs)


@pytest.mark.differential
@pytest.mark.parametrize("zipmap", [True, False])
def test_an_exported_classifier_answers_as_scikit_learn_does(zipmap: bool) -> None:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(3)
    rows = random.normal(size=(200, 2)).astype(np.float32)
    native = LogisticRegression().fit(rows, rows[:, 0] + rows[:, 1] ** 2 > 0.5)
    graph = convert_sklearn(
        native,
        initial_types=[("input", FloatTensorType([None, 2]))],
        options={id(native): {"zipmap": zipmap}},
    )
    blobs = Blobs.open("memory:")
    model = load(served(blobs, graph.SerializeToString(), "onnx", PROBABILITY), blobs)
    if zipmap:  # a sequence of dictionaries is no array: said, not guessed
        with pytest.raises((ValueError, TypeError)):
            model.run(rows)
    else:
        assert model.run(rows) == pytest.approx(native.predict_proba(rows)[:, 1].tolist(), abs=1e-5)
    pickled = load(served(blobs, pickle.dumps(native), "pickle", PROBABILITY), blobs)
    assert pickled.run(rows) == pytest.approx(native.predict_proba(rows)[:, 1].tolist(), abs=1e-6)


def test_a_native_model_answers_with_one_thread(tmp_path: Path) -> None:
    import threadpoolctl
    from sklearn.linear_model import LogisticRegression

    before = threadpoolctl.threadpool_info()
    native = LogisticRegression().fit(np.nan_to_num(ROWS), [0, 1])
    blobs = Blobs.open("memory:")
    try:
        load(served(blobs, pickle.dumps(native), "pickle", PROBABILITY), blobs)
        assert {one["num_threads"] for one in threadpoolctl.threadpool_info()} == {1}
    finally:
        for one in before:
            threadpoolctl.threadpool_limits(one["num_threads"], user_api=one["user_api"])
