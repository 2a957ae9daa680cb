"""A model server without Flyball: Granian, msgspec and ONNX Runtime in one RSGI function.

It answers the same requests with the same numbers, and does nothing else: no routing, no checks, no log of predictions,
no counts. BARE_SETTINGS names the JSON file of its :class:`Settings`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as untyped

from benchmarks.peers.vectors import Vectors, ViewPlaces

onnxruntime: Any = untyped  # its stubs export nothing
_HEADERS = [("content-type", "application/json")]


class Settings(msgspec.Struct):
    """The model, the inputs in order, and the features that ``/predict/online`` looks up."""

    model: str
    names: list[str]
    vectors: str
    views: list[ViewPlaces]


class Body(msgspec.Struct, gc=False):
    """What is asked."""

    id: str
    features: dict[str, float | None]
    entities: dict[str, str]


class Answer(msgspec.Struct, gc=False):
    """What is answered."""

    id: str
    prediction: float


_decode = msgspec.json.Decoder(Body).decode
_encode = msgspec.json.Encoder().encode


class App:
    """``POST /predict/plain`` brings every feature, ``POST /predict/online`` the keys to look them up by."""

    def __init__(self, settings: Settings) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(settings.model, options, providers=["CPUExecutionProvider"])
        self._run = session.run
        self._input = session.get_inputs()[0].name
        self._output = [session.get_outputs()[0].name]
        self._names = settings.names
        self._vectors = Vectors(Path(settings.vectors), settings.views)

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        body = _decode(await proto())
        values: list[Any] = [*map(body.features.get, self._names)]
        if scope.path == "/predict/online":
            self._vectors.read(body.entities, values)
        answer = self._run(self._output, {self._input: np.array([values], dtype=np.float32)})[0]
        proto.response_bytes(200, _HEADERS, _encode(Answer(body.id, float(answer[0, 0]))))


def load() -> App:
    """For ``granian --factory``."""
    settings = msgspec.json.decode(Path(os.environ["BARE_SETTINGS"]).read_bytes(), type=Settings)
    return App(settings)
