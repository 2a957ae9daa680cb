"""Versions written as MLmodel folders: the same bytes each time, read back here with the same answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
import yaml
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flyball.core.clock import ManualClock
from flyball.core.records import Environment
from flyball.errors import Invalid, Refused
from flyball.models import registry
from flyball.models.mlmodel import files_of, import_folder, read
from flyball.models.mlmodel.writing import native_file, onnx_file
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

ROWS = np.random.default_rng(2).normal(size=(200, 2))
FRAME = pl.DataFrame(ROWS, schema=["a", "b"])
LATE = (ROWS[:, 0] > 0).astype(int)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger.open("sqlite://", ManualClock(datetime(2013, 4, 1, tzinfo=UTC)))
    yield opened
    opened.close()


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.open("memory:")


def _halved(rows: Any) -> Any:
    return rows / 2


class Doubles:
    """A class of the project."""

    def predict(self, rows: Any) -> Any:
        return 2 * np.asarray(rows)[:, 0]


MODELS: dict[str, tuple[Any, str, str]] = {  # model, format asked for, flavor that is written
    "skops": (lambda: LogisticRegression().fit(FRAME, LATE), "auto", "sklearn"),
    "trees": (lambda: HistGradientBoostingClassifier(max_iter=4).fit(FRAME, LATE), "auto", "sklearn"),
    "forest": (lambda: RandomForestRegressor(3).fit(ROWS, ROWS[:, 0]), "skops", "sklearn"),
    "pickle": (lambda: LogisticRegression().fit(FRAME, LATE), "pickle", "sklearn"),
    "with code": (
        lambda: make_pipeline(FunctionTransformer(_halved), StandardScaler(), LogisticRegression()).fit(ROWS, LATE),
        "auto",
        "sklearn",
    ),
    "own class": (Doubles, "auto", "python_function"),
    "callable": (lambda: partial(np.nansum, axis=1), "auto", "python_function"),
    "xgboost": (lambda: xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(FRAME, LATE), "auto", "xgboost"),
    "lightgbm": (lambda: lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(ROWS, LATE), "auto", "lightgbm"),
    "booster": (
        lambda: lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(ROWS, LATE), 2),
        "auto",
        "lightgbm",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_version_is_written_the_same_each_time_and_reads_back_here(
    ledger: Ledger, blobs: Blobs, name: str
) -> None:
    make, asked, flavor = MODELS[name]
    version = registry.register(ledger, blobs, "delays", make(), sample=FRAME, format=asked, actor="a")
    files = files_of(version, blobs)
    assert files == files_of(version, blobs)
    assert {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"} < set(files)
    found = read(files)
    assert (found.flavor, found.created) == (flavor, version.created)
    assert [field.name for field in found.signature.inputs] == ["a", "b"] if found.signature else False
    if flavor == "python_function":
        return  # MLflow itself loads these: tests/integration/mlflow
    copy = import_folder(ledger, blobs, "copy", files, actor="a", trust="written here")
    wanted = registry.load(ledger, blobs, "delays").predict(FRAME.cast(pl.Float32))
    np.testing.assert_allclose(
        registry.load(ledger, blobs, copy.ref).predict(FRAME.cast(pl.Float32)), wanted, atol=1e-6
    )


def test_a_written_folder_says_what_it_is(ledger: Ledger, blobs: Blobs) -> None:
    model = LogisticRegression().fit(FRAME, LATE)
    version = registry.register(ledger, blobs, "delays", model, sample=FRAME, run="run_1", actor="a")
    files = files_of(version, blobs)
    content = yaml.safe_load(files["MLmodel"])
    assert content["flavors"]["sklearn"]["serialization_format"] == "skops"
    assert content["flavors"]["sklearn"]["sklearn_version"]
    assert content["flavors"]["python_function"]["loader_module"] == "mlflow.sklearn"
    assert content["signature"]["inputs"].startswith('[{"type":"double","name":"a","required":true}')
    assert content["utc_time_created"] == "2013-04-01 00:00:00.000000"
    assert (content["run_id"], len(content["model_uuid"])) == ("run_1", 32)
    assert content["metadata"]["flyball"]["version"] == "delays@1"
    names = [line.partition("==")[0] for line in files["requirements.txt"].decode().split()]
    assert names == ["mlflow", "numpy", "pandas", "scikit-learn", "scipy", "skops"]
    assert (
        yaml.safe_load(files["conda.yaml"])["dependencies"][2]["pip"]
        == files["requirements.txt"].decode().split()
    )


def test_the_runs_environment_pins_what_the_flavor_needs_and_nothing_else(
    ledger: Ledger, blobs: Blobs
) -> None:
    version = registry.register(
        ledger, blobs, "delays", LogisticRegression().fit(FRAME, LATE), sample=FRAME, actor="a"
    )
    packages = {
        "scikit-learn": "1.0.0",
        "skops": "0.1",
        "numpy": "2.0",
        "scipy": "1.0",
        "pandas": "3",
        "fastapi": "9",
    }
    environment = Environment(digest="b3:", python="3.12.1", platform="linux", packages=packages)
    lines = files_of(version, blobs, environment)["requirements.txt"].decode().split()
    assert lines == ["mlflow", "numpy==2.0", "pandas", "scikit-learn==1.0.0", "scipy==1.0", "skops==0.1"]


def test_a_flipped_byte_in_a_written_folder_is_found_when_it_is_read(ledger: Ledger, blobs: Blobs) -> None:
    version = registry.register(
        ledger, blobs, "delays", LogisticRegression().fit(FRAME, LATE), sample=FRAME, actor="a"
    )
    files = files_of(version, blobs)
    for path in files:
        if path == "MLmodel":
            continue
        changed = {**files, path: files[path][:-1] + bytes([files[path][-1] ^ 1])}
        with pytest.raises(Refused, match=path):
            read(changed)


def test_a_folder_that_came_from_mlflow_is_given_back_as_it_came(ledger: Ledger, blobs: Blobs) -> None:
    version = registry.register(
        ledger, blobs, "delays", LogisticRegression().fit(FRAME, LATE), sample=FRAME, actor="a"
    )
    files = files_of(version, blobs)
    copy = import_folder(ledger, blobs, "copy", files, actor="a")
    assert files_of(copy, blobs) == files
    with pytest.raises(Invalid, match="folder of MLflow's"):
        native_file(copy, blobs)


def test_a_version_from_before_formats_were_noted_is_written_as_a_pickle(
    ledger: Ledger, blobs: Blobs
) -> None:
    import msgspec

    version = registry.register(
        ledger,
        blobs,
        "delays",
        LogisticRegression().fit(FRAME, LATE),
        sample=FRAME,
        format="pickle",
        actor="a",
    )
    facts = {"rows": 200, "largest_difference": 0.0}
    old = msgspec.structs.replace(version, export=facts, native_format="pickle")
    content = yaml.safe_load(files_of(old, blobs)["MLmodel"])
    assert content["flavors"]["sklearn"]["serialization_format"] == "pickle"
    assert "scikit-learn" in files_of(old, blobs)["requirements.txt"].decode().split()


def test_single_files_are_what_their_library_reads(ledger: Ledger, blobs: Blobs) -> None:
    version = registry.register(
        ledger, blobs, "delays", LogisticRegression().fit(FRAME, LATE), sample=FRAME, actor="a"
    )
    assert list(native_file(version, blobs)) == ["model.skops"]
    assert onnx_file(version, blobs) == {"model.onnx": blobs.get(version.artifact)}
    booster = xgboost.XGBClassifier(n_estimators=2, n_jobs=1).fit(ROWS, LATE)
    version = registry.register(ledger, blobs, "boost", booster, sample=FRAME, actor="a")
    loaded = xgboost.XGBClassifier()
    loaded.load_model(bytearray(native_file(version, blobs)["model.ubj"]))
    np.testing.assert_array_equal(loaded.predict_proba(ROWS), booster.predict_proba(ROWS))
    with pytest.raises(Invalid, match="has no ONNX export"):
        onnx_file(version, blobs)
