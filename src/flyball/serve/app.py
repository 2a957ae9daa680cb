"""The HTTP face of a worker, in RSGI. Hand-written hot path: paths are matched by hand, bodies decoded by msgspec.

Routes: ``POST /predict/{endpoint}``, ``POST /feedback``, ``POST /features/{service}``, ``POST /get-online-features``
(Feast's), ``/v2/…`` (Open Inference Protocol), ``/health`` and ``/metrics``.
Every error has the body of :mod:`flyball.errors`, and none has a stack trace.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import msgspec

from flyball import __version__
from flyball.core.clock import SystemClock, to_us
from flyball.errors import FlyballError, Internal, Invalid, NotFound
from flyball.serve.answering import Answering, Row, new_id
from flyball.serve.features import feast_error
from flyball.serve.metrics import Metrics, exposition, together
from flyball.serve.runtime import LoadedModel
from flyball.serve.serving import NOTHING, LoadedEndpoint, Serving
from flyball.stores.prediction_log import Label, Prediction
from flyball.wire import oip
from flyball.wire.predict import (
    Answer,
    Answers,
    Instance,
    PredictBody,
    encode_answer,
    read_labels,
    read_predict,
    read_time,
)

T = TypeVar("T")
log = logging.getLogger(__name__)
_JSON = [("content-type", "application/json")]
_TEXT = [("content-type", "text/plain; version=0.0.4; charset=utf-8")]
_PATHS = (
    "POST /predict/{endpoint}, POST /feedback, GET /features, POST /features/{service}, POST /get-online-features, "
    "GET /health, GET /metrics, GET /v2, GET /v2/health/live, "
    "GET /v2/health/ready, GET /v2/models/{endpoint}[/versions/{n}][/ready], POST /v2/models/{endpoint}[…]/infer"
)
_DRAIN_BYTES = (
    64 * 1024 * 1024
)  # a body that is too large is still read this far, so that its sender hears why

Reply = tuple[int, bytes]


class MethodNotAllowed(Invalid):
    """That path exists, with another method."""

    http_status = 405


class TooLarge(Invalid):
    """The body is longer than the plan allows."""

    http_status = 413


class App:
    """What Granian calls for each request. ``serving`` is swapped whole by the worker's plan watcher."""

    def __init__(
        self, answering: Answering, metrics: Metrics, run_dir: Path, on_exit: Callable[[], None]
    ) -> None:
        self.serving: Serving = NOTHING
        self.answering = answering
        self.metrics = metrics
        self.run_dir = run_dir
        self._on_exit = on_exit

    def __rsgi_del__(self, loop: Any) -> None:
        self._on_exit()

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        path: str = scope.path
        headers = _JSON
        try:
            if path.startswith("/predict/") and scope.method == "POST":
                status, body = await self._predict(path[9:], await self._body(scope, proto))
            elif path == "/metrics" and scope.method in ("GET", "HEAD"):
                headers = _TEXT
                counted = together(self.metrics, self.run_dir)
                status, body = 200, exposition(counted, self.serving.plan.generation).encode()
            else:
                status, body = await self._other(path, scope, proto)
        except FlyballError as error:
            headers, status, body = _JSON, error.http_status, _error(error)
            if status < 500:
                self.metrics.count("refused")
        except Exception as raised:
            log.exception("a request failed in our own code", extra={"path": path})
            failure = Internal(
                f"the server failed ({type(raised).__name__})", "report it with the server's log"
            )
            headers, status, body = _JSON, 500, _error(failure)
        proto.response_bytes(status, headers, body)

    async def _body(self, scope: Any, proto: Any) -> bytes:
        most = self.serving.plan.max_body_bytes
        length: str | None = scope.headers.get("content-length")
        if length is not None and length.isdigit() and int(length) <= most:
            whole: bytes = await proto()
            return whole
        chunks: list[bytes] = []
        size = 0
        async for chunk in proto:
            size += len(chunk)
            if size <= most:
                chunks.append(chunk)
            elif size > most + _DRAIN_BYTES:
                break
            else:
                chunks.clear()
        if size > most:
            raise TooLarge(
                f"the body has {length or f'at least {size}'} bytes, at most {most} are taken",
                "send fewer rows at once, or raise serve.max_body_bytes in flyball.toml",
                field="body",
                max_body_bytes=most,
            )
        return b"".join(chunks)

    async def _predict(self, name: str, body: bytes) -> Reply:
        started_ns = time.perf_counter_ns()
        serving = self.serving
        endpoint = serving.endpoint(unquote(name) if "%" in name else name)
        asked = read_predict(body)
        rows = (
            await _apart(True, lambda: self._rows(endpoint, serving, asked))
            if endpoint.lookup.waits
            else self._rows(endpoint, serving, asked)
        )
        generation = serving.plan.generation
        records = await self.answering.answer(endpoint, rows, generation=generation, started_ns=started_ns)
        answers = [_answer(record) for record in records]
        return 200, encode_answer(answers[0] if isinstance(asked, PredictBody) else Answers(answers))

    def _rows(
        self, endpoint: LoadedEndpoint, serving: Serving, asked: PredictBody | list[Instance]
    ) -> list[Row]:
        if isinstance(asked, PredictBody):
            return [self._row(endpoint, serving, asked)]
        return [self._row(endpoint, serving, one, f"instances[{at}].") for at, one in enumerate(asked)]

    def _row(
        self, endpoint: LoadedEndpoint, serving: Serving, asked: PredictBody | Instance, where: str = ""
    ) -> Row:
        try:
            if asked.at is None:
                at_us = time.time_ns() // 1000
            elif serving.plan.clock == "request":
                at_us = read_time(asked.at, "at")
            else:
                raise Invalid(
                    "this server tells the time itself; at is not taken",
                    'set serve.clock = "request" in flyball.toml, for replays only',
                    field="at",
                    setting="serve.clock",
                )
            return self.answering.row(endpoint, asked.entities, asked.features, id=asked.id, at_us=at_us)
        except Invalid as error:
            if where and "field" in error.facts:
                error.facts["field"] = where + error.facts["field"]
            raise

    async def _other(self, path: str, scope: Any, proto: Any) -> Reply:
        parts = [unquote(part) for part in path.strip("/").split("/")]
        method: str = "GET" if scope.method == "HEAD" else scope.method
        match parts:
            case ["predict", _] | ["feedback"]:
                _only(method, "POST")
                return self._feedback(await self._body(scope, proto))
            case ["features"]:
                _only(method, "GET")
                return 200, msgspec.json.encode(self.serving.features.listed())
            case ["features", service]:
                _only(method, "POST")
                answers, body = self.serving.features, await self._body(scope, proto)
                return 200, await _apart(answers.waits, lambda: answers.answer(service, body))
            case ["get-online-features"]:
                _only(method, "POST")
                return await self._feast(await self._body(scope, proto))
            case ["health"]:
                _only(method, "GET")
                return 200, msgspec.json.encode(self._health())
            case ["metrics"]:
                _only(method, "GET")
            case ["v2"]:
                _only(method, "GET")
                return 200, msgspec.json.encode({"name": "flyball", "version": __version__, "extensions": []})
            case ["v2", "health", "live"]:
                _only(method, "GET")
                return 200, b'{"live":true}'
            case ["v2", "health", "ready"]:
                _only(method, "GET")
                return self._ready()
            case ["v2", "models", name, *rest]:
                return await self._v2(name, rest, method, scope, proto)
        raise NotFound(f"no path {path[:200]!r}", f"known: {_PATHS}", path=path[:200])

    async def _feast(self, body: bytes) -> Reply:
        answers = self.serving.features
        try:
            return 200, await _apart(answers.waits, lambda: answers.answer_feast(body))
        except FlyballError as error:
            self.metrics.count("refused", error.http_status < 500)
            return error.http_status, feast_error(error)

    async def _v2(self, name: str, rest: list[str], method: str, scope: Any, proto: Any) -> Reply:
        version = None
        if len(rest) >= 2 and rest[0] == "versions":
            version, rest = rest[1], rest[2:]
        if rest == ["infer"]:
            _only(method, "POST")
            return await self._infer(name, version, await self._body(scope, proto))
        if rest not in ([], ["ready"]):
            raise NotFound(f"no path below the model {name!r}: {'/'.join(rest)[:200]}", f"known: {_PATHS}")
        _only(method, "GET")
        endpoint = self.serving.endpoint(name)
        model = endpoint.champion if version is None else endpoint.model(version)
        if rest == ["ready"]:
            return 200, msgspec.json.encode({"name": name, "ready": True})
        versions = [ref.rpartition("@")[2] for ref in endpoint.models]
        platform = "onnx_onnxv1" if model.format == "onnx" else f"flyball_{model.format}"
        return 200, msgspec.json.encode(oip.metadata(name, versions, platform, model.signature))

    async def _infer(self, name: str, version: str | None, body: bytes) -> Reply:
        started_ns = time.perf_counter_ns()
        serving = self.serving
        endpoint = serving.endpoint(name)
        pinned: LoadedModel | None = None if version is None else endpoint.model(version)
        signature = endpoint.signature if pinned is None else pinned.signature
        values, request_id = oip.read_infer(body, signature)
        at_us = time.time_ns() // 1000
        stem = request_id or new_id(at_us)
        bare = self.answering.bare_row
        # One draw for the whole request: what is randomised is the request, and its rows fail together.
        first = bare(endpoint, values[0], id=stem, at_us=at_us, key=request_id or "")
        rows = [first]
        if len(values) > 1:
            rows = [
                Row(f"{stem}.{at}", at_us, {}, row, first.times_us, first.draw)
                for at, row in enumerate(values)
            ]
        records = await self.answering.answer(
            endpoint, rows, generation=serving.plan.generation, started_ns=started_ns, pinned=pinned
        )
        parameters = {
            "ids": [record.id for record in records],
            "arm": records[0].arm,
            "probability": _probability(records[0]),
            "fallback": records[0].fallback,
        }
        answered_by = records[0].model.rpartition("@")[2]
        outputs = [record.output for record in records]
        return 200, oip.infer_answer(
            name, answered_by, signature, outputs, request_id=request_id, parameters=parameters
        )

    def _feedback(self, body: bytes) -> Reply:
        now_us = to_us(SystemClock().now())
        labels = [
            Label(id, value, now_us if known_us is None else known_us, now_us)
            for id, value, known_us in read_labels(body)
        ]
        if labels:
            self.answering.writer.append(labels)
            self.metrics.count("labels", len(labels))
        return 200, msgspec.json.encode({"accepted": len(labels)})

    def _health(self) -> dict[str, Any]:
        serving = self.serving
        return {
            "status": "ok" if not serving.failures else "degraded",
            "pid": os.getpid(),
            "generation": serving.plan.generation,
            "failures": dict(serving.failures),
            "endpoints": {
                name: {
                    "champion": endpoint.champion.ref,
                    "candidate": endpoint.router.candidate,
                    "rho": endpoint.rho,
                    "tripped": endpoint.breaker.tripped,
                }
                for name, endpoint in serving.endpoints.items()
            },
        }

    def _ready(self) -> Reply:
        serving = self.serving
        unavailable = {
            name: serving.failures.get(name, "")
            for name in serving.plan.endpoints
            if name not in serving.endpoints
        }
        ready = not unavailable
        body = {"ready": ready, "generation": serving.plan.generation, "failures": dict(serving.failures)}
        return 200 if ready else 503, msgspec.json.encode(body)


async def _apart(waits: bool, work: Callable[[], T]) -> T:
    """What may wait for the network is done in a thread, so that other requests go on; the rest where it is called."""
    return await asyncio.get_running_loop().run_in_executor(None, work) if waits else work()


def _only(method: str, allowed: str) -> None:
    if method != allowed:
        raise MethodNotAllowed(
            f"{method} is not allowed here", f"use {allowed}", method=method, allowed=allowed
        )


def _answer(record: Prediction) -> Answer:
    return Answer(record.id, record.output, record.model, record.arm, _probability(record), record.fallback)


def _probability(record: Prediction) -> float:
    """How probable the arm was that this row was assigned to."""
    if record.arm == "pinned":
        return 1.0
    return record.rho if record.arm == "candidate" else 1.0 - record.rho


def _error(error: FlyballError) -> bytes:
    body = error.as_json()
    if isinstance(error, Invalid):
        body["error"] = "Invalid"  # a client rebuilds the type from this word
    return msgspec.json.encode(body, enc_hook=str)
