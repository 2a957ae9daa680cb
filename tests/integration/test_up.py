"""A new project as a user would live it: init, train, deploy, up, predict, label, explain, kill, down. Real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flyball.demo.setup import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
pytest.importorskip("sklearn", reason="the template trains a model: pip install 'flyball[sklearn]'")


class Project:
    """A project and its command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "flyball", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))

    def wait(self, what: Callable[[], bool], for_s: float = 30.0) -> None:
        until = time.monotonic() + for_s
        while time.monotonic() < until:
            if what():
                return
            time.sleep(0.05)
        logs = {file.name: file.read_text()[-500:] for file in (self.folder / ".flyball/run").glob("*.log")}
        raise AssertionError(f"it did not come about: {logs}")

    def pid(self, part: str) -> int:
        return int((self.folder / ".flyball" / "run" / f"{part}.pid").read_text())


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("up")
    project = Project(folder)
    project.run("init")
    settings = folder / "flyball.toml"
    ports = f"[serve]\nport = {free_port(0)}\n[console]\nport = {free_port(0)}\n[govern]\nevery_s = 0.2\n"
    settings.write_text(settings.read_text() + ports)
    project.run("data", "add", "customers", "customers.csv")
    assert "registered churn@1 (onnx)" in project.run("run", "train")
    project.run("deploy", "churn@challenger", "--endpoint", "churn")
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flyball", "up"], cwd=folder, stdout=log, stderr=log
        )
    try:
        project.wait(lambda: len(list((folder / ".flyball/run/workers").glob("[0-9]*.json"))) == 2)
        project.wait(lambda: (folder / ".flyball/run/govern.pid").exists() and console_answers(project))
        yield project
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def console(project: Project, path: str) -> bytes:
    port = next(row["value"] for row in project.json("config", "show") if row["setting"] == "console.port")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        found: bytes = answer.read()
    return found


def console_answers(project: Project) -> bool:
    try:
        return b"ok" in console(project, "/health")
    except OSError:
        return False


FEATURES = ("--feature", "months=3", "--feature", "monthly_charge=90", "--feature", "support_calls=4")


def test_a_prediction_is_answered_labelled_and_explained(up: Project) -> None:
    answer = up.json("predict", "churn", *FEATURES)
    assert 0.0 <= answer["prediction"] <= 1.0
    up.run("label", answer["id"], "1")
    explained = up.json("explain", answer["id"], "--verify")
    assert explained["verified"] is True
    assert explained["tree"]["facts"]["label"] == 1.0
    kinds = [one["what"] for one in explained["tree"]["of"]]
    assert kinds[:2] == ["model", "features"]


def test_a_request_with_a_missing_field_is_a_clear_error(up: Project) -> None:
    said = up.run("predict", "churn", "--feature", "months=3", code=2)
    assert "monthly_charge" in said or "support_calls" in said
    assert "no endpoint" in up.run("predict", "churm", *FEATURES, code=3)


def test_a_second_up_on_the_same_folder_is_a_conflict(up: Project) -> None:
    assert f"runs already for this project (pid {up.pid('up')})" in up.run("up", code=4)


@pytest.mark.parametrize("part", ["console", "govern", "serve"])
def test_a_part_that_is_killed_comes_back_and_predictions_go_on(up: Project, part: str) -> None:
    before = up.pid(part)
    os.kill(before, signal.SIGKILL)
    up.wait(lambda: (up.folder / f".flyball/run/{part}.pid").exists() and up.pid(part) != before)
    if part == "serve":
        up.wait(lambda: bool(up.json("status")["processes"]["serve"].startswith("pid")))
    up.wait(lambda: 0.0 <= float(up.json("predict", "churn", *FEATURES)["prediction"]) <= 1.0)


def test_verbs_answer_over_http_with_the_shapes_of_the_command_line(up: Project) -> None:
    up.wait(lambda: console_answers(up))
    over_http = json.loads(console(up, "/api/models/ls"))
    assert over_http == up.json("models", "ls")
    with pytest.raises(urllib.error.HTTPError) as refused:
        console(up, "/api/models/show?ref=nope")
    assert refused.value.code == 404
    assert set(json.loads(refused.value.read())) == {"error", "what", "hint", "facts"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        console(up, "/api/promote?endpoint=churn")  # what changes something wants POST
    described = json.loads(console(up, "/openapi.json"))
    assert "/api/data/add" in described["paths"]


def test_the_console_shows_what_serves(up: Project) -> None:
    up.wait(lambda: console_answers(up))
    page = console(up, "/").decode()
    assert "churn@1" in page
    assert "champion" in page
    assert "<script" not in page
    content = json.loads(console(up, "/index.json"))
    assert content["routes"][0]["endpoint"] == "churn"
