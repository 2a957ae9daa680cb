"""A real ``flyball console`` on each metadata engine, and the real MLflow client in a venv of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.peers import python_of

from flyball.demo.setup import free_port
from tests.conftest import ENGINES

HERE = Path(__file__).parent


class Console:
    """A project's folder with its console running."""

    def __init__(self, folder: Path, engine: str, metadata: str = "") -> None:
        self.folder, self.engine = folder, engine
        self.url = f"http://127.0.0.1:{(port := free_port(0))}"
        stores = f'[stores]\nmetadata = "{metadata}"\n' if metadata else ""
        (folder / "flyball.toml").write_text(f"[console]\nport = {port}\n{stores}")
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "console.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flyball", "console"], cwd=self.folder, stdout=log, stderr=log
            )
        until = time.monotonic() + 30
        while time.monotonic() < until and process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    assert json.load(answer)["status"] == "ok"
                return process
            except OSError:
                time.sleep(0.02)
        raise AssertionError((self.folder / "console.log").read_text())

    def kill(self) -> None:
        """As the kernel would: without a word."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Start it again on the same folder and port."""
        self.process = self._start()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        log = (self.folder / "console.log").read_text()
        assert "Traceback" not in log, log

    def cli(self, *words: str) -> Any:
        """The answer of ``flyball WORDS --json`` in this project."""
        done = subprocess.run(
            [sys.executable, "-m", "flyball", *words, "--json"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


class Peer:
    """The interpreter of MLflow's venv, with its client imported."""

    def __init__(self, folder: Path) -> None:
        python = python_of("mlflow")
        ours = ("HOME", "PATH", "LANG", "TMPDIR")
        environment = {name: os.environ[name] for name in ours if name in os.environ}
        environment |= {"PYTHONPATH": str(HERE.parents[2]), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
        environment |= {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "GIT_PYTHON_REFRESH": "quiet",
        }
        self._log = folder / "peer.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [python, "-m", "tests.integration.mlflow.peer"],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def __call__(self, module: str, function: str, uri: str = "", /, **arguments: Any) -> Any:
        """Carry out a function of ``tests.integration.mlflow.peer.MODULE`` there."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        asked = {"module": f"tests.integration.mlflow.peer.{module}", "name": function, "uri": uri}
        self.process.stdin.write(json.dumps({**asked, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        answer = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer["answer"]

    def log(self) -> str:
        """What the client said on its standard error."""
        return self._log.read_text()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """MLflow's client, imported once."""
    opened = Peer(tmp_path_factory.mktemp("peer"))
    yield opened
    opened.close()


@pytest.fixture(scope="session", params=ENGINES)
def console(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console on each engine; tests share it, so each uses names of its own."""
    metadata = request.getfixturevalue("postgres").new() if request.param == "postgres" else ""
    running = Console(tmp_path_factory.mktemp(f"console-{request.param}"), request.param, metadata)
    yield running
    running.stop()
