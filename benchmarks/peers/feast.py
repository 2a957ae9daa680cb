"""Our side of the real Feast: one child process, started once, answering one call at a time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.peers import HERE, python_of

_ENVIRONMENT = {"FEAST_USAGE": "False", "FEAST_DISABLE_TELEMETRY": "1"}


class Feast:
    """The child. ``cpu_s`` and ``wall_s`` are what its last call took; ``started_cpu_s`` what starting took."""

    def __init__(self) -> None:
        import os

        python = python_of("feast")
        self._child = subprocess.Popen(
            [python, "-P", HERE / "feast_child.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT}, text=True,
        )  # fmt: skip
        self.started_cpu_s = float(self._line()["cpu_s"])
        self.cpu_s = self.wall_s = 0.0

    def __enter__(self) -> Feast:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, do: str, **asked: Any) -> Any:
        """One call; what Feast raises is a RuntimeError here, with its trace."""
        assert self._child.stdin is not None
        said = {key: str(value) if isinstance(value, Path) else value for key, value in asked.items()}
        self._child.stdin.write(json.dumps({"do": do, **said}) + "\n")
        self._child.stdin.flush()
        answer = self._line()
        self.cpu_s, self.wall_s = answer["call_cpu_s"], answer["wall_s"]
        if "error" in answer:
            raise RuntimeError(f"{answer['error']}\n{answer['trace']}")
        return answer["ok"]

    def close(self) -> None:
        """End the child; what it was told to write is written."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)
        self._child.stdout.close()

    def _line(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"Feast ended with {self._child.wait()}")
        return json.loads(line)
