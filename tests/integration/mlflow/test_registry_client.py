"""The model registry, asked by MLflow's own client and beside MLflow's own server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flyball.demo.setup import free_port
from flyball.errors import NotFound
from flyball.models import registry
from flyball.serve.client import Client
from flyball.serve.publish import acks
from flyball.service import Workspace
from tests.integration.mlflow.conftest import Console, Peer

pytestmark = [pytest.mark.integration, pytest.mark.differential]


@pytest.fixture
def workspace(console: Console) -> Workspace:
    return Workspace.open(console.folder)


def rows(count: int) -> pl.DataFrame:
    """The peer's own frame: the same generator, the same numbers."""
    generator = np.random.default_rng(7)
    return pl.DataFrame({"a": generator.normal(size=count), "b": generator.normal(size=count)})


@contextmanager
def data_plane(ws: Workspace) -> Iterator[Client]:
    """Real workers on the plan of a project."""
    port = free_port(0)
    command = [sys.executable, "-m", "flyball.serve.supervisor", "--plan", str(ws.plan_path)]
    command += ["--log", str(ws.log_dir), "--port", str(port), "--workers", "1"]
    with (ws.root / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ws.root, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while not acks(ws.state):
            assert process.poll() is None, (ws.root / "serve.log").read_text()
            assert time.monotonic() < until, (ws.root / "serve.log").read_text()
            time.sleep(0.02)
        assert [ack.error for ack in acks(ws.state)] == [""]
        yield Client(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("story", ["models", "versions", "aliases", "stages", "found"])
def test_the_registry_answers_as_mlflow_does(console: Console, peer: Peer, story: str) -> None:
    assert peer("registry_stories", "both", url=console.url, name=story) == []


def test_searches_that_mlflow_refuses_are_refused_with_its_codes(console: Console, peer: Peer) -> None:
    assert peer("registry_stories", "codes", url=console.url, name="badly_asked") == []


def test_fit_log_register_alias_and_load_by_alias(console: Console, peer: Peer) -> None:
    told = peer("registry_client", "story", console.url, name="story")
    assert (told["version"], told["status"], told["aliases"]) == ("1", "READY", ["champion"])
    assert told["run_of_version"] == told["run"]
    assert told["equal"]
    assert told["native_equal"]
    shown = console.cli("models", "show", "story@champion")
    assert (shown["format"], shown["run"], shown["aliases"]) == ("mlmodel", told["run"], ["champion"])
    assert [one["alias"] for one in console.cli("models", "history", "story")] == ["champion"]


def test_what_the_client_registered_is_deployed_here_and_answers_as_the_model_does(
    console: Console, peer: Peer, workspace: Workspace
) -> None:
    told = peer("registry_client", "story", console.url, name="served story")
    route = console.cli("deploy", "served story@champion", "--endpoint", "served")
    assert route["arms"][0]["model"] == "served story@1"
    # The peer draws two columns of 200 rows one after the other, so its first five rows are not our first five.
    generator = np.random.default_rng(7)
    drawn = np.column_stack([generator.normal(size=200), generator.normal(size=200)])[:5]
    with data_plane(workspace) as client:
        answers = [client.predict("served", features={"a": a, "b": b}) for a, b in drawn.tolist()]
    assert {one["model"] for one in answers} == {"served story@1"}
    found = [one["prediction"] for one in answers]
    np.testing.assert_allclose(found, told["probabilities"], atol=1e-5)


def test_log_model_registers_by_name_and_counts_on(console: Console, peer: Peer) -> None:
    assert peer("registry_client", "registered_as_it_is_logged", console.url, name="by name") == ["1", "2"]


def test_a_version_comes_from_a_run_and_is_copied_under_another_name(console: Console, peer: Peer) -> None:
    told = peer("registry_client", "from_a_run", console.url, name="from a run")
    assert told == {
        "tags": {"from": "a run", "checked": "yes"},
        "description": "told",
        "source": True,
        "model_of_copy": "models:/from a run/1",
        "run_of_copy": True,
        "answers": 4,
    }


def test_every_call_of_the_client_does_what_it_says(console: Console, peer: Peer) -> None:
    told = peer("registry_client", "everything", console.url, name="all calls")
    assert told == {
        "numbers": ["1", "2", "3"],
        "description": "told anew",
        "tags": {"year": "2013"},
        "aliases": {"best": "2"},
        "latest": {"None": "1", "Archived": "2", "Production": "3"},
        "stages": ["None", "Staging", "Production", "Archived"],
        "found": ["all calls renamed"],
        "pages": [["3"], ["2"]],
        "refused": [
            "RESOURCE_DOES_NOT_EXIST",
            "RESOURCE_ALREADY_EXISTS",
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
            "INVALID_PARAMETER_VALUE",
        ],
        "gone": 0,
    }


def test_what_was_registered_here_is_known_to_the_client_and_loads_there(
    console: Console, peer: Peer, workspace: Workspace
) -> None:
    frame = rows(200)
    model = LogisticRegression().fit(frame, frame["a"].to_numpy() > 0)
    registry.register(
        workspace.ledger, workspace.blobs, "own", model, sample=frame, actor="a", aliases=["champion"]
    )
    told = peer("registry_client", "asked", console.url, name="own", alias="champion")
    assert (told["version"], told["aliases"], told["latest"]) == ("1", {"champion": "1"}, ["1"])
    five = rows(5)
    assert (
        told["answers"] == model.predict(five).astype(float).tolist()
    )  # a classifier's classes, as MLflow has it


def test_a_protected_alias_waits_for_its_approvals_also_when_the_client_asks(
    console: Console, peer: Peer, workspace: Workspace
) -> None:
    peer("registry_client", "registered_as_it_is_logged", console.url, name="guarded")
    console.cli("models", "require-approval", "guarded", "--roles", "risk")
    with pytest.raises(AssertionError, match="PERMISSION_DENIED"):
        peer("registry_client", "alias", console.url, name="guarded", alias="champion", version="1")
    console.cli("models", "approve", "guarded@1", "--as", "risk")
    peer("registry_client", "alias", console.url, name="guarded", alias="champion", version="1")
    assert registry.resolve(workspace.ledger, "guarded@champion").number == 1


def test_a_source_that_is_not_here_is_kept_as_a_pointer_that_can_not_be_deployed(
    console: Console, peer: Peer, workspace: Workspace
) -> None:
    assert peer("registry_client", "elsewhere", console.url, name="far") == "s3://bucket/model"
    version = registry.resolve(workspace.ledger, "far@1")
    assert version.format == "elsewhere"
    with pytest.raises(AssertionError, match="are not here"):
        console.cli("deploy", "far@1", "--endpoint", "far")
    with pytest.raises(NotFound):
        registry.resolve(workspace.ledger, "far@2")
