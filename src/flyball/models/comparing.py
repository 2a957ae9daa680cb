"""Two versions side by side: only what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flyball.core.records import ModelVersion, Run
from flyball.stores.metadata import Ledger

Difference = tuple[str, Any, Any]  # what, in the one, in the other; None where it has none


def differences(ledger: Ledger, one: ModelVersion, other: ModelVersion) -> list[Difference]:
    """What differs between two versions, and between the runs that made them."""
    found: list[Difference] = []
    for what in ("format", "artifact", "feature_service", "gate", "run", "stage", "description", "source"):
        found += _different(what, getattr(one, what) or None, getattr(other, what) or None)
    found += _tables("metric", one.metrics, other.metrics)
    found += _tables("training", one.training, other.training)
    found += _tables("tag", one.tags, other.tags)
    for side in ("inputs", "outputs"):
        fields = [{field.name: _field(field) for field in getattr(v.signature, side)} for v in (one, other)]
        found += _tables(side.removesuffix("s"), *fields)
    runs = [ledger.find("run", v.run, Run) if v.run else None for v in (one, other)]
    if runs[0] is not None and runs[1] is not None and runs[0].id != runs[1].id:
        found += _tables("param", runs[0].params, runs[1].params)
        for what in ("pipeline", "code", "environment", "configuration", "hardware"):
            found += _different(what, getattr(runs[0], what) or None, getattr(runs[1], what) or None)
    return found


def _field(field: Any) -> str:
    return f"{field.datatype} {list(field.shape)}{'' if field.nullable else ', not null'}"


def _different(what: str, before: Any, after: Any) -> Iterator[Difference]:
    if before != after:
        yield what, before, after


def _tables(kind: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*one, *other]):
        yield from _different(f"{kind} {name}", one.get(name), other.get(name))
