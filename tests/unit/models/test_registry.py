"""The registry: numbers, aliases with their history, signatures, lineage, and bytes checked before they are loaded."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from flyball.core.clock import ManualClock
from flyball.core.events import Edge
from flyball.errors import Invalid, NotFound, Refused
from flyball.models.registry import aliases_of, history, load, register, resolve, set_alias
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

GENERATOR = np.random.default_rng(7)
FRAME = pl.DataFrame({"a": GENERATOR.normal(size=200), "b": GENERATOR.normal(size=200)})
LATE = (FRAME["a"] + FRAME["b"] > 0).to_numpy()


class Doubles:
    """A model of a project's own: an object that can be called."""

    def __call__(self, rows):
        return 2 * rows[:, 0]


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://", ManualClock(datetime(2013, 4, 1, tzinfo=UTC)))
    yield ledger
    ledger.close()


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


@pytest.fixture
def model():
    return LogisticRegression().fit(FRAME, LATE)


def test_a_classifier_is_registered_as_proved_onnx_with_its_signature(ledger, blobs, model):
    version = register(
        ledger, blobs, "delays", model, sample=FRAME, aliases=["challenger"], actor="person:ann"
    )
    assert (version.ref, version.format) == ("delays@1", "onnx")
    assert version.export["rows"] == 200
    assert version.export["largest_difference"] <= 1e-5
    assert [field.name for field in version.signature.inputs] == ["a", "b"]
    assert not version.signature.inputs[
        0
    ].nullable  # logistic regression takes no null, by scikit-learn's own tag
    assert version.signature.outputs[0].name == "probability"
    assert aliases_of(ledger, "delays") == {"challenger": 1}


def test_a_loaded_model_answers_as_the_one_registered_and_finds_columns_by_name(ledger, blobs, model):
    register(ledger, blobs, "delays", model, sample=FRAME, actor="a")
    shuffled = FRAME.select("b", pl.lit(1).alias("other"), "a")
    answered = load(ledger, blobs, "delays").predict(shuffled)
    np.testing.assert_array_equal(answered, model.predict_proba(FRAME)[:, 1])
    assert load(ledger, blobs, "delays").predict(FRAME.head(0)).shape == (0,)
    np.testing.assert_array_equal(load(ledger, blobs, "delays@1").predict(FRAME.to_numpy()), answered)


def test_a_missing_column_is_named(ledger, blobs, model):
    register(ledger, blobs, "delays", model, sample=FRAME, actor="a")
    with pytest.raises(Invalid, match="no column 'b'"):
        load(ledger, blobs, "delays").predict(FRAME.select("a"))
    with pytest.raises(Invalid, match="takes"):
        load(ledger, blobs, "delays").predict(np.zeros((3, 5)))


def test_a_regressor_predicts_values(ledger, blobs):
    model = LinearRegression().fit(FRAME.to_numpy(), 1000 * FRAME["a"].to_numpy())
    version = register(ledger, blobs, "minutes", model, sample=FRAME, actor="a")
    assert (version.format, version.signature.outputs[0].name) == ("onnx", "prediction")
    np.testing.assert_allclose(
        load(ledger, blobs, "minutes").predict(FRAME), 1000 * FRAME["a"].to_numpy(), atol=1e-6
    )


def test_any_object_that_predicts_is_kept_as_a_pickle_with_the_reason(ledger, blobs):
    version = register(ledger, blobs, "twice", Doubles(), sample=FRAME, actor="a")
    # a class of the project: with its code
    assert (version.format, version.artifact) == ("python", version.native)
    assert "not a scikit-learn model" in version.export["reason"]
    np.testing.assert_array_equal(load(ledger, blobs, "twice").predict(FRAME), 2 * FRAME["a"].to_numpy())


def test_ready_made_onnx_bytes_are_served_as_they_are(ledger, blobs, model):
    made = register(ledger, blobs, "delays", model, sample=FRAME, actor="a")
    version = register(
        ledger, blobs, "copy", blobs.get(made.artifact), format="onnx", signature=made.signature, actor="a"
    )
    assert (version.artifact, version.native) == (made.artifact, None)
    wanted = load(ledger, blobs, "delays").predict(FRAME)
    np.testing.assert_allclose(load(ledger, blobs, "copy").predict(FRAME), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        (object(), {"sample": FRAME}, "ONNX"),
        (b"bytes", {"sample": FRAME, "format": "auto"}, "format"),
        (lambda rows: rows, {"sample": FRAME, "format": "pickle"}, "pickled"),
        (Doubles(), {"format": "pickle"}, "no signature"),
        (Doubles(), {"sample": pl.DataFrame({"carrier": ["UA"]}), "format": "pickle"}, "carrier"),
    ],
)
def test_what_could_not_be_served_is_invalid_and_takes_no_number(ledger, blobs, given, options, said):
    with pytest.raises(Invalid, match=said):
        register(ledger, blobs, "delays", given, actor="a", **{"format": "onnx", **options})
    assert ledger.keys("model") == []


def test_three_classes_are_refused_with_what_is_served(ledger, blobs):
    model = LogisticRegression().fit(FRAME, np.arange(200) % 3)
    with pytest.raises(Invalid, match="3 classes"):
        register(ledger, blobs, "kinds", model, sample=FRAME, format="pickle", actor="a")


def test_the_same_node_of_a_run_registers_once(ledger, blobs, model):
    options = {"sample": FRAME, "run": "run_1", "actor": "run_1"}
    one = register(ledger, blobs, "delays", model, node="register", **options)
    assert register(ledger, blobs, "delays", model, node="register", **options) == one
    assert register(ledger, blobs, "delays", model, node="register-2", **options).number == 2


def test_lineage_leads_from_a_version_to_its_bytes_run_data_and_gate(ledger, blobs, model):
    version = register(
        ledger, blobs, "delays", model, sample=FRAME, run="run_1", gate="rep_1", training={"flights": "flights@3"},
        feature_service="delays@2", actor="a",
    )  # fmt: skip
    here = "model:delays@1"
    assert set(ledger.made_from(here)) == {
        Edge(here, version.artifact, "artifact"),
        Edge(here, version.native, "native"),
        Edge(here, "run_1", "run"),
        Edge(here, "snapshot:flights@3", "training:flights"),
        Edge(here, "rep_1", "gate"),
        Edge(here, "service:delays@2", "features"),
    }


def test_an_alias_moves_and_its_history_says_who_when_and_why(ledger, blobs, model):
    for _ in range(2):
        register(ledger, blobs, "delays", model, sample=FRAME, actor="a")
    set_alias(ledger, "delays", "champion", 1, because="the first", actor="person:ann")
    set_alias(ledger, "delays", "champion", 2, because="dec_1", actor="governor")
    set_alias(ledger, "delays", "champion", 2, because="again", actor="governor")
    set_alias(ledger, "delays", "champion-eu", 1, because="another", actor="governor")
    assert resolve(ledger, "delays@champion").number == 2
    events = history(ledger, "delays", "champion")
    assert [(one.actor, one.body["before"], one.body["number"], one.body["because"]) for one in events] == [
        ("person:ann", None, 1, "the first"),
        ("governor", 1, 2, "dec_1"),
    ]


@pytest.mark.parametrize("ref", ["delay", "delays@9", "delays@champon"])
def test_an_unknown_ref_names_what_there_is(ledger, blobs, model, ref):
    register(ledger, blobs, "delays", model, sample=FRAME, aliases=["champion"], actor="a")
    with pytest.raises(NotFound) as caught:
        resolve(ledger, ref)
    assert "delays" in caught.value.hint


@pytest.mark.parametrize("alias", ["7", "latest", "a@b", ""])
def test_an_alias_can_not_look_like_a_number(ledger, blobs, model, alias):
    with pytest.raises(Invalid):
        register(ledger, blobs, "delays", model, sample=FRAME, aliases=[alias], actor="a")
    assert ledger.keys("model") == []


def test_changed_bytes_are_refused_before_they_are_unpickled(ledger, model, tmp_path):
    blobs = Blobs.open(f"file:{tmp_path}")
    version = register(ledger, blobs, "delays", model, sample=FRAME, actor="a")
    place = tmp_path / version.native[3:5] / version.native[5:]
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    with pytest.raises(Refused, match="have changed"):
        load(ledger, blobs, "delays")
