"""The real MLflow writes folders, and they are served here; we write folders, and the real MLflow answers from them."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from benchmarks.peers import python_of
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from flyball.core.plan import ServedModel
from flyball.errors import Refused
from flyball.models import registry
from flyball.models.formats import is_trusted
from flyball.models.mlmodel import files_of, import_folder, prepare, read, trust
from flyball.serve import runtime
from flyball.service.model_files import write_folder
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from tests.integration.mlflow.conftest import HERE, Peer

pytestmark = pytest.mark.integration

RANDOM = np.random.default_rng(21)  # the same rows as the peer's
FRAME = pl.DataFrame({"a": RANDOM.normal(size=200), "b": RANDOM.normal(size=200)})
ROWS = FRAME.to_numpy()
LATE = (ROWS.sum(axis=1) > 0).astype(int)


def beside(function: str, **arguments: Any) -> Any:
    """A function of the peer's in our own Python, which has XGBoost and the others, with MLflow's venv behind it."""
    behind = python_of("mlflow").parents[1] / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    code = (
        f"import runpy, sys; sys.path.append({str(behind)!r}); sys.path.insert(0, {str(HERE.parents[2])!r}); "
        "runpy.run_module('tests.integration.mlflow.peer.folders', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, function, json.dumps(arguments)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


class Here:
    """A registry of our own."""

    def __init__(self) -> None:
        self.ledger, self.blobs = Ledger.open("sqlite://"), Blobs.open("memory:")

    def serve(self, folder: Path, *, vouched: bool = True) -> tuple[list[float], str]:
        """What a worker answers from a folder after it was imported, vouched for and deployed."""
        name = folder.name.replace(" ", "-")
        version = import_folder(self.ledger, self.blobs, name, folder, actor="person:ann")
        if vouched:
            version = trust(self.ledger, version.ref, because="a test", actor="person:ann")
        found = prepare(self.ledger, self.blobs, version, actor="person:ann")
        served = ServedModel(
            ref=version.ref,
            artifact=found.artifact,
            format=found.format,
            signature=found.signature,
            trusted=is_trusted(version.export),
        )
        return runtime.load(served, self.blobs).run(ROWS.astype(np.float32)), found.format


@pytest.fixture(scope="module")
def written(peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("theirs")
    return folder, peer("folders", "write_sklearn", into=str(folder))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("default", "mlmodel"),
        ("pickle", "onnx"),
        ("cloudpickle", "mlmodel"),
        ("skops", "onnx"),
        ("forest", "onnx"),
        ("arrays", "onnx"),
        ("named", "mlmodel"),
    ],
)
def test_what_mlflow_wrote_of_scikit_learn_is_served_here(written: Any, name: str, format: str) -> None:
    folder, wanted = written
    answered, served_as = Here().serve(folder / name)
    assert served_as == format
    np.testing.assert_allclose(answered, wanted[name], atol=2e-5)


def test_what_runs_no_code_is_served_without_anybodys_word_and_the_rest_is_refused(written: Any) -> None:
    folder, wanted = written
    answered, _ = Here().serve(folder / "default", vouched=False)
    np.testing.assert_allclose(answered, wanted["default"], atol=1e-6)
    for name in ("pickle", "cloudpickle", "forest"):
        with pytest.raises(Refused, match=r"flyball models trust|not known to be safe|runs whatever"):
            Here().serve(folder / name, vouched=False)


def test_code_that_mlflow_kept_beside_a_model_is_used_here(peer: Peer, tmp_path: Path) -> None:
    code = tmp_path / "somewhere"
    (code / "strangers").mkdir(parents=True)
    (code / "strangers" / "__init__.py").write_text("")
    (code / "strangers" / "amount.py").write_text("UNIT = 1.0\n")
    (code / "strangers" / "model.py").write_text(
        "from sklearn.base import BaseEstimator\nfrom strangers.amount import UNIT\n"
        "class Offset(BaseEstimator):\n"
        "    def __init__(self, by=0.0):\n        self.by = by\n"
        "    def predict(self, rows):\n        import numpy as np\n        return np.asarray(rows)[:, 0] + self.by * UNIT\n"
    )
    wanted = peer("folders", "write_with_code", into=str(tmp_path), code=str(code))["code"]
    assert "strangers" not in sys.modules
    answered, _ = Here().serve(tmp_path / "code")
    np.testing.assert_allclose(answered, wanted, atol=1e-6)
    assert "strangers" not in sys.modules


def test_what_mlflow_wrote_of_boosters_graphs_and_python_is_served_here(tmp_path: Path) -> None:
    here = Here()
    own = registry.register(
        here.ledger, here.blobs, "own", LogisticRegression().fit(FRAME, LATE), sample=FRAME, actor="a"
    )
    (tmp_path / "graph.onnx").write_bytes(here.blobs.get(own.artifact))
    wanted = beside("write_boosters", into=str(tmp_path))
    wanted["onnx"] = registry.load(here.ledger, here.blobs, "own").predict(FRAME).tolist()
    python = wanted.pop("pyfunc")
    for name, answers in wanted.items():
        answered, _ = here.serve(tmp_path / name)
        np.testing.assert_allclose(answered, answers, atol=1e-5, err_msg=name)
    for name in ("xgb wrapper", "xgb booster", "lgb booster", "onnx"):
        Here().serve(tmp_path / name, vouched=False)
    found = beside("load_here", folder=str(tmp_path / "pyfunc"))
    assert (found["format"], found["inputs"]) == ("mlmodel", ["a", "b"])
    np.testing.assert_allclose(found["answers"], python, atol=1e-12)


OWN = """
import numpy as np

class Shifted:
    def __init__(self, by):
        self.by = by

    def predict(self, rows):
        from ourproject.parts import moved
        return moved(np.asarray(rows)[:, 0], self.by)

def halved(rows):
    return rows / 2
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project of our own, whose modules nobody else has."""
    (tmp_path / "ourproject").mkdir()
    (tmp_path / "ourproject" / "models.py").write_text(OWN)
    (tmp_path / "ourproject" / "parts.py").write_text("def moved(values, by):\n    return values + by\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("ourproject.models")
    for name in [name for name in sys.modules if name.partition(".")[0] == "ourproject"]:
        del sys.modules[name]


def ours() -> dict[str, Any]:
    options: dict[str, Any] = {"n_estimators": 4, "n_jobs": 1}
    labels = np.where(LATE, "late", "on time")
    return {
        "logistic": LogisticRegression().fit(FRAME, LATE),
        "arrays": LogisticRegression().fit(ROWS, LATE),
        "trees": HistGradientBoostingClassifier(max_iter=5).fit(FRAME, LATE),
        "xgb": xgboost.XGBClassifier(**options).fit(FRAME, LATE),
        "xgb arrays": xgboost.XGBRegressor(**options).fit(ROWS, ROWS[:, 0]),
        "xgb booster": xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(FRAME, label=LATE), 3),
        "lgb": lightgbm.LGBMClassifier(verbose=-1, **options).fit(ROWS, labels),
        "lgb booster": lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(ROWS, LATE), 3),
        "mixed": make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(verbose=-1, **options)).fit(FRAME, LATE),
    }  # fmt: skip


def predicted(model: Any) -> list[Any]:
    given = FRAME if hasattr(model, "feature_names_in_") else ROWS
    if type(model).__module__.startswith("xgboost.core"):
        given = xgboost.DMatrix(FRAME)
    return list(np.asarray(model.predict(given)).tolist())


def write(here: Here, name: str, model: Any, into: Path) -> str:
    unnamed = name.endswith("arrays") or name in ("lgb", "lgb booster", "code")
    version = registry.register(
        here.ledger, here.blobs, name.replace(" ", "-"), model, sample=ROWS if unnamed else FRAME, actor="a"
    )
    files = files_of(version, here.blobs)
    write_folder(into / name, files)
    assert read(into / name) == read(files)
    return str(into / name)


def test_mlflow_answers_from_what_we_wrote_of_scikit_learn_and_python(
    peer: Peer, tmp_path: Path, project: Any
) -> None:
    here = Here()
    models = ours() | {
        "shifted": project.Shifted(2.0),
        "code": make_pipeline(FunctionTransformer(project.halved), LogisticRegression()).fit(ROWS, LATE),
    }
    for name in ("logistic", "arrays", "trees", "shifted", "code"):
        found = peer("folders", "answers", folder=write(here, name, models[name], tmp_path))
        wanted = predicted(models[name])
        np.testing.assert_allclose(found["pyfunc"], wanted, err_msg=name)
        if name != "shifted":
            np.testing.assert_allclose(found["native"]["sklearn"], wanted, err_msg=name)
        assert found["inputs"] == (None if name in ("arrays", "code") else ["a", "b"])
        assert found["example"]


def test_mlflow_answers_from_what_we_wrote_of_boosters(tmp_path: Path) -> None:
    here, models = Here(), ours()
    names = ("xgb", "xgb arrays", "xgb booster", "lgb", "lgb booster", "mixed")
    told = beside("all_answers", folders={name: write(here, name, models[name], tmp_path) for name in names})
    for name, found in told.items():
        wanted = predicted(models[name])
        if name == "lgb":
            assert found["pyfunc"] == wanted  # labels, as the wrapper says them
            wanted = models[name].predict_proba(ROWS)[:, 1]
        else:
            np.testing.assert_allclose(found["pyfunc"], wanted, rtol=1e-6, err_msg=name)
        assert found["native"]
        for native in found["native"].values():
            np.testing.assert_allclose(native, wanted, rtol=1e-6, err_msg=name)
