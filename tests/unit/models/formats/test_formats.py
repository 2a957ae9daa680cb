"""Each family in its library's own format: the same answers after reading, and nothing that runs what a file says."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor, StackingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler

from flyball.errors import Invalid, Refused, Unavailable
from flyball.models.formats import FORMATS, decode, encode, skops, trial
from flyball.models.formats.asking import answers_probability, ask_of, column
from flyball.models.scoring import score

ROWS = np.random.default_rng(5).normal(size=(300, 3))
FRAME = pl.DataFrame(ROWS, schema=["a", "b", "c"])
LATE = (ROWS[:, 0] + ROWS[:, 1] > 0).astype(int)
MINUTES = ROWS @ [1.0, -2.0, 0.5]
ENV = {"n_estimators": 4, "n_jobs": 1}
QUIET = {**ENV, "verbose": -1}


def matrix(names: list[str] | None = None) -> Any:
    return xgboost.DMatrix(ROWS, label=LATE, feature_names=names)


def dataset() -> Any:
    return lightgbm.Dataset(ROWS, label=LATE)


# What is fitted, and the format that keeps it.
MODELS: dict[str, tuple[Any, str]] = {
    "logistic": (lambda: LogisticRegression().fit(FRAME, LATE), "skops"),
    "linear": (lambda: LinearRegression().fit(ROWS, MINUTES), "skops"),
    "boosting": (lambda: HistGradientBoostingClassifier(max_iter=5).fit(FRAME, LATE), "skops"),
    "forest": (lambda: RandomForestRegressor(5).fit(ROWS, MINUTES), "skops"),
    "calibrated": (lambda: CalibratedClassifierCV(LogisticRegression(), cv=2).fit(ROWS, LATE), "skops"),
    "splines": (lambda: make_pipeline(SplineTransformer(), LinearRegression()).fit(ROWS, MINUTES), "pickle"),
    "stacked": (lambda: StackingClassifier([("one", LogisticRegression())], cv=2).fit(ROWS, LATE), "skops"),
    "xgb classifier": (lambda: xgboost.XGBClassifier(**ENV).fit(FRAME, LATE), "xgboost"),
    "xgb regressor": (lambda: xgboost.XGBRegressor(**ENV).fit(ROWS, MINUTES), "xgboost"),
    "xgb forest": (lambda: xgboost.XGBRFClassifier(**ENV).fit(ROWS, LATE), "xgboost"),
    "xgb linear": (lambda: xgboost.XGBRegressor(booster="gblinear", n_estimators=3).fit(ROWS, MINUTES), "xgboost"),
    "xgb booster": (lambda: xgboost.train({"objective": "binary:logistic"}, matrix(["a", "b", "c"]), 3), "xgboost"),
    "lgb classifier": (lambda: lightgbm.LGBMClassifier(**QUIET).fit(FRAME.to_pandas(), LATE), "lightgbm"),
    "lgb labels": (lambda: lightgbm.LGBMClassifier(**QUIET).fit(ROWS, np.where(LATE, "late", "on time")), "lightgbm"),
    "lgb regressor": (lambda: lightgbm.LGBMRegressor(**QUIET).fit(ROWS, MINUTES), "lightgbm"),
    "lgb booster": (lambda: lightgbm.train({"objective": "binary", "verbose": -1}, dataset(), 3), "lightgbm"),
    "mixed": (
        lambda: make_pipeline(StandardScaler(), lightgbm.LGBMClassifier(**QUIET)).fit(ROWS, LATE),
        "pickle",
    ),
    "callable": (lambda: partial(np.nansum, axis=1), "pickle"),
}  # fmt: skip


@pytest.fixture(scope="module", params=MODELS, ids=list(MODELS))
def kept(request: pytest.FixtureRequest) -> tuple[Any, str]:
    make, format = MODELS[request.param]
    return make(), format


def test_a_model_is_kept_in_its_familys_format_and_answers_equally(kept: tuple[Any, str]) -> None:
    model, format = kept
    encoded = encode(model, "auto", ROWS)
    assert encoded.format == format, encoded.facts
    again = decode(encoded.format, encoded.data)
    wanted = score(model, ROWS)
    np.testing.assert_array_equal(score(again, ROWS), wanted)
    # what a worker does with float32 rows, by one thread
    served = column(ask_of(again, ["a", "b", "c"])(ROWS.astype(np.float32)))
    np.testing.assert_array_equal(served, score(model, ROWS.astype(np.float32)).astype(served.dtype))


def test_what_is_kept_says_what_it_needs(kept: tuple[Any, str]) -> None:
    facts = encode(kept[0]).facts
    assert facts["class"].rpartition(".")[2] == type(kept[0]).__qualname__
    family = {"skops": "scikit-learn", "xgboost": "xgboost-cpu", "lightgbm": "lightgbm"}.get(kept[1])
    if family:
        assert facts["requires"][family]
    assert facts["python"].startswith("3.")


def test_wrappers_come_back_as_wrappers_with_their_labels() -> None:
    labelled = lightgbm.LGBMClassifier(**QUIET).fit(ROWS, np.where(LATE, "late", "on time"))
    again = decode("lightgbm", encode(labelled).data)
    assert type(again) is lightgbm.LGBMClassifier
    assert again.predict(ROWS).tolist() == labelled.predict(ROWS).tolist()
    assert again.get_params() == labelled.get_params()
    classifier = xgboost.XGBClassifier(**ENV).fit(ROWS, LATE)
    again = decode("xgboost", encode(classifier).data)
    assert type(again) is xgboost.XGBClassifier
    assert again.classes_.tolist() == [0, 1]
    assert classifier.get_booster().attr("scikit_learn") is None  # the model itself was not written to


def test_early_stopping_is_remembered() -> None:
    seen, unseen = slice(0, 200), slice(200, 300)
    stopping = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=2, learning_rate=1.5, n_jobs=1)
    stopping.fit(ROWS[seen], LATE[seen], eval_set=[(ROWS[unseen], LATE[unseen])], verbose=False)
    assert stopping.best_iteration < stopping.get_booster().num_boosted_rounds() - 1
    again = decode("xgboost", encode(stopping).data)
    np.testing.assert_array_equal(score(again, ROWS), score(stopping, ROWS))
    stopping = lightgbm.LGBMRegressor(n_estimators=60, learning_rate=1.5, verbose=-1)
    stop = lightgbm.early_stopping(2, verbose=False)
    stopping.fit(ROWS[seen], MINUTES[seen], eval_X=ROWS[unseen], eval_y=MINUTES[unseen], callbacks=[stop])
    assert stopping.best_iteration_ < 60
    again = decode("lightgbm", encode(stopping).data)
    np.testing.assert_array_equal(score(again, ROWS), score(stopping, ROWS))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rounds=st.integers(1, 6),
    depth=st.integers(1, 5),
    holes=st.floats(0, 0.5),
    family=st.sampled_from(["xgboost", "lightgbm", "skops"]),
)
def test_any_fitted_model_answers_any_rows_as_before(
    seed: int, rounds: int, depth: int, holes: float, family: str
) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(80, 3))
    rows[random.random(rows.shape) < holes] = np.nan
    y = random.integers(0, 2, 80)
    y[:2] = [0, 1]
    model: Any = {
        "xgboost": xgboost.XGBClassifier(n_estimators=rounds, max_depth=depth, n_jobs=1),
        "lightgbm": lightgbm.LGBMClassifier(n_estimators=rounds, max_depth=depth, verbose=-1, n_jobs=1, min_child_samples=2),
        "skops": HistGradientBoostingClassifier(max_iter=rounds, max_depth=depth, min_samples_leaf=2),
    }[family]  # fmt: skip
    model.fit(rows, y)
    encoded = encode(model)
    assert encoded.format == family
    np.testing.assert_array_equal(score(decode(family, encoded.data), rows), score(model, rows))


def test_what_a_library_would_not_give_back_is_pickled_and_the_reason_said() -> None:
    odd = xgboost.XGBClassifier(missing=-999.0, **ENV).fit(ROWS, LATE)
    encoded = encode(odd, "auto", ROWS)
    assert (encoded.format, "missing=-999.0" in encoded.facts["reason"]) == ("pickle", True)
    with pytest.raises(Invalid, match="missing"):
        encode(odd, "xgboost")
    own = lightgbm.LGBMRegressor(objective=_squares, **QUIET).fit(ROWS, MINUTES)
    encoded = encode(own)
    assert (encoded.format, "objective" in encoded.facts["reason"]) == (
        "python",
        True,
    )  # with the objective's code
    function = make_pipeline(FunctionTransformer(_twice), LinearRegression()).fit(ROWS, MINUTES)
    encoded = encode(function)
    assert (encoded.format, "_twice" in encoded.facts["reason"]) == ("python", True)
    np.testing.assert_array_equal(score(decode("python", encoded.data), ROWS), score(function, ROWS))


def _squares(y: Any, p: Any) -> Any:
    return p - y, np.ones_like(y)


def _twice(rows: Any) -> Any:
    return 2 * rows


def test_without_skops_the_reason_is_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skops", None)
    encoded = encode(LogisticRegression().fit(ROWS, LATE))
    assert encoded.format == "pickle"
    assert "pip install 'flyball[skops]'" in encoded.facts["reason"]
    with pytest.raises(Unavailable, match=r"flyball\[skops\]"):
        encode(LogisticRegression().fit(ROWS, LATE), "skops")


@pytest.mark.parametrize(
    ("format", "module", "line"),
    [
        ("skops", "skops", "flyball[skops]"),
        ("xgboost", "xgboost", "flyball[xgboost]"),
        ("lightgbm", "lightgbm", "flyball[lightgbm]"),
        ("torch", "torch", "flyball[torch]"),
        ("onnx", "onnxruntime", "flyball[onnx]"),
        ("pickle", "sklearn.linear_model._base", "flyball[sklearn]"),
    ],
)
def test_a_library_that_is_not_there_is_named_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch, format: str, module: str, line: str
) -> None:
    data = pickle.dumps(LinearRegression().fit(ROWS, MINUTES)) if format == "pickle" else b""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Unavailable) as caught:
        decode(format, data)
    assert f"pip install '{line}'" in caught.value.hint


@pytest.mark.parametrize("format", ["skops", "lightgbm", "python"])
def test_torn_and_foreign_bytes_are_said_as_such(format: str) -> None:
    made: dict[str, Any] = {
        "skops": LogisticRegression().fit(ROWS, LATE),
        "lightgbm": lightgbm.LGBMClassifier(**QUIET).fit(ROWS, LATE),
        "python": FunctionTransformer(_twice),
    }
    data = encode(made[format], format).data
    for torn in (b"", b"\0\1\2", b"PK\3\4", data[: len(data) // 2], data[:-30]):
        with pytest.raises(Invalid, match=r"torn|not a"):
            decode(format, torn)


def test_a_boosters_text_cut_anywhere_is_refused_before_lightgbm_sees_it() -> None:
    text = encode(lightgbm.train({"objective": "binary", "verbose": -1}, dataset(), 2)).data
    whole = text.index(b"\nend of parameters\n") + len(b"\nend of parameters\n")
    for end in range(0, whole, max(1, whole // 40)):
        with pytest.raises(Invalid):
            decode("lightgbm", text[:end])


def test_a_file_that_ends_the_process_that_reads_it_is_invalid_and_ends_nothing_here() -> None:
    text = encode(lightgbm.train({"objective": "binary", "verbose": -1}, dataset(), 2)).data
    start = text.index(b"threshold=") + len("threshold=")
    with pytest.raises(Invalid, match=r"ends the process \(SIG\w+\)"):
        trial.survive("lightgbm", text[:start] + b"$" + text[start + 1 :])
    trial.survive("skops", b"not looked at")
    with pytest.raises(Invalid, match="not an XGBoost model"):
        trial.survive("xgboost", b"")


def test_formats_that_are_not_known_are_named() -> None:
    with pytest.raises(Invalid, match="no format 'h5'"):
        decode("h5", b"")
    with pytest.raises(Invalid, match="no format 'h5'"):
        encode(LinearRegression(), "h5")
    with pytest.raises(Invalid, match="not XGBoost's"):
        encode(LinearRegression().fit(ROWS, MINUTES), "xgboost")
    with pytest.raises(Invalid, match="was not fitted"):
        encode(xgboost.XGBClassifier(), "xgboost")
    assert FORMATS[0] == "onnx"


class _Trap:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


def test_a_skops_file_runs_nothing_and_names_what_it_refuses(tmp_path: Path) -> None:
    import skops.io

    data = skops.io.dumps(_Trap(tmp_path / "sprung"))
    with pytest.raises(Refused, match=r"pathlib\.Path\.touch|_Trap|not known to be safe"):
        decode("skops", data)
    # a file whose tree names a function that would be called
    good = skops.io.dumps(FunctionTransformer(np.tanh))
    tree = {
        name: zipfile.ZipFile(io.BytesIO(good)).read(name)
        for name in zipfile.ZipFile(io.BytesIO(good)).namelist()
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in tree.items():
            archive.writestr(name, content.replace(b'"tanh"', b'"system"').replace(b'"numpy"', b'"os"'))
    assert b"os" in buffer.getvalue()
    with pytest.raises(Refused, match=r"os\.system|posix\.system"):
        decode("skops", buffer.getvalue())
    assert not (tmp_path / "sprung").exists()


def test_only_classes_that_scikit_learn_defines_are_built_beyond_skops_own() -> None:
    from flyball.models.formats.skops import _is_harmless

    assert _is_harmless("sklearn.tree._tree.Tree")
    assert not _is_harmless("sklearn.datasets._base.urlretrieve")  # a function that it only imports
    assert not _is_harmless("sklearn.utils.fixes.np")
    assert not _is_harmless("sklearnish.Tree")
    assert not _is_harmless("os.system")
    forest = encode(RandomForestRegressor(2).fit(ROWS, MINUTES), "skops").data
    with pytest.raises(Refused, match=r"sklearn\.tree\._tree\.Tree"):
        skops.trusted(forest, strictly=True)


def test_boosters_say_whether_they_mean_a_probability() -> None:
    assert answers_probability(xgboost.train({"objective": "binary:logistic"}, matrix(), 1))
    assert not answers_probability(xgboost.train({"objective": "reg:squarederror"}, matrix(), 1))
    assert answers_probability(lightgbm.train({"objective": "binary", "verbose": -1}, dataset(), 1))
    assert not answers_probability(lightgbm.train({"objective": "l2", "verbose": -1}, dataset(), 1))
    assert not answers_probability(LinearRegression())


def test_a_worker_reads_a_format_without_a_dataframe_or_a_database(tmp_path: Path) -> None:
    for name, model in {
        "skops": LogisticRegression().fit(ROWS, LATE),
        "xgboost": xgboost.XGBClassifier(**ENV).fit(ROWS, LATE),
        "lightgbm": lightgbm.LGBMClassifier(**QUIET).fit(ROWS, LATE),
        "pickle": partial(np.nansum, axis=1),
    }.items():
        (tmp_path / name).write_bytes(encode(model, name).data)
    code = (
        "import sys, pathlib, flyball.serve.worker\n"
        "from flyball.models.formats import decode\n"
        "for name in ('pickle', 'skops', 'xgboost', 'lightgbm'):\n"
        f"    decode(name, (pathlib.Path({str(tmp_path)!r}) / name).read_bytes())\n"
        "    if name == 'pickle': assert 'sklearn' not in sys.modules\n"
        "sys.stderr.write('@' + ' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stderr.rpartition("@")[2].split()}
    assert not loaded & {"polars", "sqlalchemy", "alembic", "pydantic", "starlette", "typer"}
