"""The plan: all that a serving worker knows. The control plane publishes it whole; workers read it whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.records import Route, Signature
from flyball.errors import Invalid


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Someone's Ed25519 signature of a model version, to be checked before it is loaded."""

    statement: str  # the text that was signed: ref, digests, format, inputs and outputs
    signature: str  # base64
    public: str  # base64


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker needs of a model version."""

    ref: str
    artifact: str  # digest of the bytes to load
    format: str  # onnx, skops, xgboost, lightgbm, torch, python, pickle or mlmodel
    signature: Signature
    trusted: bool = True  # a folder from elsewhere runs code only when a person has said that it may
    signed: Signed | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint: its route and every model the route names. ``service`` is a feature service, as builtins."""

    name: str
    route: Route
    models: dict[str, ServedModel]
    service: dict[str, Any] | None = None
    views: dict[str, dict[str, Any]] = {}
    on_demand: dict[str, dict[str, Any]] = {}
    deadline_ms: int = 1000
    candidate_share: float = 0.5  # of the deadline; then the champion answers
    alpha: float = 0.05  # level of the worker's own breaker
    shadow_candidate: bool = True  # score the arm that did not answer too, after the answer


class ServedFeatures(msgspec.Struct, frozen=True, kw_only=True):
    """What workers read by themselves when features are asked for: applied definitions, as builtins, by name."""

    services: dict[str, dict[str, Any]] = {}
    views: dict[str, dict[str, Any]] = {}  # older versions that a service names among them, as ``view@2``
    on_demand: dict[str, dict[str, Any]] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is served, at one generation."""

    generation: int
    endpoints: dict[str, Endpoint] = {}
    blobs: str = ""
    online: str = ""
    clock: str = "system"
    max_body_bytes: int = 16 * 1024 * 1024
    trusted_keys: tuple[str, ...] = ()  # public keys, base64, whose signatures count
    require_signature: bool = False
    features: ServedFeatures = ServedFeatures()


_decoder = msgspec.json.Decoder(Plan)


def read(path: Path) -> Plan:
    """The plan in force; an empty one when nothing was published yet."""
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        return Plan(generation=0)
    except msgspec.DecodeError as error:
        raise Invalid(f"{path} is not a plan: {error}", "flyball deploy publishes it anew") from error


def publish(plan: Plan, path: Path) -> None:
    """Put the plan in force: written beside, flushed, renamed. A reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    with staged.open("wb") as file:
        file.write(msgspec.json.encode(plan))
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
