"""A ledger with model versions that cost no training: ready-made records through the registry's own door."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flyball.core.clock import ManualClock
from flyball.core.hashing import digest_bytes
from flyball.core.records import Field, ModelVersion, Route, Signature
from flyball.heal import traffic
from flyball.models import registry
from flyball.stores.metadata import Ledger

START = datetime(2013, 4, 1, tzinfo=UTC)
SIGNATURE = Signature((Field("a", "FP32"),), (Field("probability", "FP32", nullable=False),))


def new_ledger() -> tuple[Ledger, ManualClock]:
    clock = ManualClock(START)
    return Ledger.open("sqlite://", clock), clock


def draft(name: str = "delays", data: bytes = b"model", **fields: Any) -> ModelVersion:
    return ModelVersion(
        name=name,
        number=0,
        artifact=digest_bytes(data),
        format="onnx",
        signature=SIGNATURE,
        created=START,
        **fields,
    )


def add(ledger: Ledger, name: str = "delays", **fields: Any) -> ModelVersion:
    return registry.add(ledger, draft(name, **fields), actor="person:ann")


def serve(ledger: Ledger, clock: ManualClock, ref: str, endpoint: str = "delays", **given: Any) -> Route:
    """Route an endpoint to a version, as deploying does."""
    route = traffic.champion_only(
        endpoint, ref, at=clock.now(), because=given.pop("because", "asked for by a person")
    )
    with ledger.transaction() as tx:
        sets = traffic.changes(tx, route, at=clock.now(), **given)
        tx.append("route.deployed", endpoint, actor="person:ann", sets=sets)
    return traffic.route_of(ledger, endpoint)
