"""Registered in any format, loaded by the registry and by a worker: the same answers; bytes alone only where they run nothing."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression

from flyball.core.plan import ServedModel
from flyball.errors import Invalid, Refused
from flyball.models import registry
from flyball.models.formats import encode
from flyball.models.scoring import score
from flyball.serve import runtime
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

ROWS = np.random.default_rng(4).normal(size=(200, 2)).astype(np.float32)
FRAME = pl.DataFrame(ROWS, schema=["a", "b"])
LATE = (ROWS[:, 0] > 0).astype(int)


class Doubles:
    """A class of the project."""

    def __call__(self, rows: Any) -> Any:
        return 2 * np.asarray(rows)[:, 0]


MODELS: dict[str, Any] = {
    "onnx": lambda: LogisticRegression().fit(FRAME, LATE),
    "skops": lambda: LogisticRegression().fit(FRAME, LATE),
    "pickle": lambda: LogisticRegression().fit(FRAME, LATE),
    "xgboost": lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(FRAME, LATE),
    "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(ROWS, LATE),
    "python": Doubles,
}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger.open("sqlite://")
    yield opened
    opened.close()


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.open("memory:")


@pytest.mark.parametrize("format", MODELS)
def test_what_serves_answers_as_the_native_model(ledger: Ledger, blobs: Blobs, format: str) -> None:
    model = MODELS[format]()
    version = registry.register(ledger, blobs, "delays", model, sample=FRAME, format=format, actor="a")
    assert version.format == format
    wanted = score(model, FRAME)
    np.testing.assert_allclose(registry.load(ledger, blobs, "delays").predict(FRAME), wanted, atol=1e-12)
    served = ServedModel(
        ref=version.ref, artifact=version.artifact, format=format, signature=version.signature
    )
    np.testing.assert_allclose(runtime.load(served, blobs).run(ROWS), wanted, atol=1e-5)


def test_the_native_model_is_kept_in_its_own_format_beside_the_export(ledger: Ledger, blobs: Blobs) -> None:
    version = registry.register(ledger, blobs, "delays", MODELS["onnx"](), sample=FRAME, actor="a")
    assert (version.format, version.native_format) == ("onnx", "skops")
    assert version.native != version.artifact
    assert version.export["native"]["class"].endswith("LogisticRegression")
    assert version.export["largest_difference"] <= 1e-5


def test_a_booster_of_two_classes_serves_a_probability(ledger: Ledger, blobs: Blobs) -> None:
    booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(ROWS, label=LATE), 3)
    version = registry.register(ledger, blobs, "delays", booster, sample=ROWS, actor="a")
    assert (version.format, version.signature.outputs[0].name) == ("xgboost", "probability")


def test_ready_made_bytes_are_registered_where_reading_them_runs_nothing(
    ledger: Ledger, blobs: Blobs
) -> None:
    model = MODELS["xgboost"]()
    signature = registry.register(ledger, blobs, "own", model, sample=FRAME, actor="a").signature
    data = encode(model).data
    version = registry.register(ledger, blobs, "made", data, format="xgboost", signature=signature, actor="a")
    assert (version.format, version.native) == ("xgboost", None)
    np.testing.assert_array_equal(registry.load(ledger, blobs, "made").predict(FRAME), score(model, FRAME))
    for format in ("pickle", "python"):
        with pytest.raises(Refused, match="was not made here"):
            registry.register(
                ledger, blobs, "made", pickle.dumps(1), format=format, signature=signature, actor="a"
            )  # type: ignore[arg-type]  # parametrised
    with pytest.raises(Invalid, match=r"torn|not an XGBoost"):
        registry.register(ledger, blobs, "made", b"{torn", format="xgboost", signature=signature, actor="a")
    with pytest.raises(Invalid, match="don't say their format"):
        registry.register(ledger, blobs, "made", data, signature=signature, actor="a")
    assert registry.resolve(ledger, "made").number == 1
