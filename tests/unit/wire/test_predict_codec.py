"""Our own JSON: what it takes, and what it says about the rest."""

from __future__ import annotations

import pytest

from flyball.errors import Invalid
from flyball.wire.faults import not_finite
from flyball.wire.predict import PredictBody, number, read_labels, read_predict, read_time


def test_one_row_is_the_body_itself() -> None:
    asked = read_predict(b'{"entities": {"carrier": "UA"}, "features": {"hour": 9}, "id": "order 7"}')
    assert isinstance(asked, PredictBody)
    assert (asked.entities, asked.features, asked.id, asked.at) == (
        {"carrier": "UA"},
        {"hour": 9},
        "order 7",
        None,
    )


def test_several_rows_are_instances() -> None:
    asked = read_predict(b'{"instances": [{"features": {"hour": 9}}, {}]}')
    assert isinstance(asked, list)
    assert [row.features for row in asked] == [{"hour": 9}, {}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b'"text"', "$"),
        (b'{"features": 1}', "features"),
        (b'{"features": {"b": 1, "a": {}}}', "features.a"),
        (b'{"instances": [{}, {"features": {"a": [1]}}]}', "instances[1].features.a"),
        (b'{"feature": {}}', "feature"),
        (b'{"instances": [{"features": {}}, {"x": 1}]}', "x"),
        (b'{"instances": [], "id": "a"}', "instances"),
        (b'{"instances": []}', "instances"),
        (b'{"id": ""}', "id"),
        (b'{"id": "' + b"x" * 201 + b'"}', "id"),
        (b'{"features": {"a": -Infinity}}', "features.a"),
        (b'{"features": {"a": 1e999}}', "features.a"),
    ],
)
def test_a_wrong_body_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_predict(body)
    assert caught.value.facts["field"] == field
    assert caught.value.hint


def test_labels_come_alone_or_together() -> None:
    assert read_labels(b'{"id": "p_1", "value": true}') == [("p_1", 1.0, None)]
    assert read_labels(b'{"labels": [{"id": "a", "value": 0, "known": "1970-01-01T00:00:01Z"}]}') == [
        ("a", 0.0, 1_000_000)
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"id": "p_1"}', "value"),
        (b'{"value": 1}', "id"),
        (b'{"labels": [{"id": "a", "value": "late"}]}', "labels[0].value"),
        (b'{"labels": [{"id": "a", "value": 1, "known": "x"}]}', "labels[0].known"),
        (b'{"labels": [], "id": "a"}', "labels"),
    ],
)
def test_wrong_feedback_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_labels(body)
    assert caught.value.facts["field"] == field


def test_a_number_is_a_number() -> None:
    assert [number(value, "f") for value in (None, True, 3, 0.5)] == [None, 1.0, 3.0, 0.5]
    for wrong in ("7", 1e39, float("nan"), float("inf"), 10**60):
        with pytest.raises(Invalid):
            number(wrong, "f")


def test_a_time_without_a_zone_is_utc() -> None:
    assert read_time("1970-01-02", "at") == 86_400_000_000
    with pytest.raises(Invalid):
        read_time("yesterday", "at")


def test_finds_the_first_nan_in_almost_json() -> None:
    assert not_finite(b'{"a": [1, {"b": -Infinity}]}') == "a[1].b"
    assert not_finite(b'{"a": "NaN"}') is None
    assert not_finite(b'{"a": NaN') is None
