"""A real data plane for the tests of this folder: supervisor and workers as processes, models in a blob store."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from flyball.core.plan import Endpoint, Plan, ServedModel, publish
from flyball.core.records import Arm, Field, Route, Signature
from flyball.errors import Unavailable
from flyball.serve.client import Client
from flyball.serve.publish import Ack, acks, wait_until_loaded
from flyball.serve.supervisor import where
from flyball.stores.blobs import Blobs
from flyball.stores.prediction_log import Tail
from flyball.stores.predictions import Predictions

HERE = Path(__file__).parent
SIGNATURE = Signature(
    (Field("wind", "FP32"), Field("hour", "FP32", nullable=False)), (Field("probability", "FP32"),)
)
FEATURES = {"wind": 0.5, "hour": 9.0}


def logistic_onnx(weights: list[float]) -> bytes:
    """sigmoid(x . weights), made with onnx.helper."""
    from onnx import TensorProto, helper, numpy_helper

    matrix = np.array(weights, dtype=np.float32).reshape(-1, 1)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "weights"], ["score"]),
            helper.make_node("Sigmoid", ["score"], ["probability"]),
        ],
        "logistic",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, len(weights)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(matrix, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


class Plane:
    """One data plane on a free port, its state under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log_dir = root / "log"
        self.blobs = Blobs.open(f"file:{root}/blobs")
        self.generation = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.output = root / "output.txt"

    def onnx(self, ref: str, weights: list[float]) -> ServedModel:
        return self._model(ref, logistic_onnx(weights), "onnx")

    def pickled(self, ref: str, model: Any) -> ServedModel:
        return self._model(ref, pickle.dumps(model), "pickle")

    def _model(self, ref: str, data: bytes, format: str) -> ServedModel:
        return ServedModel(ref=ref, artifact=self.blobs.put(data), format=format, signature=SIGNATURE)

    def publish(
        self,
        champion: ServedModel,
        candidate: ServedModel | None = None,
        *,
        rho: float = 0.1,
        endpoint: dict[str, Any] | None = None,
        **settings: Any,
    ) -> int:
        """Put a plan in force with one endpoint, ``delays``; returns its generation."""
        self.generation += 1
        arms = [Arm(model=champion.ref, weight=1.0 - (rho if candidate else 0.0), role="champion")]
        models = {champion.ref: champion}
        if candidate is not None:
            arms.append(Arm(model=candidate.ref, weight=rho, role="candidate"))
            models[candidate.ref] = candidate
        route = Route(
            endpoint="delays", generation=self.generation, arms=tuple(arms), set_at=datetime.now(UTC)
        )
        made = Endpoint(name="delays", route=route, models=models, **(endpoint or {}))
        plan = Plan(
            generation=self.generation,
            endpoints={"delays": made},
            blobs=f"file:{self.root}/blobs",
            **settings,
        )
        publish(plan, self.root / "run" / "plan.json")
        return self.generation

    def command(self, port: int = 0, workers: int = 2) -> list[str]:
        command = [sys.executable, "-m", "flyball.serve.supervisor", "--plan", f"{self.root}/run/plan.json"]
        return [*command, "--log", str(self.log_dir), "--port", str(port), "--workers", str(workers)]

    def start(self, workers: int = 2, **popen: Any) -> Client:
        with self.output.open("ab") as output:
            environment = {**os.environ, "PYTHONPATH": str(HERE)}
            self.process = subprocess.Popen(
                self.command(workers=workers), stdout=output, stderr=output, env=environment, **popen
            )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            running = where(self.root)
            if running is not None and len(acks(self.root)) == workers:
                self.port = running.port
                return self.client()
            assert self.process.poll() is None, self.output.read_text()
            time.sleep(0.02)
        raise Unavailable("the data plane did not start", self.output.read_text())

    def client(self, **options: Any) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", **options)

    def loaded(self, generation: int) -> list[Ack]:
        return wait_until_loaded(self.root, generation, timeout_s=15.0)

    def tail(self) -> Tail:
        return Tail(self.log_dir)

    def predictions(self) -> Predictions:
        return Predictions(self.log_dir, self.root / "tables")

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


@pytest.fixture
def plane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    monkeypatch.syspath_prepend(str(HERE))
    made = Plane(tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop()


@pytest.fixture
def raw() -> Callable[..., tuple[int, dict[str, Any]]]:
    """One HTTP request as given, by http.client: status and JSON body."""
    from http.client import HTTPConnection

    def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, msgspec.json.decode(answer.read())
        finally:
            connection.close()

    return ask
