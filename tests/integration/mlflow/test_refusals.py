"""What MLflow's REST refuses at the console, byte by byte; and what a killed console has kept."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.mlflow.conftest import Console

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]
API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console that no other test looks at."""
    running = Console(tmp_path_factory.mktemp("alone"), "sqlite")
    yield running
    running.stop()


def ask(
    console: Console, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", int(console.url.rpartition(":")[2]), timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with closing(connection):
        connection.request(method, path, body, named)
        with connection.getresponse() as answer:
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def post(console: Console, path: str, **given: Any) -> Any:
    status, _, body = ask(console, "POST", f"{API}/{path}", json.dumps(given).encode())
    assert status == 200, body
    return json.loads(body)


def new_run(console: Console, name: str = "a run") -> str:
    made = post(console, "runs/create", experiment_id="0", run_name=name, start_time=1)
    found: str = made["run"]["info"]["run_id"]
    return found


def code(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    status, head, body = answer
    assert head["content-type"] == "application/json", body
    said = json.loads(body)
    assert said["message"]
    return status, said["error_code"]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/api/3.0/mlflow/traces", (501, "NOT_IMPLEMENTED")),
        ("POST", "/api/2.0/mlflow/traces", (501, "NOT_IMPLEMENTED")),
        ("GET", "/api/2.0/mlflow/gateway/endpoints/list", (501, "NOT_IMPLEMENTED")),
        ("GET", "/ajax-api/3.0/mlflow/scorers/list", (501, "NOT_IMPLEMENTED")),
        ("GET", "/api/2.0/mlflow/webhooks", (501, "NOT_IMPLEMENTED")),
        ("POST", "/api/2.0/mlflow/runs/fly", (404, "ENDPOINT_NOT_FOUND")),
        ("GET", "/api/2.0/mlflow/runs/create", (404, "ENDPOINT_NOT_FOUND")),
        ("GET", "/api/2.0/mlflow/", (501, "NOT_IMPLEMENTED")),
        ("PATCH", "/api/2.0/mlflow-artifacts/artifacts/a", (404, "ENDPOINT_NOT_FOUND")),
        ("GET", "/api/2.0/mlflow-artifacts/nothing", (404, "ENDPOINT_NOT_FOUND")),
    ],
)
def test_what_is_not_offered_says_so_in_mlflows_shape(
    alone: Console, method: str, path: str, expected: tuple[int, str]
) -> None:
    assert code(ask(alone, method, path, b"{}" if method != "GET" else None)) == expected


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"text"', b"\xff\xfe", b"[" * 5000, b"nonsense"])
def test_a_body_that_is_no_object_is_refused(alone: Console, body: bytes) -> None:
    assert code(ask(alone, "POST", f"{API}/experiments/create", body)) == (400, "BAD_REQUEST")


def test_a_body_that_old_clients_encode_twice_is_read(alone: Console) -> None:
    body = json.dumps(json.dumps({"name": "twice"})).encode()
    assert ask(alone, "POST", f"{API}/experiments/create", body)[0] == 200


def test_an_endless_body_is_cut_off(alone: Console) -> None:
    body = b'{"name": "' + b"x" * (33 << 20) + b'"}'
    assert code(ask(alone, "POST", f"{API}/experiments/create", body)) == (400, "INVALID_PARAMETER_VALUE")


TRAVERSALS = [
    "../secret",
    "a/../../secret",
    "%2e%2e/secret",
    "%252e%252e/secret",
    "..%2fsecret",
    "a/%2e%2e/%2e%2e/b",
    "%2fetc/passwd",
    "%252fetc/passwd",
    "a\\..\\b",
    "C:/windows",
    "file:///etc/passwd",
    "a#b",
    "a%00b",
    "a%0ab",
    "/etc/passwd",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_a_path_that_leads_out_is_refused_by_every_route(alone: Console, path: str) -> None:
    run = new_run(alone)
    raw = path.replace("\\", "%5C").replace("#", "%23")
    for method in ("GET", "PUT", "DELETE"):
        answer = ask(alone, method, f"{FILES}/0/{run}/artifacts/{raw}", b"x" if method == "PUT" else None)
        if path.endswith("etc/passwd") and ":" not in path:  # two slashes in the middle lead nowhere else
            assert answer[0] in (200, 404)
        elif path == "a%0ab":  # no route has a line feed
            assert code(answer)[0] == 404
        elif path in ("C:/windows", "file:///etc/passwd"):  # inside a folder those are but names
            assert answer[0] in (200, 400, 404)
        else:
            assert code(answer) == (400, "INVALID_PARAMETER_VALUE"), (method, path)
    for listing in (f"{FILES}?path={quote(path)}", f"{API}/artifacts/list?run_id={run}&path={quote(path)}"):
        assert code(ask(alone, "GET", listing)) == (400, "INVALID_PARAMETER_VALUE"), listing
    assert not list(alone.folder.parent.glob("secret*"))


def test_a_path_of_a_thousand_letters_is_refused(alone: Console) -> None:
    run = new_run(alone)
    assert code(ask(alone, "PUT", f"{FILES}/0/{run}/artifacts/{'a' * 1000}", b"x")) == (
        400,
        "INVALID_PARAMETER_VALUE",
    )
    assert code(ask(alone, "PUT", f"{FILES}/{'a' * 1000}/artifacts/x", b"x"))[0] == 400


def test_ranges_of_an_artifact_are_answered(alone: Console) -> None:
    run = new_run(alone)
    path = f"{FILES}/0/{run}/artifacts/digits.txt"
    assert ask(alone, "PUT", path, b"0123456789")[0] == 200
    for asked, status, content in [
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=0-99", 206, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ]:
        found = ask(alone, "GET", path, range=asked)
        assert (found[0], found[2]) == (status, content), asked
    assert ask(alone, "GET", path, range="bytes=2-4")[1]["content-range"] == "bytes 2-4/10"
    assert code(ask(alone, "GET", path, range="bytes=20-30")) == (400, "INVALID_PARAMETER_VALUE")
    head = ask(alone, "GET", path)[1]
    assert head["content-type"] == "text/plain; charset=utf-8"
    assert head["x-content-type-options"] == "nosniff"


def test_an_upload_that_breaks_off_leaves_nothing(alone: Console) -> None:
    run = new_run(alone)
    path = f"{FILES}/0/{run}/artifacts/torn.bin"
    with socket.create_connection(("127.0.0.1", int(alone.url.rpartition(":")[2])), timeout=10) as raw:
        head = f"PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20000000\r\n\r\n"
        raw.sendall(head.encode() + b"x" * 6_000_000)
    listed = json.loads(ask(alone, "GET", f"{API}/artifacts/list?run_id={run}")[2])
    assert listed["files"] == []
    assert code(ask(alone, "GET", path)) == (404, "RESOURCE_DOES_NOT_EXIST")
    until = time.monotonic() + 10
    while (left := list((alone.folder / ".flyball/blobs/.part").glob("*"))) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left


def test_a_flipped_byte_of_an_artifact_is_never_answered(alone: Console) -> None:
    run = new_run(alone)
    small, large = (f"{FILES}/0/{run}/artifacts/{name}" for name in ("small.txt", "large.bin"))
    assert ask(alone, "PUT", small, b"a flipped byte")[0] == 200
    assert ask(alone, "PUT", large, b"large" * 2_000_000)[0] == 200
    for blob in (alone.folder / ".flyball/blobs").rglob("*"):
        if blob.is_file() and blob.read_bytes()[:9] in (b"a flipped", b"largelarg"):
            content = bytearray(blob.read_bytes())
            content[5] ^= 1
            blob.chmod(0o644)
            blob.write_bytes(bytes(content))
    assert code(ask(alone, "GET", small)) == (403, "PERMISSION_DENIED")
    with pytest.raises((http.client.IncompleteRead, ConnectionError, http.client.HTTPException)):
        ask(alone, "GET", large)
    (alone.folder / "console.log").write_text(
        ""
    )  # the answer that broke off is told there, with its traceback


def test_parts_that_are_not_there_make_no_artifact(alone: Console) -> None:
    run = new_run(alone)
    base = f"/api/2.0/mlflow-artifacts/mpu/{{}}/0/{run}/artifacts"
    created = json.loads(
        ask(alone, "POST", base.format("create"), b'{"path": "/tmp/b.bin", "num_parts": 2}')[2]
    )
    first = created["credentials"][0]["url"].removeprefix(alone.url)
    etag = ask(alone, "PUT", first, b"one")[1]["etag"]
    told = {"path": "b.bin", "upload_id": created["upload_id"]}

    def complete(parts: list[dict[str, Any]]) -> tuple[int, str]:
        body = json.dumps({**told, "parts": parts}).encode()
        return code(ask(alone, "POST", base.format("complete"), body))

    assert complete([{"part_number": 1, "etag": etag}, {"part_number": 2, "etag": etag}])[0] == 400
    assert complete([{"part_number": 1, "etag": "../../x"}])[0] == 400
    assert complete([{"part_number": 2, "etag": etag}])[0] == 400
    assert complete([])[0] == 400
    told["upload_id"] = "../.."
    assert complete([{"part_number": 1, "etag": etag}])[0] == 400
    told["upload_id"] = created["upload_id"]
    assert ask(alone, "POST", base.format("abort"), json.dumps(told).encode())[0] == 200
    assert complete([{"part_number": 1, "etag": etag}]) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert json.loads(ask(alone, "GET", f"{API}/artifacts/list?run_id={run}")[2])["files"] == []


def test_a_params_value_of_a_megabyte_is_kept_and_a_longer_one_refused(alone: Console) -> None:
    run = new_run(alone)
    post(alone, "runs/log-parameter", run_id=run, key="long", value="v" * 1_000_000)
    body = json.dumps({"run_id": run, "key": "longer", "value": "v" * 2_000_000}).encode()
    assert code(ask(alone, "POST", f"{API}/runs/log-parameter", body)) == (400, "INVALID_PARAMETER_VALUE")
    found = json.loads(ask(alone, "GET", f"{API}/runs/get?run_id={run}")[2])
    assert [len(one["value"]) for one in found["run"]["data"]["params"]] == [1_000_000]


def test_metrics_of_a_model_that_is_not_there_are_not_half_written(alone: Console) -> None:
    run = new_run(alone)
    metric = {"key": "auc", "value": 1, "timestamp": 1, "model_id": "m-nothing"}
    body = json.dumps({"run_id": run, "metrics": [metric]}).encode()
    assert code(ask(alone, "POST", f"{API}/runs/log-batch", body)) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert json.loads(ask(alone, "GET", f"{API}/runs/get?run_id={run}")[2])["run"]["data"]["metrics"] == []


def test_a_killed_console_has_every_metric_it_acknowledged(tmp_path: Path) -> None:
    console = Console(tmp_path, "sqlite")
    run = new_run(console)
    acknowledged: list[int] = []

    def write() -> None:
        for step in range(100_000):
            metric = {"key": "loss", "value": step, "timestamp": step, "step": step}
            try:
                post(console, "runs/log-batch", run_id=run, metrics=[metric])
            except (OSError, http.client.HTTPException):
                return
            acknowledged.append(step)

    writer = threading.Thread(target=write)
    writer.start()
    while len(acknowledged) < 50:
        time.sleep(0.005)
    console.kill()
    writer.join(20)
    console.start()
    history = json.loads(ask(console, "GET", f"{API}/metrics/get-history?run_id={run}&metric_key=loss")[2])
    kept = [point["step"] for point in history["metrics"]]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1
    console.stop()
