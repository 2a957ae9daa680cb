"""An unmodified Feast client reads from our control plane and writes to it: ``online_store: {type: remote, path: …}``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers.feast import Feast

from flyball.compat.feast import FeatureStore
from flyball.demo.setup import free_port
from tests.feast import frame, project

pytestmark = pytest.mark.differential
NOW = datetime.now(UTC).replace(microsecond=0)


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A project with rows online, and its control plane on a socket."""
    folder = tmp_path_factory.mktemp("served")
    rows = [
        (1, ago(2), 1.5, 10, "a"),
        (1, ago(1), 2.5, 20, "b"),
        (2, ago(30), 9.0, 90, "z"),
        (3, ago(1), None, 5, None),
    ]
    frame(rows, "k", "at", "x", "n", "s").write_parquet(folder / "v.parquet")
    port = free_port(0)
    project(folder, [view(folder)], f"[console]\nport = {port}\n")
    store = FeatureStore(folder)
    store.apply()
    store.materialize(ago(100), NOW)
    store.ws.online.close()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flyball", "console"], cwd=folder, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/health", process)
        yield url, folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in (folder / "log").read_text()


def view(folder: Path) -> dict[str, Any]:
    return {
        "name": "v", "entity": ["k"], "path": str(folder / "v.parquet"), "ttl_s": 86400, "push": "pushed",
        "fields": {"x": "Float64", "n": "Int64", "s": "String"},
    }  # fmt: skip


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError("the console did not start")


def post(url: str, body: Any) -> tuple[int, Any]:
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def client(feast: Feast, console: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Feast:
    url, folder = console
    feast.call("remote", folder=tmp_path_factory.mktemp("client"), url=url, views=[view(folder)])
    return feast


def test_feasts_remote_client_reads_present_null_missing_and_expired_values(client: Feast) -> None:
    rows = [{"k": 1}, {"k": 2}, {"k": 3}, {"k": 77}]
    found = client.call("online", name="remote", features=["v:x", "v:n", "v:s"], entity_rows=rows)
    assert found["values"] == {
        "k": [1, 2, 3, 77],
        "x": [2.5, None, None, None],
        "n": [20, None, 5, None],
        "s": ["b", None, None, None],
    }
    assert found["statuses"]["x"] == [1, 4, 2, 3]  # PRESENT, OUTSIDE_MAX_AGE, NULL_VALUE, NOT_FOUND
    assert found["statuses"]["n"] == [1, 4, 1, 3]


def test_feasts_remote_client_writes_what_it_then_reads(client: Feast) -> None:
    rows = {"k": [41], "at": [ago(0.5).isoformat()], "x": [4.25], "n": [7], "s": ["new"]}
    client.call("push", name="remote", source="pushed", rows=rows)
    found = client.call("online", name="remote", features=["v:x", "v:s"], entity_rows=[{"k": 41}])
    assert found["values"] == {"k": [41], "x": [4.25], "s": ["new"]}


def test_a_wrong_feature_is_feasts_own_exception_with_our_words(
    client: Feast, console: tuple[str, Path]
) -> None:
    status, answer = post(f"{console[0]}/get-online-features", {"features": ["w:x"], "entities": {"k": [1]}})
    detail = json.loads(answer)
    assert status == 404
    assert (detail["module"], detail["class"]) == ("feast.errors", "FeatureViewNotFoundException")
    assert "there is no view 'w'" in detail["message"]


def test_a_push_over_http_goes_online_and_into_the_history(console: tuple[str, Path]) -> None:
    url, folder = console
    df = {"k": [50], "at": [ago(0.1).isoformat()], "x": [5.0], "n": [5], "s": ["five"]}
    assert post(f"{url}/push", {"push_source_name": "pushed", "df": df}) == (200, None)
    asked = {"features": ["v:x"], "entities": {"k": [50]}, "full_feature_names": True}
    _, found = post(f"{url}/get-online-features", asked)
    assert found["metadata"]["feature_names"] == ["k", "v__x"]
    assert found["results"][1]["values"] == [5.0]
    assert found["results"][1]["statuses"] == ["PRESENT"]
    assert list((folder / ".flyball/tables/sources/pushed").glob("*.parquet"))


def test_materialize_over_http_takes_a_range_and_goes_on(console: tuple[str, Path]) -> None:
    url, _ = console
    asked = {"start_ts": ago(100).isoformat(), "end_ts": NOW.isoformat(), "feature_views": ["v"]}
    assert post(f"{url}/materialize", asked) == (200, None)
    assert post(f"{url}/materialize-incremental", {"end_ts": NOW.isoformat()}) == (200, None)
    assert post(f"{url}/materialize?async=true", asked) == (
        202,
        {"status": "accepted", "feature_views": ["v"]},
    )
    assert post(f"{url}/materialize", {"start_ts": "yesterday", "end_ts": "now"})[0] == 400
