"""An unmodified Feast client reads from a serving worker, beside Feast's own feature server over the same rows."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import python_of
from benchmarks.peers.feast import Feast

from flyball.core.clock import to_us
from flyball.features.filling import push
from flyball.serve.supervisor import where
from flyball.service import Workspace
from flyball.service.features import apply, views
from tests.feast import frame, project

pytestmark = pytest.mark.differential
NOW = datetime.now(UTC).replace(microsecond=0)
FEATURES = ["v:x", "v:n", "v:s"]


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def view(folder: Path, ttl_s: int) -> dict[str, Any]:
    fields = {"x": "Float64", "n": "Int64", "s": "String"}
    return {"name": "v", "entity": ["k"], "path": str(folder / "v.parquet"), "ttl_s": ttl_s, "fields": fields}


@contextmanager
def running(command: list[Any], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], cwd=folder, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until(ready: Any, process: subprocess.Popen[bytes], folder: Path) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        found = ready()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError((folder / "log").read_text())


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A project with rows online, applied, and workers that know only the plan."""
    folder = tmp_path_factory.mktemp("served")
    rows = frame(
        [
            (1, ago(2), 1.5, 10, "a"),
            (1, ago(1), 2.5, 20, "b"),
            (2, ago(30), 9.0, 90, "z"),
            (3, ago(1), None, 5, None),
        ],
        "k", "at", "x", "n", "s",
    )  # fmt: skip
    rows.write_parquet(folder / "v.parquet")
    project(folder, [view(folder, 86400)], extra='s = Service("all", ("v:x", "v:n", "v:s"))')
    ws = Workspace.open(folder)
    push(views(ws)["v"], rows, ws.online)
    ws.online.close()
    apply(ws=ws)
    command = [sys.executable, "-m", "flyball.serve.supervisor", "--plan", ws.plan_path, "--log", ws.log_dir]
    with running([*command, "--port", "0", "--workers", "1"], folder) as process:
        port = until(lambda: where(ws.state), process, folder).port
        until(lambda: _answers(port), process, folder)
        yield f"http://127.0.0.1:{port}", folder


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def post(url: str, body: Any) -> Any:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return json.load(answer)


def test_feasts_remote_client_reads_from_a_worker(
    feast: Feast, worker: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = worker
    feast.call("remote", folder=tmp_path, url=url, views=[view(folder, 86400)])
    rows = [{"k": 1}, {"k": 2}, {"k": 3}, {"k": 77}]
    found = feast.call("online", name="remote", features=FEATURES, entity_rows=rows)
    assert found["values"] == {
        "k": [1, 2, 3, 77],
        "x": [2.5, None, None, None],
        "n": [20, None, 5, None],
        "s": ["b", None, None, None],
    }
    assert found["statuses"]["x"] == [1, 4, 2, 3]  # PRESENT, OUTSIDE_MAX_AGE, NULL_VALUE, NOT_FOUND


def test_the_answer_is_that_of_feasts_own_server(
    feast: Feast, worker: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Field by field, where Feast is right: a value that is there, and a key that is not. Its columns are in no order."""
    url, served = worker
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "v.parquet").write_bytes((served / "v.parquet").read_bytes())
    asked = [view(folder, 86400)]
    feast.call("store", name=folder.name, folder=folder / "repo", offline={"type": "duckdb"}, views=asked)
    feast.call("materialize", name=folder.name, start=ago(100).isoformat(), end=NOW.isoformat())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cli = python_of("feast").with_name("feast")
    with running([cli, "-c", folder / "repo", "serve", "-p", port], folder) as process:
        until(lambda: _answers(port), process, folder)
        for keys, full in (([1], False), ([1, 77], True), ([77], False)):
            body = {"features": FEATURES, "entities": {"k": keys}, "full_feature_names": full}
            theirs = post(f"http://127.0.0.1:{port}/get-online-features", body)
            ours = post(f"{url}/get-online-features", body)
            assert by_name(ours) == by_name(theirs)
            assert set(ours) <= set(theirs)


def by_name(answer: Any) -> dict[str, Any]:
    return dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))


def test_a_service_is_read_by_its_name(worker: tuple[str, Path]) -> None:
    url, _ = worker
    found = post(f"{url}/get-online-features", {"feature_service": "all", "entities": {"k": [1]}})
    assert [one["values"] for one in found["results"]] == [[1], [2.5], [20], ["b"]]
    assert found["results"][1]["event_timestamps"] == [ago(1).strftime("%Y-%m-%dT%H:%M:%SZ")]
    own = post(f"{url}/features/all", {"entities": {"k": 1}})
    assert own["values"] == {"v:x": 2.5, "v:n": 20, "v:s": "b"}
    assert to_us(datetime.fromisoformat(own["times"]["v:x"])) == to_us(ago(1))
