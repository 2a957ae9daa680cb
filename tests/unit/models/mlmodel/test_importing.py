"""Folders become versions without being loaded; loading them needs somebody's word, and gives the flavor's own answers."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from flyball.core.records import ModelVersion, Served
from flyball.errors import FlyballError, Invalid, NotFound, Refused, Unavailable
from flyball.heal.traffic import champion_only, changes, plan_of
from flyball.models import registry
from flyball.models.mlmodel.importing import import_folder, trust
from flyball.models.mlmodel.preparing import prepare
from flyball.serve import runtime
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from tests.unit.models.mlmodel.folders import Trap, mlmodel, sklearn_folder

ROWS = np.random.default_rng(11).normal(size=(300, 2))
FRAME = pl.DataFrame(ROWS, schema=["a", "b"])
LATE = (ROWS.sum(axis=1) > 0).astype(int)
GENERIC = {"loader_module": "mlflow.any", "python_version": "3.11.7"}


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    opened = Ledger.open("sqlite://")
    yield opened
    opened.close()


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.open("memory:")


@pytest.fixture
def classifier() -> Any:
    return LogisticRegression().fit(FRAME.to_pandas(), LATE)


Bring = Callable[..., ModelVersion]


@pytest.fixture
def bring(ledger: Ledger, blobs: Blobs) -> Bring:
    def imported(files: Any, **options: Any) -> ModelVersion:
        return import_folder(
            ledger, blobs, options.pop("name", "delays"), files, actor="person:ann", **options
        )

    return imported


def test_a_folder_is_registered_and_not_unpickled(ledger: Ledger, bring: Bring, tmp_path: Path) -> None:
    version = bring(
        sklearn_folder(Trap(tmp_path / "sprung")), aliases=["challenger"], note="from mlflow", run="run_1"
    )
    assert (version.ref, version.format, version.note) == ("delays@1", "mlmodel", "from mlflow")
    assert version.export["foreign"] == ["model.pkl"]
    assert set(version.export["files"]) >= {"MLmodel", "model.pkl", "requirements.txt"}
    assert registry.resolve(ledger, "delays@challenger") == version
    files = {edge.of for edge in ledger.made_from("model:delays@1") if edge.role == "file"}
    assert files == set(version.export["files"].values())  # so that explain --verify and gc know them
    assert not (tmp_path / "sprung").exists()


def test_nothing_is_unpickled_until_somebody_vouches_for_it(
    ledger: Ledger, blobs: Blobs, bring: Bring, tmp_path: Path
) -> None:
    version = bring(sklearn_folder(Trap(tmp_path / "sprung")))
    for load in (
        lambda: registry.load(ledger, blobs, version.ref),
        lambda: prepare(ledger, blobs, version, actor="person:ann"),
        lambda: runtime.load(served_of(ledger, blobs, version.ref), blobs),
    ):
        with pytest.raises(Refused, match=r"runs whatever it says") as caught:
            load()
        assert "flyball models trust delays@1" in caught.value.hint
    assert not (tmp_path / "sprung").exists()


def served_of(ledger: Ledger, blobs: Blobs, ref: str) -> Any:
    """What a worker is told of a version that an endpoint serves."""
    now = ledger.clock.now()
    route = champion_only("delays", ref, at=now, because="t")
    with ledger.transaction() as tx:
        tx.append("route.deployed", "delays", actor="a", sets=changes(tx, route, at=now))
    return plan_of(ledger, blobs=blobs.url, online="").endpoints["delays"].models[ref]


def test_who_vouched_and_why_stays_in_the_ledger(
    ledger: Ledger, blobs: Blobs, bring: Bring, classifier: Any
) -> None:
    version = bring(sklearn_folder(classifier))
    vouched = trust(ledger, version.ref, because="logged by our own run", actor="person:ann")
    assert vouched.export["trusted"] == "person:ann: logged by our own run"
    assert [event.kind for event in ledger.events() if event.subject == version.ref][-1] == "model.trusted"
    assert trust(ledger, version.ref, because="again", actor="person:bob") == vouched
    wanted = classifier.predict_proba(FRAME.to_pandas())[:, 1]
    np.testing.assert_allclose(registry.load(ledger, blobs, version.ref).predict(FRAME), wanted)


def test_with_an_example_a_deployed_folder_serves_as_proved_onnx(
    ledger: Ledger, blobs: Blobs, bring: Bring, classifier: Any
) -> None:
    version = bring(sklearn_folder(classifier), trust="person:ann")
    served = prepare(ledger, blobs, version, actor="person:ann")
    assert (served.format, served.facts["rows"], served.facts["example_rows"]) == ("onnx", 200, 3)
    assert served.facts["largest_difference"] <= 1e-5
    assert prepare(ledger, blobs, version, actor="person:bob") == served
    assert ledger.get("served", version.ref, Served) == served
    assert [event.kind for event in ledger.events()].count("model.prepared") == 1
    told = served_of(ledger, blobs, version.ref)
    assert (told.format, told.artifact, told.signature) == ("onnx", served.artifact, served.signature)
    answered = runtime.load(told, blobs).run(ROWS.astype(np.float32))
    np.testing.assert_allclose(answered, classifier.predict_proba(FRAME.to_pandas())[:, 1], atol=1e-5)


def test_without_an_example_it_serves_natively_and_the_model_says_what_it_takes(
    ledger: Ledger, blobs: Blobs, bring: Bring, classifier: Any
) -> None:
    version = bring(sklearn_folder(classifier, example=False, inputs=None), trust="person:ann")
    assert version.signature.inputs == ()
    served = prepare(ledger, blobs, version, actor="a")
    assert (served.format, [field.name for field in served.signature.inputs]) == ("mlmodel", ["a", "b"])
    assert served.signature.outputs[0].name == "probability"
    loaded = runtime.load(served_of(ledger, blobs, version.ref), blobs)
    np.testing.assert_allclose(
        loaded.run(ROWS.astype(np.float32)), classifier.predict_proba(FRAME.to_pandas())[:, 1], atol=1e-6
    )


def test_columns_that_are_taken_by_name_are_given_by_name(ledger: Ledger, blobs: Blobs, bring: Bring) -> None:
    scaled = ColumnTransformer([("one", StandardScaler(), ["b"])], remainder="passthrough")
    model = make_pipeline(scaled, LinearRegression()).fit(FRAME.to_pandas(), ROWS @ [1.0, 100.0])
    version = bring(sklearn_folder(model, example=False), trust="person:ann")
    prepare(ledger, blobs, version, actor="a")
    answered = runtime.load(served_of(ledger, blobs, version.ref), blobs).run(ROWS.astype(np.float32))
    np.testing.assert_allclose(answered, ROWS @ [1.0, 100.0], rtol=1e-5, atol=1e-4)


def test_three_classes_serve_their_labels(ledger: Ledger, blobs: Blobs, bring: Bring) -> None:
    model = LogisticRegression().fit(ROWS, np.arange(300) % 3)
    version = bring(sklearn_folder(model, example=False), trust="person:ann")
    served = prepare(ledger, blobs, version, actor="a")
    assert served.signature.outputs[0].name == "prediction"
    answered = runtime.load(served_of(ledger, blobs, version.ref), blobs).run(ROWS.astype(np.float32))
    assert answered == model.predict(ROWS.astype(np.float32)).tolist()


def folder_of(flavor: str, settings: dict[str, Any], name: str, data: bytes) -> dict[str, bytes]:
    return {"MLmodel": mlmodel({flavor: settings, "python_function": GENERIC}), name: data}


def booster_folders() -> dict[str, tuple[dict[str, bytes], Any]]:
    own = {"data": "m", "model_class": "xgboost.sklearn.XGBClassifier"}
    xgb = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(ROWS, LATE)
    raw = bytes(xgb.get_booster().save_raw("ubj"))
    lgb = lightgbm.train({"objective": "binary", "verbose": -1}, lightgbm.Dataset(ROWS, label=LATE), 3)
    wrapper = lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(ROWS, LATE)
    pickled = {
        "data": "m",
        "model_class": "lightgbm.sklearn.LGBMClassifier",
        "serialization_format": "cloudpickle",
    }
    wanted = xgb.predict_proba(ROWS.astype(np.float32))[:, 1]
    return {
        "xgboost wrapper": (folder_of("xgboost", own, "m", raw), wanted),
        "xgboost booster": (folder_of("xgboost", {"data": "m"}, "m", raw), wanted),
        "lightgbm booster": (folder_of("lightgbm", {"data": "m"}, "m", lgb.model_to_string().encode()), lgb.predict(ROWS)),
        "lightgbm wrapper": (folder_of("lightgbm", pickled, "m", pickle.dumps(wrapper)), wrapper.predict_proba(ROWS)[:, 1]),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["xgboost wrapper", "xgboost booster", "lightgbm booster", "lightgbm wrapper"]
)
def test_boosters_answer_as_their_library_does(ledger: Ledger, blobs: Blobs, bring: Bring, name: str) -> None:
    files, wanted = booster_folders()[name]
    version = bring(files, trust="person:ann" if name == "lightgbm wrapper" else "")
    served = prepare(ledger, blobs, version, actor="a")
    assert served.signature.outputs[0].name == "probability"
    answered = runtime.load(served_of(ledger, blobs, version.ref), blobs).run(ROWS.astype(np.float32))
    np.testing.assert_allclose(answered, wanted, atol=2e-3 if "lightgbm" in name else 1e-6)
    np.testing.assert_allclose(registry.load(ledger, blobs, version.ref).predict(FRAME), wanted, atol=2e-3)


def test_an_onnx_folder_answers_as_the_graph_does(
    ledger: Ledger, blobs: Blobs, bring: Bring, classifier: Any
) -> None:
    made = registry.register(ledger, blobs, "own", classifier, sample=FRAME, actor="a")
    version = bring(folder_of("onnx", {"data": "m.onnx"}, "m.onnx", blobs.get(made.artifact)))
    served = prepare(ledger, blobs, version, actor="a")
    assert served.format == "mlmodel"
    found = registry.load(ledger, blobs, version.ref).predict(FRAME)
    np.testing.assert_allclose(found, classifier.predict_proba(FRAME.to_pandas())[:, 1], atol=1e-5)


def test_code_that_came_with_a_model_is_found_there_and_nowhere_else(
    ledger: Ledger, blobs: Blobs, bring: Bring
) -> None:
    code = "import sklearn\nclass Twice:\n    def predict(self, rows):\n        return 2 * rows[:, 0]\n"
    pickled = b"\x80\x04\x8c\x0estranger.twice\x8c\x05Twice\x93)\x81."
    settings = {"pickled_model": "model.pkl", "serialization_format": "pickle", "code": "code"}
    files = {
        "MLmodel": mlmodel({"sklearn": settings}),
        "model.pkl": pickled,
        "code/stranger/twice.py": code.encode(),
    }
    version = bring(files, trust="person:ann")
    found = registry.load(ledger, blobs, version.ref).predict(ROWS)
    np.testing.assert_array_equal(found, 2 * ROWS[:, 0])


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        (sklearn_folder(b""), Invalid, "does not load: EOFError"),
        (sklearn_folder(pickle.dumps(LogisticRegression())[:-40]), Invalid, "does not load"),
        (sklearn_folder(b"cabsent_library\nModel\n."), Unavailable, "absent_library"),
        (folder_of("sklearn", {"pickled_model": "m", "serialization_format": "skops"}, "m", b"PK\3\4"), Invalid, "torn"),
        (folder_of("sklearn", {"pickled_model": "m", "serialization_format": "joblib"}, "m", b"."), Invalid, "joblib"),
        (folder_of("xgboost", {"data": "m"}, "m", b"{"), Invalid, "XGBoost"),
        (folder_of("lightgbm", {"data": "m"}, "m", b"tree\n"), Invalid, "LightGBM"),
        (folder_of("xgboost", {"data": "m", "model_class": "subprocess.Popen"}, "m", b"{}"), Refused, "subprocess"),
        (folder_of("onnx", {"data": "m"}, "m", b"graph"), Invalid, "does not load"),
        ({"MLmodel": mlmodel({"python_function": GENERIC})}, Unavailable, "MLflow itself"),
    ],
)  # fmt: skip
def test_what_can_not_be_loaded_says_why(
    ledger: Ledger, blobs: Blobs, bring: Bring, files: dict[str, bytes], kind: type[FlyballError], said: str
) -> None:
    version = bring(files, trust="person:ann")
    with pytest.raises(kind, match=said):
        prepare(ledger, blobs, version, actor="a")
    assert ledger.find("served", version.ref, Served) is None


def test_a_skops_file_may_not_bring_types_of_its_own(
    ledger: Ledger, blobs: Blobs, bring: Bring, tmp_path: Path
) -> None:
    import skops.io

    settings = {
        "pickled_model": "m",
        "serialization_format": "skops",
        "skops_trusted_types": ["pathlib.Path.touch"],
    }
    evil = bring(folder_of("sklearn", settings, "m", skops.io.dumps(Trap(tmp_path / "sprung"))))
    with pytest.raises(Refused, match="not known to be safe"):
        registry.load(ledger, blobs, evil.ref)
    forest = RandomForestClassifier(2).fit(ROWS, LATE)
    settings["skops_trusted_types"] = ["sklearn.tree._tree.Tree"]
    version = bring(folder_of("sklearn", settings, "m", skops.io.dumps(forest)))
    with pytest.raises(Refused, match=r"sklearn\.tree\._tree\.Tree"):  # its arrays may lead out of bounds
        registry.load(ledger, blobs, version.ref)
    assert not (tmp_path / "sprung").exists()


def test_inputs_that_are_no_numbers_are_registered_but_not_served(
    ledger: Ledger, blobs: Blobs, bring: Bring, classifier: Any
) -> None:
    text = [{"type": "string", "name": "a"}, {"type": "double", "name": "b"}]
    picture = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 28, 28]}}]
    for inputs, said in ((text, "takes text"), (picture, "tensor of -1x28x28")):
        version = bring(sklearn_folder(classifier, inputs=inputs, example=False), trust="person:ann")
        with pytest.raises(Invalid, match=said):
            prepare(ledger, blobs, version, actor="a")


def test_a_model_that_nobody_describes_is_refused_with_what_to_do(
    ledger: Ledger, blobs: Blobs, bring: Bring
) -> None:
    version = bring(sklearn_folder(len, inputs=None, example=False), trust="person:ann")
    with pytest.raises(Invalid, match="what the model's inputs are") as caught:
        prepare(ledger, blobs, version, actor="a")
    assert "infer_signature" in caught.value.hint


def test_a_digest_that_the_store_does_not_have_is_named(bring: Bring) -> None:
    files: dict[str, Any] = sklearn_folder(1)
    with pytest.raises(NotFound, match=r"model\.pkl"):
        bring({**files, "model.pkl": "b3:" + "0" * 64})


class Ends:
    """Unpickling it ends the process."""

    def __reduce__(self) -> Any:
        return (os.abort, ())


def test_strangers_code_runs_in_a_process_of_its_own_and_may_end_only_that(
    ledger: Ledger, tmp_path: Path, classifier: Any
) -> None:
    kept = Blobs.open(f"file:{tmp_path}/blobs")

    def prepared(model: Any, **options: Any) -> Served:
        version = import_folder(ledger, kept, "delays", sklearn_folder(model), actor="a", **options)
        return prepare(ledger, kept, version, actor="a")

    with pytest.raises(Invalid, match=r"ended the process \(SIGABRT\)"):
        prepared(Ends(), trust="person:ann")
    with pytest.raises(Refused, match="runs whatever it says") as caught:
        prepared(Ends())
    assert "flyball models trust delays@2" in caught.value.hint
    with pytest.raises(Unavailable, match="absent_library"):
        prepared(b"cabsent_library\nModel\n.", trust="person:ann")
    served = prepared(classifier, trust="person:ann")
    assert (served.format, served.artifact in kept) == ("onnx", True)
