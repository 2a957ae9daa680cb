"""A graph as OpenLineage's events, checked against what the standard requires, and sent over a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from flyball.core.records import Run
from flyball.errors import Invalid, Refused, Unavailable
from flyball.service.explain import explain
from flyball.service.lineage import openlineage
from flyball.service.workspace import Workspace
from flyball.wire.openlineage import run_uuid
from tests.unit.service.lineage.story import LATER, RUN, START, new_story, say
from tests.workspaces import close

STATES = {"START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    opened = new_story(tmp_path_factory.mktemp("story"))
    yield opened
    close(opened)


def events_of(ws: Workspace, thing: str, **options: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = explain(thing, as_="openlineage", ws=ws, **options).content  # type: ignore[union-attr]
    return found


def check_facets(facets: dict[str, Any]) -> None:
    for name, facet in facets.items():
        assert name
        for field in ("_producer", "_schemaURL"):
            parts = urlsplit(facet[field])
            assert parts.scheme == "https", facet
            assert parts.netloc


def check_datasets(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert set(one) <= {"namespace", "name", "facets", "inputFacets", "outputFacets"}
        assert urlsplit(one["namespace"]).scheme == "flyball"
        assert one["name"]
        for field in ("facets", "inputFacets", "outputFacets"):
            check_facets(one.get(field, {}))


def check_event(event: dict[str, Any]) -> None:
    """What the published schema requires of each kind of event."""
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    assert urlsplit(event["producer"]).scheme == "https"
    kind = event["schemaURL"].rpartition("/")[2]
    if kind == "RunEvent":
        assert event["eventType"] in STATES
        UUID(event["run"]["runId"])
        check_facets(event["run"]["facets"])
    if kind in ("RunEvent", "JobEvent"):
        assert event["job"]["namespace"]
        assert event["job"]["name"]
        check_facets(event["job"]["facets"])
        check_datasets([*event["inputs"], *event["outputs"]])
    if kind == "DatasetEvent":
        check_datasets([event["dataset"]])


@pytest.mark.parametrize("options", [{}, {"down": True}])
@pytest.mark.parametrize("thing", ["delays@2", RUN, "flights@1", "plane@1", "endpoint:delays"])
def test_every_event_is_what_the_standard_says(ws: Workspace, thing: str, options: dict[str, Any]) -> None:
    found = events_of(ws, thing, **options)
    for event in found:
        check_event(event)
    json.dumps(found)


def test_a_run_starts_with_its_inputs_and_ends_with_what_it_made(ws: Workspace) -> None:
    start, end = events_of(ws, RUN)
    assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
    assert start["run"]["runId"] == end["run"]["runId"] == run_uuid(RUN)
    assert [one["name"] for one in start["inputs"]] == ["flights"]
    (flights,) = start["inputs"]
    assert flights["facets"]["version"]["datasetVersion"] == "1"
    assert {field["name"] for field in flights["facets"]["schema"]["fields"]} == {"month", "delay"}
    assert flights["inputFacets"]["dataQualityMetrics"]["rowCount"] == 40
    assert [one["name"] for one in end["outputs"]] == ["models/delays", "artifacts/train/split"]
    location = end["job"]["facets"]["sourceCodeLocation"]
    assert (location["type"], location["version"], location["branch"]) == ("git", "ab12" * 10, "main")
    assert end["run"]["facets"]["executionParameters"]["parameters"] == [{"key": "trees", "value": "100"}]
    assert end["run"]["facets"]["flyball_outcome"]["metrics"] == {"loss": 0.02}


def test_both_runs_of_data_and_the_endpoint_that_serves_are_there(ws: Workspace) -> None:
    found = events_of(ws, "flights@1", down=True)
    runs = {event["run"]["runId"] for event in found if "run" in event}
    assert len(runs) == 2
    assert runs == {run_uuid(RUN), run_uuid(LATER)}
    (endpoint,) = [event for event in found if event["schemaURL"].endswith("JobEvent")]
    assert endpoint["job"]["name"] == "endpoints/delays"
    assert endpoint["job"]["facets"]["jobType"]["processingType"] == "SERVICE"
    assert [one["facets"]["version"]["datasetVersion"] for one in endpoint["inputs"]] == ["2"]


class Endpoint:
    """An OpenLineage endpoint on a port of its own."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.paths: list[str] = []
        self.status = 201
        self.waits_s = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(outer.waits_s)
                outer.paths.append(self.path)
                outer.events.append((json.loads(body), self.headers.get("Authorization")))
                self.send_response(outer.status)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # who asked did not wait
                    self.wfile.write(b"no such namespace" if outer.status >= 400 else b"")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    one = Endpoint()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_events_are_sent_in_order_with_the_key_that_its_client_uses(
    ws: Workspace, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    said = explain(RUN, emit=endpoint.url, ws=ws)
    assert said.as_text() == f"sent 2 events to {endpoint.url}"
    assert [event["eventType"] for event, _ in endpoint.events] == ["START", "COMPLETE"]
    assert {key for _, key in endpoint.events} == {"Bearer secret"}
    assert set(endpoint.paths) == {"/api/v1/lineage"}


def test_an_endpoint_that_refuses_is_slow_or_gone_is_a_clear_error(
    ws: Workspace, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    endpoint.status = 422
    with pytest.raises(Refused, match="refused event 1 of 2 with 422: no such namespace"):
        explain(RUN, emit=endpoint.url, ws=ws)
    endpoint.status = 503
    with pytest.raises(Unavailable, match="503"):
        explain(RUN, emit=endpoint.url, ws=ws)
    endpoint.status, endpoint.waits_s = 201, 0.5
    monkeypatch.setattr(openlineage, "_EACH_S", 0.05)
    with pytest.raises(Unavailable, match="does not answer"):
        explain(RUN, emit=endpoint.url, ws=ws)
    with pytest.raises(Unavailable, match="does not answer"):
        explain(RUN, emit="http://127.0.0.1:9", ws=ws)
    for wrong in ("file:///etc/passwd", "ftp://host/x", "nonsense"):
        with pytest.raises(Invalid, match="is not an HTTP address"):
            explain(RUN, emit=wrong, ws=ws)


def test_a_run_that_failed_inside_another_says_both(tmp_path: Path) -> None:
    ws = new_story(tmp_path / "failed")
    inner = "run_01hzzzzzzzzzzzzzzzzz9zzzzz"
    record = Run(
        id=inner, pipeline="fold", started=START, ended=START, status="failed", params={}, code="", environment="",
        actor="person:ann", parent=RUN, error="fit: ValueError: no rows",
    )  # fmt: skip
    say(ws, "run.failed", inner, [("run", inner, record)])
    start, end = (event for event in events_of(ws, inner) if event["run"]["runId"] == run_uuid(inner))
    for event in (start, end):
        check_event(event)
    parent = start["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == run_uuid(RUN)
    assert parent["job"]["name"] == "train"
    assert end["eventType"] == "FAIL"
    assert end["run"]["facets"]["errorMessage"]["message"] == "fit: ValueError: no rows"
    close(ws)
