"""MLflow's REST as bytes: what a request may say, what an error looks like, where a page starts."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from flyball.compat.mlflow.wire import (
    Asked,
    MlflowError,
    decode,
    failed,
    from_query,
    number,
    offset_of,
    page,
    token_of,
)
from flyball.errors import Conflict, FlyballError, Internal, Invalid, NotFound, Refused, Unavailable


class Point(Asked):
    key: str
    value: float
    step: int = 0


class Batch(Asked):
    run_id: str
    points: tuple[Point, ...] = ()
    note: str = ""
    most: int | None = None


def test_a_request_is_read_as_protobufs_json_is() -> None:
    read = decode(Batch, b'{"run_id":"a","points":[{"key":"k","value":"0.5","step":"3"}],"other":[1]}')
    assert read == Batch(run_id="a", points=(Point(key="k", value=0.5, step=3),))
    assert decode(Batch, b'{"run_id":"a","note":null,"most":null,"points":null}') == Batch(run_id="a")


@pytest.mark.parametrize("text", ['"NaN"', "NaN"])
def test_nan_is_read_as_protobuf_writes_it_and_as_python_does(text: str) -> None:
    assert math.isnan(decode(Point, f'{{"key":"k","value":{text}}}'.encode()).value)


@pytest.mark.parametrize(("text", "value"), [('"Infinity"', math.inf), ("-Infinity", -math.inf)])
def test_infinities_are_read_both_ways(text: str, value: float) -> None:
    assert decode(Point, f'{{"key":"k","value":{text}}}'.encode()).value == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "Missing value for required parameter 'run_id'."),
        ({"run_id": ""}, "Missing value for required parameter 'run_id'."),
        ({"run_id": None}, "Missing value for required parameter 'run_id'."),
        (
            {"run_id": "a", "points": [{"value": 1}]},
            "Missing value for required parameter 'points[0].key'.",
        ),
        (
            {"run_id": 7},
            "Invalid value 7 for parameter 'run_id' supplied:  Hint: Value was of type 'int'.",
        ),
        (
            {"run_id": "a", "note": [1]},
            "Invalid value [1] for parameter 'note' supplied:  Hint: Value was of type 'list'.",
        ),
    ],
)
def test_what_is_wrong_with_a_request_is_said_in_mlflows_words(body: dict[str, Any], said: str) -> None:
    with pytest.raises(MlflowError) as caught:
        decode(Batch, json.dumps(body).encode())
    assert caught.value.code == "INVALID_PARAMETER_VALUE"
    assert caught.value.what == f"{said} See the API docs for more information about request parameters."


def test_a_path_names_fields_of_the_request() -> None:
    assert decode(Batch, b'{"run_id":"b"}', {"run_id": "a"}).run_id == "a"
    assert from_query(Batch, [("note", "n")], {"run_id": "a"}) == Batch(run_id="a", note="n")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid("what", "hint"), 400, "INVALID_PARAMETER_VALUE"),
        (NotFound("what", "hint"), 404, "RESOURCE_DOES_NOT_EXIST"),
        (Conflict("what", "hint"), 409, "RESOURCE_CONFLICT"),
        (Refused("what", "hint"), 403, "PERMISSION_DENIED"),
        (Unavailable("what", "hint"), 503, "TEMPORARILY_UNAVAILABLE"),
        (Internal("what", "hint"), 500, "INTERNAL_ERROR"),
        (MlflowError("NOT_IMPLEMENTED", "what. hint"), 501, "NOT_IMPLEMENTED"),
    ],
)
def test_every_error_of_ours_has_mlflows_shape(error: FlyballError, status: int, code: str) -> None:
    answer = failed(error)
    assert answer.status_code == status
    assert json.loads(bytes(answer.body)) == {"error_code": code, "message": "what. hint"}


def test_numbers_that_json_lacks_are_texts() -> None:
    assert [number(value) for value in (1.5, math.nan, math.inf, -math.inf)] == [
        1.5,
        "NaN",
        "Infinity",
        "-Infinity",
    ]


def test_pages_follow_one_another_and_end() -> None:
    token, found = "", ""
    while True:
        part, after = page("abcdefg", 3, token)
        found += "".join(part)
        if after is None:
            break
        token = after
    assert found == "abcdefg"
    assert offset_of(token_of(12)) == 12


@pytest.mark.parametrize(
    "token", ["a", "!!!", "bm8=", "e30=", "eyJvZmZzZXQiOi0xfQ==", "eyJvZmZzZXQiOiJ4In0=", "W10="]
)
def test_a_token_that_is_none_is_refused(token: str) -> None:
    with pytest.raises(MlflowError, match="Invalid page token"):
        offset_of(token)
