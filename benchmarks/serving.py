"""The data plane beside a bare Granian, msgspec and ONNX Runtime application of the same model: one worker each.

Both are up during the whole run and are asked in turns, eight requests under way, by one thread of this process. CPU is that
of the worker processes; requests per second are also bounded by the client, which has to share the machine.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from benchmarks import flights
from benchmarks.features import view_places
from benchmarks.measure import Row, compare, in_turns
from benchmarks.peers.serving_app import Settings
from benchmarks.peers.vectors import write
from flyball.core.plan import Endpoint, Plan, ServedModel, publish
from flyball.core.records import Arm, Field, Route, Signature
from flyball.errors import Unavailable
from flyball.serve.client import Client, Request
from flyball.serve.publish import wait_until_loaded
from flyball.serve.supervisor import where
from flyball.stores.blobs import Blobs

_ROOT = Path(__file__).parents[1]
_ROUNDS = 4  # of 500 requests in each measurement
_START_S = 30.0


class Server(msgspec.Struct, frozen=True):
    """A running server: its process, and a client of it."""

    process: int
    client: Client


class Load(msgspec.Struct, frozen=True):
    """What one measurement found."""

    cpu_us: float  # of the workers, per request
    per_s: float


def measured(repeats: int) -> list[Row]:
    """CPU and throughput, with all features in the request and with twenty of them from LMDB."""
    if not Path("/proc/self/stat").exists():
        raise Unavailable("the CPU of a worker is read from /proc", "run this benchmark on Linux")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        root = Path(folder)
        filled = flights.online(root / "online")
        vectors = flights.vectors(filled)
        names = flights.definitions().delay.features
        plain = [
            Request("plain", features=dict(zip(names, (_float(v) for v in vector), strict=True)))
            for vector in vectors
        ]
        online = [
            Request("online", entities=entities, features=request, at=flights.AT)
            for entities, request in zip(filled.entities, filled.requests, strict=True)
        ]
        model = flights.model_onnx()
        ours = stack.enter_context(_flyball(root, model, filled.url))
        write(
            root / "vectors",
            places := view_places(flights.definitions().delay),
            zip(filled.entities, vectors, strict=True),
        )
        (root / "model.onnx").write_bytes(model)
        settings = Settings(f"{root}/model.onnx", list(names), f"{root}/vectors", places)
        bare = stack.enter_context(_bare(root, settings))
        rows = []
        for what, requests in (("24 features sent", plain), ("20 features from LMDB", online)):
            rows += _beside(what, requests, ours, bare, repeats)
        filled.reader.store.close()
        return rows


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _beside(what: str, requests: list[Request], ours: Server, bare: Server, repeats: int) -> list[Row]:
    """The answers must be equal before they are timed; asking also warms both up."""
    mine, other = (
        [answer["prediction"] for answer in server.client.predict_many(requests)] for server in (ours, bare)
    )
    np.testing.assert_allclose(mine, other, atol=1e-6)
    loads = in_turns(lambda: _load(ours, requests), lambda: _load(bare, requests), repeats)
    return [
        compare(f"{what}, beside a bare app", "us CPU/request", [(a.cpu_us, b.cpu_us) for a, b in loads]),
        compare(f"{what}, beside a bare app", "requests/s", [(a.per_s, b.per_s) for a, b in loads]),
    ]


def _load(server: Server, requests: list[Request]) -> Load:
    """Ask everything a few times over and look at the workers before and after."""
    cpu_before, started = _workers_cpu_s(server.process), time.perf_counter()
    answered = sum(1 for _ in range(_ROUNDS) for _ in server.client.predict_many(requests))
    took_s = time.perf_counter() - started
    return Load((_workers_cpu_s(server.process) - cpu_before) / answered * 1e6, answered / took_s)


def _workers_cpu_s(parent: int) -> float:
    """CPU seconds of the children of a server, user and system; in ticks of 10 ms."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _flyball(root: Path, model: bytes, online: str) -> Iterator[Server]:
    """Our supervisor with one worker and two endpoints of one model."""
    made = flights.definitions()
    signature = Signature(
        tuple(Field(name, "FP32") for name in made.delay.features), (Field("probability", "FP32"),)
    )
    artifact = Blobs.open(f"file:{root}/blobs").put(model)
    served = ServedModel(ref="delays@1", artifact=artifact, format="onnx", signature=signature)
    features = {
        "service": msgspec.to_builtins(made.delay),
        "views": {view.name: msgspec.to_builtins(view) for view in made.VIEWS},
    }
    endpoints = {}
    for name, options in (("plain", {}), ("online", features)):
        arm = Arm(model=served.ref, weight=1.0, role="champion")
        route = Route(endpoint=name, generation=1, arms=(arm,), set_at=datetime.now(UTC))
        endpoints[name] = Endpoint(name=name, route=route, models={served.ref: served}, **options)
    plan = Plan(generation=1, endpoints=endpoints, blobs=f"file:{root}/blobs", online=online, clock="request")
    publish(plan, root / "run" / "plan.json")
    command = ["flyball.serve.supervisor", "--plan", f"{root}/run/plan.json", "--log", f"{root}/log"]
    with _process([*command, "--port", "0", "--workers", "1"], root / "flyball.txt") as process:
        while (running := where(root)) is None:
            _still_starting(process, root / "flyball.txt")
        (ack,) = wait_until_loaded(root, 1, timeout_s=_START_S)
        if ack.error:
            raise Unavailable(f"the worker does not load the plan: {ack.error}")
        yield Server(process.pid, Client(f"http://127.0.0.1:{running.port}"))


@contextmanager
def _bare(root: Path, settings: Settings) -> Iterator[Server]:
    """Granian's own supervisor with one worker of benchmarks/peers/serving_app.py."""
    (root / "bare.json").write_bytes(msgspec.json.encode(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["granian", "--interface", "rsgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--loop", "asyncio", "--http", "1", "--runtime-mode", "st", "--factory", "--no-ws"]
    command += ["benchmarks.peers.serving_app:load"]
    with _process(command, root / "bare.txt", BARE_SETTINGS=f"{root}/bare.json") as process:
        until = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise Unavailable(
                        "the bare application does not start", (root / "bare.txt").read_text()
                    ) from error
                _still_starting(process, root / "bare.txt")
        yield Server(process.pid, Client(f"http://127.0.0.1:{port}"))


@contextmanager
def _process(module: list[str], output: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """``python -m`` with one thread of arithmetic, ended by SIGTERM."""
    ones = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=_ROOT, env={**os.environ, **ones, **environment}, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _still_starting(process: subprocess.Popen[bytes], output: Path) -> None:
    if process.poll() is not None:
        raise Unavailable(f"{process.args!r} ended with {process.returncode}", output.read_text())
    time.sleep(0.05)
