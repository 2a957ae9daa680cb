"""Two runs held against each other: status, metrics, every output; and which of their inputs differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from flyball.core.records import (
    Code,
    Configuration,
    Environment,
    Hardware,
    ModelVersion,
    Report,
    Run,
    Snapshot,
)
from flyball.service.reproducing.alike import How, alike
from flyball.versions import configuration as configurations
from flyball.versions import environment as environments

if TYPE_CHECKING:
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger

T = TypeVar("T")
_GOOD = frozenset({"equal", "within tolerance", "equal but for ids and times", "equal values"})
_MEASURED_ON_THE_SIDE = "system/"  # of the machine, not of the run


class Compared(msgspec.Struct, frozen=True):
    """One metric or output: how it compares, and what it was and is."""

    what: str
    how: How
    before: Any = None
    after: Any = None

    @property
    def good(self) -> bool:
        return self.how in _GOOD


class Difference(msgspec.Struct, frozen=True):
    """One input that is not the same."""

    what: str  # code, environment, data, configuration, seeds, hardware, params
    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.name}: {_said(self.before)} -> {_said(self.after)}"


class Side(msgspec.Struct, frozen=True):
    """A run with the stores that hold what it names."""

    run: Run
    ledger: Ledger
    blobs: Blobs

    def find(self, noun: str, key: str, kind: type[T]) -> T | None:
        return self.ledger.find(noun, key, kind) if key else None


def metrics(before: Side, after: Side, tolerance: float) -> list[Compared]:
    """Metric by metric, those of gates and of registered models too; exact, or within ``tolerance`` as a share."""
    one, two = measured(before), measured(after)
    return [
        _metric(name, one.get(name), two.get(name), tolerance)
        for name in sorted(one.keys() | two.keys())
        if not name.startswith(_MEASURED_ON_THE_SIDE)
    ]


def measured(side: Side) -> dict[str, float]:
    """What a run measured: its own metrics, its gates' and those of the models it registered."""
    found = dict(side.run.metrics)
    for report in side.ledger.ls("report", Report):
        if report.kind == "gate" and report.evidence.get("run") == side.run.id:
            values = report.evidence.get("metrics") or {}
            gate = f"gate of {report.subject.partition(' of ')[0]}"
            found |= {f"{gate}: {name}": float(value) for name, value in values.items() if value is not None}
    for model in side.ledger.ls("model", ModelVersion):
        if model.run == side.run.id:
            found |= {f"model {model.name}: {name}": float(value) for name, value in model.metrics.items()}
    return found


def _metric(name: str, before: float | None, after: float | None, tolerance: float) -> Compared:
    if before is None or after is None:
        return Compared(name, "missing", before, after)
    if before == after or (math.isnan(before) and math.isnan(after)):
        return Compared(name, "equal", before, after)
    close = math.isclose(before, after, rel_tol=tolerance, abs_tol=0.0)
    return Compared(name, "within tolerance" if close else "differs", before, after)


def outputs(before: Side, after: Side) -> list[Compared]:
    """Output by output, by digest; what differs in ids and times alone, or in bytes but not in values, is said so."""
    found = []
    for name in sorted(before.run.outputs.keys() | after.run.outputs.keys()):
        one, two = before.run.outputs.get(name), after.run.outputs.get(name)
        if one is None or two is None:
            found.append(Compared(name, "missing", one, two))
        else:
            found.append(Compared(name, alike(one, before.blobs, two, after.blobs), one, two))
    return found + _artifacts(before, after) + _models(before, after)


def _artifacts(before: Side, after: Side) -> list[Compared]:
    from flyball.stores.artifacts import ArtifactStore

    one, two = (
        {entry.path: entry.digest for entry in ArtifactStore(side.ledger, side.blobs).ls(side.run.id)}
        for side in (before, after)
    )
    return [
        Compared(
            f"artifact {path}",
            alike(one[path], before.blobs, two[path], after.blobs)
            if path in one and path in two
            else "missing",
            one.get(path),
            two.get(path),
        )
        for path in sorted(one.keys() | two.keys())
    ]


def _models(before: Side, after: Side) -> list[Compared]:
    """The versions that each registered, in order: the bytes that are served."""
    first, second = (
        [one for one in side.ledger.ls("model", ModelVersion) if one.run == side.run.id]
        for side in (before, after)
    )
    found = []
    for number in range(max(len(first), len(second))):
        one = first[number] if number < len(first) else None
        two = second[number] if number < len(second) else None
        name = f"model {one.name if one else two.name if two else ''}"
        if one is None or two is None:
            found.append(Compared(name, "missing", one and one.artifact, two and two.artifact))
        else:
            found.append(
                Compared(
                    name,
                    alike(one.artifact, before.blobs, two.artifact, after.blobs),
                    one.artifact,
                    two.artifact,
                )
            )
    return found


def inputs(before: Side, after: Side) -> list[Difference]:
    """Every input that differs: code, environment, data, configuration, parameters, seeds, hardware."""
    return [
        *_code(before, after),
        *_pairs("environment", _environment(before, after)),
        *_data(before, after),
        *_pairs("configuration", _configuration(before, after)),
        *_pairs("params", _changed(before.run.params, after.run.params)),
        *_pairs("seeds", _changed(before.run.seeds, after.run.seeds)),
        *_pairs("hardware", _hardware(before, after)),
    ]


def _pairs(what: str, found: Mapping[str, tuple[Any, Any]]) -> Iterator[Difference]:
    for name, (one, two) in found.items():
        yield Difference(what, name, one, two)


def _changed(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = sorted(one.keys() | two.keys())
    return {name: (one.get(name), two.get(name)) for name in names if one.get(name) != two.get(name)}


def _code(before: Side, after: Side) -> Iterator[Difference]:
    one = before.find("code", before.run.code, Code)
    two = after.find("code", after.run.code, Code)
    if one is None or two is None or one.digest == two.digest:
        return
    for field in ("commit", "patch"):
        if getattr(one, field) != getattr(two, field):
            yield Difference("code", field, getattr(one, field), getattr(two, field))
    for first, second in ((one.sources, two.sources), (one.outside, two.outside)):
        files = ({entry.path: entry.digest for entry in entries} for entries in (first, second))
        yield from _pairs("code", _changed(*files))
    yield from _pairs("code", _changed(_commits(one), _commits(two)))


def _commits(code: Code) -> dict[str, str | None]:
    """Of submodules and of editable packages."""
    nested = {one.path: one.commit for one in code.nested}
    return nested | {name: one.commit for name, one in code.editable.items()}


def _environment(before: Side, after: Side) -> dict[str, tuple[str | None, str | None]]:
    one = before.find("environment", before.run.environment, Environment)
    two = after.find("environment", after.run.environment, Environment)
    return environments.differences(one, two) if one and two else {}


def _configuration(before: Side, after: Side) -> dict[str, tuple[Any, Any]]:
    one = before.find("configuration", before.run.configuration, Configuration)
    two = after.find("configuration", after.run.configuration, Configuration)
    return configurations.differences(one, two, but=("stores",)) if one and two else {}


def _hardware(before: Side, after: Side) -> dict[str, tuple[Any, Any]]:
    one = before.find("hardware", before.run.hardware, Hardware)
    two = after.find("hardware", after.run.hardware, Hardware)
    if one is None or two is None or one.digest == two.digest:
        return {}
    first, second = msgspec.to_builtins(one), msgspec.to_builtins(two)
    return {name: pair for name, pair in _changed(first, second).items() if name != "digest"}


def _data(before: Side, after: Side) -> Iterator[Difference]:
    """The snapshots read, by the digest of their content."""
    first, second = (
        {role: _content(side, of) for role, of in side.run.inputs.items()} for side in (before, after)
    )
    yield from _pairs("data", _changed(first, second))


def _content(side: Side, of: str) -> str:
    ref = of.removeprefix("snapshot:")
    found = side.find("snapshot", ref, Snapshot) if "@" in ref else None
    return f"{ref} {found.digest}" if found else of


def _said(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text[:15] if text.startswith("b3:") else text[:80]
