"""Fits are noted by public methods and callbacks only, and every method is what it was afterwards."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flyball.errors import Invalid
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.stores.runs import RunStore
from flyball.track.boosting import lightgbm_callback, xgboost_callback
from flyball.track.estimators import Autolog, fit
from flyball.track.runs import open_run, start

sklearn = pytest.importorskip("sklearn")
X = np.random.default_rng(0).random((120, 3))
Y = (X[:, 0] + X[:, 1] > 1).astype(int)


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def blobs() -> Blobs:
    return Blobs.open("memory:")


@pytest.fixture
def facts(ledger):
    return lambda run: RunStore(ledger).facts([run.id])[run.id]


def test_a_fit_is_noted_and_what_is_inside_it_is_not(ledger, blobs, facts):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    before = LogisticRegression.fit
    with Autolog(), start(ledger, "p", actor="a", blobs=blobs) as run:
        made = make_pipeline(StandardScaler(), LogisticRegression(C=3)).fit(X, Y)
    found = facts(run)
    assert found.params["logisticregression__C"] == "3"
    assert "C" not in found.params
    assert found.tags["estimator_name"] == "Pipeline"
    assert found.metrics["training_score"].value == made.score(X, Y)
    assert found.metrics["training_rows"].value == 120
    assert LogisticRegression.fit is before
    assert "__init_subclass__" not in sklearn.base.BaseEstimator.__dict__


def test_a_search_notes_its_best_and_all_its_candidates(ledger, blobs, facts):
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV

    with Autolog(score=False), start(ledger, "p", actor="a", blobs=blobs) as run:
        search = GridSearchCV(Ridge(), {"alpha": [0.1, 10.0]}, cv=3).fit(X, Y)
    found = facts(run)
    assert found.params["best_alpha"] == str(search.best_params_["alpha"])
    assert found.metrics["best_cv_score"].value == search.best_score_
    assert "training_score" not in found.metrics
    assert [one.path for one in ArtifactStore(ledger, blobs).ls(run.id)] == ["cv_results.parquet"]


def test_classes_defined_later_are_noted_too_and_without_a_run_nothing_happens(ledger, facts):
    from sklearn.base import BaseEstimator

    with Autolog():

        class Late(BaseEstimator):
            def __init__(self, a=1):
                self.a = a

            def fit(self, X, y=None):
                return self

        Late().fit(X)
        with start(ledger, "p", actor="a") as run:
            Late(a=5).fit(X)
    assert facts(run).params == {"a": "5"}
    assert not hasattr(Late.fit, "__flyball_fit__")


def test_outside_a_run_each_fit_opens_one_when_it_can(ledger):
    from sklearn.linear_model import Ridge

    with Autolog(lambda name: start(ledger, name, actor="a")):
        Ridge().fit(X, Y)
        with pytest.raises(ValueError, match="inconsistent"):
            Ridge().fit(X, Y[:5])
    heads = RunStore(ledger).heads(ledger.keys("run"))
    assert sorted((one.pipeline, one.status) for one in heads.values()) == [
        ("Ridge", "done"),
        ("Ridge", "failed"),
    ]


def test_what_can_not_be_noted_is_a_warning_and_the_fit_goes_on(ledger, facts):
    class Odd(sklearn.base.BaseEstimator):
        def get_params(self, deep=True):
            raise RuntimeError("no params today")

        def fit(self, X, y):
            self.rows_ = len(X)
            return self

    odd = Odd()
    with (
        Autolog(),
        start(ledger, "p", actor="a") as run,
        pytest.warns(RuntimeWarning, match="no params today"),
    ):
        odd.fit(X, Y)
    assert odd.rows_ == 120
    assert facts(run).metrics["fit_seconds"].points == 1


def test_one_call_is_noted_without_wrapping_anything(ledger, facts):
    from sklearn.linear_model import Ridge

    assert fit(Ridge(), X, Y).coef_.shape == (3,)
    with start(ledger, "p", actor="a") as run:
        fit(Ridge(alpha=2.0), X, Y, sample_weight=np.ones(120))
    assert facts(run).params["alpha"] == "2.0"


def test_xgboost_tells_each_round(ledger, facts):
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, Y)
    results: dict = {}
    with start(ledger, "p", actor="a") as run:
        xgboost.train(
            {"objective": "binary:logistic", "eval_metric": ["logloss", "auc"]},
            data,
            6,
            evals=[(data, "valid")],
            evals_result=results,
            verbose_eval=False,
            callbacks=[xgboost_callback()],
            early_stopping_rounds=3,
        )
    course = RunStore(ledger).history(run.id, "valid-logloss")
    assert course.values.tolist() == results["valid"]["logloss"]
    assert course.steps.tolist() == list(range(len(course)))
    assert {"valid-auc", "best_iteration", "best_score"} <= set(facts(run).metrics)


def test_lightgbm_tells_each_round_and_its_params(ledger, facts):
    lightgbm = pytest.importorskip("lightgbm")
    data = lightgbm.Dataset(X, Y)
    results: dict = {}
    run = open_run(ledger, "p", params={}, code="", environment="", actor="a")
    lightgbm.train(
        {"objective": "binary", "verbose": -1},
        data,
        5,
        valid_sets=[data],
        valid_names=["valid"],
        callbacks=[lightgbm_callback(run), lightgbm.record_evaluation(results)],
    )
    run.end()
    assert (
        RunStore(ledger).history(run.id, "valid-binary_logloss").values.tolist()
        == results["valid"]["binary_logloss"]
    )
    assert facts(run).params["objective"] == "binary"


def test_boosters_with_scikit_learn_s_interface_bring_their_courses(ledger, facts):
    xgboost = pytest.importorskip("xgboost")
    with Autolog(score=False), start(ledger, "p", actor="a") as run:
        model = xgboost.XGBClassifier(n_estimators=4, eval_metric="logloss")
        model.fit(X, Y, eval_set=[(X, Y)], verbose=False)
    assert (
        RunStore(ledger).history(run.id, "validation_0-logloss").values.tolist()
        == model.evals_result()["validation_0"]["logloss"]
    )
    assert math.isfinite(facts(run).metrics["fit_seconds"].value)


def test_train_functions_get_our_callback_while_autolog_is_on(ledger, facts):
    xgboost = pytest.importorskip("xgboost")
    plain = xgboost.train
    data = xgboost.DMatrix(X, Y)
    with Autolog(), start(ledger, "p", actor="a") as run:
        xgboost.train({"objective": "binary:logistic"}, data, 3, evals=[(data, "d")], verbose_eval=False)
    assert xgboost.train is plain
    assert facts(run).metrics["d-logloss"].points == 3
    assert facts(run).params == {"objective": "binary:logistic"}


def test_pytorch_tells_its_hooks(ledger, facts):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with start(ledger, "p", actor="a") as run:
        watching = run.watch(model, optimizer, every=2)
        for step in range(4):
            loss = model(torch.ones(8, 3)).sum()
            loss.backward()
            optimizer.step()
            run.metric("loss", loss, step)
        watching.remove()
        with pytest.raises(Invalid, match="every=0"):
            run.watch(model, every=0)
    found = facts(run)
    assert (found.metrics["lr"].value, found.metrics["lr"].step, found.metrics["lr"].points) == (0.1, 4, 3)
    assert found.metrics["training_rows"].value == 32
    assert found.metrics["gradient_norm"].value > 0
    assert found.params["model_parameters"] == "4"
