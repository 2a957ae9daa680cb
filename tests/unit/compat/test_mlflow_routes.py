"""Every route of MLflow's tracking, artifacts and registry is answered; what is not offered says so."""

from __future__ import annotations

import pytest

from flyball.compat.mlflow import _table, is_mlflow
from flyball.compat.mlflow.wire import Call

OFFERED = """
POST experiments/create · GET experiments/get · GET experiments/get-by-name · GET experiments/search
POST experiments/search · POST experiments/update · POST experiments/delete · POST experiments/restore
POST experiments/set-experiment-tag · POST experiments/delete-experiment-tag
POST runs/create · GET runs/get · POST runs/search · POST runs/update · POST runs/delete · POST runs/restore
POST runs/log-metric · POST runs/log-parameter · POST runs/log-batch · POST runs/log-inputs · POST runs/log-model
POST runs/outputs · POST runs/set-tag · POST runs/delete-tag
GET metrics/get-history · GET metrics/get-history-bulk · GET metrics/get-history-bulk-interval · GET artifacts/list
POST logged-models · POST logged-models/search · GET logged-models/m-1 · PATCH logged-models/m-1
DELETE logged-models/m-1 · POST logged-models/m-1/params · PATCH logged-models/m-1/tags
DELETE logged-models/m-1/tags/a · GET logged-models/m-1/artifacts/directories · GET server-info
POST registered-models/create · GET registered-models/get · GET registered-models/search · POST registered-models/rename
PATCH registered-models/update · DELETE registered-models/delete · POST registered-models/get-latest-versions
POST registered-models/set-tag · DELETE registered-models/delete-tag · POST registered-models/alias
GET registered-models/alias · DELETE registered-models/alias · POST model-versions/create · GET model-versions/get
GET model-versions/search · PATCH model-versions/update · DELETE model-versions/delete
GET model-versions/get-download-uri · POST model-versions/transition-stage · POST model-versions/set-tag
DELETE model-versions/delete-tag
"""
ROUTES = [tuple(route.split()) for line in OFFERED.strip().splitlines() for route in line.split(" · ")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_has_a_handler(method: str, path: str) -> None:
    found = _table(path.partition("/")[0]).find(method, path)
    assert found is not None
    assert isinstance(found[0], Call)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "traces", "NOT_IMPLEMENTED"),
        ("GET", "prompts/get", "NOT_IMPLEMENTED"),
        ("GET", "", "NOT_IMPLEMENTED"),
        ("GET", "runs/create", "ENDPOINT_NOT_FOUND"),
        ("POST", "runs/nothing", "ENDPOINT_NOT_FOUND"),
        ("PATCH", "logged-models/", "ENDPOINT_NOT_FOUND"),
        ("PATCH", "logged-models//tags", "ENDPOINT_NOT_FOUND"),
    ],
)
def test_what_is_not_offered_has_no_handler_and_a_reason(method: str, path: str, code: str) -> None:
    table = _table(path.partition("/")[0])
    assert table.find(method, path) is None
    assert table.refusal(method, path).code == code


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/2.0/mlflow/runs/get", True),
        ("/ajax-api/3.0/mlflow/traces", True),
        ("/api/2.0/mlflow-artifacts/artifacts", True),
        ("/api/runs/ls", False),
        ("/api/mlflow", False),
        ("/", False),
    ],
)
def test_mlflows_paths_are_known_by_their_beginning(path: str, expected: bool) -> None:
    assert is_mlflow(path) is expected
