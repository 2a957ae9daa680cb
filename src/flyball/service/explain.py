"""``flyball explain``: a prediction's lineage, down to the bytes it was learned from; with --verify every digest rechecked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from flyball.core.hashing import digest_bytes
from flyball.core.records import (
    Alias,
    Code,
    Decision,
    Environment,
    ModelVersion,
    Report,
    Route,
    Run,
    Snapshot,
)
from flyball.errors import FlyballError, NotFound, Refused
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


class Node(msgspec.Struct, kw_only=True):
    """One thing of the lineage: what it is, its facts, what it was made from, and whether its digest holds."""

    what: str
    name: str
    facts: dict[str, Any] = {}
    verified: bool | None = None  # None: not asked for
    broken: str = ""
    of: list[Node] = []


class Explanation(msgspec.Struct, kw_only=True):
    """The tree, and what of it is not what it was."""

    id: str
    tree: Node
    verified: bool | None
    broken: list[str]
    objects: int

    @property
    def exit_code(self) -> int:
        return 1 if self.broken else 0

    def as_text(self) -> str:
        """The tree for people."""
        lines = list(_lines(self.tree, ""))
        if self.verified is not None:
            verdict = (
                "every digest holds" if not self.broken else "NOT what it was: " + "; ".join(self.broken)
            )
            lines.append(f"\nverified {self.objects} objects: {verdict}")
        return "\n".join(lines)


@verb("explain", reads=True)
def explain(prediction: str, verify: bool = False, *, ws: Workspace = CURRENT) -> Explanation:
    """Explain a prediction (or a model, run or snapshot): what it was made from, and who put it in service.

    --verify recomputes every digest on the way; exit 1 names each object that is not what it was.
    """
    check = _Check(ws, verify)
    if prediction.startswith("run_"):
        tree = _run(check, prediction)
    elif "@" in prediction and prediction in ws.ledger.keys("snapshot"):
        tree = _snapshot(check, prediction)
    elif "@" in prediction:
        from flyball.models import registry

        tree = _model(check, registry.resolve(ws.ledger, prediction).ref)
    else:
        tree = _prediction(check, prediction)
    return Explanation(
        id=prediction,
        tree=tree,
        verified=not check.broken if verify else None,
        broken=check.broken,
        objects=check.objects,
    )


class _Check:
    """Rechecks objects when asked to, each once, and remembers what was broken."""

    def __init__(self, ws: Workspace, verify: bool) -> None:
        self.ws = ws
        self.verify = verify
        self.broken: list[str] = []
        self.objects = 0
        self._seen: dict[str, str] = {}

    def blob(self, node: Node, digest: str) -> None:
        """Recompute the digest of stored bytes."""
        self._note(node, digest, lambda: self._blob(digest))

    def record(self, node: Node, noun: str, key: str) -> None:
        """Recheck a record against the ledger's chain."""
        self._note(node, f"{noun} {key}", lambda: self.ws.ledger.verify(noun, key))

    def event(self, node: Node, seq: int, name: str) -> None:
        """Recheck an event against the chain."""
        self._note(node, f"event {name}", lambda: self.ws.ledger.verify_event(seq))

    def content(self, node: Node, name: str, expected: str, found: str) -> None:
        """Compare a recomputed digest."""
        self._note(node, name, lambda: "" if expected == found else f"{name} has changed")

    def _blob(self, digest: str) -> str:
        try:
            data = self.ws.blobs.read_unchecked(digest)
        except NotFound:
            return f"blob {digest} is gone"
        return "" if digest_bytes(data) == digest else f"blob {digest} has changed"

    def _note(self, node: Node, key: str, look: Any) -> None:
        if not self.verify:
            return
        if key not in self._seen:
            self.objects += 1
            try:
                self._seen[key] = look()
            except FlyballError as error:
                self._seen[key] = f"{key} can't be read: {error.what}"
            if self._seen[key]:
                self.broken.append(self._seen[key])
        if self._seen[key]:
            node.verified, node.broken = False, self._seen[key]
        elif node.verified is None:
            node.verified = True


_SHOWN = (
    "endpoint",
    "model",
    "assigned",
    "arm",
    "rho",
    "output",
    "fallback",
    "error",
    "latency_us",
    "entities",
    "label",
)


def _prediction(check: _Check, identifier: str) -> Node:
    from flyball.core.clock import from_us
    from flyball.stores.predictions import seal_of

    if check.verify and (changed := check.ws.predictions.changed(identifier)):
        raise Refused(
            f"the prediction log is not what was written: {'; '.join(changed)}",
            "flyball restore BACKUP brings it back; without --verify what can still be read is shown",
            broken=changed,
        )
    row = check.ws.predictions.find(identifier)
    facts = {
        "at": from_us(row["at_us"]),
        **{name: row[name] for name in _SHOWN if row[name] not in (None, "", [])},
    }
    node = Node(what="prediction", name=identifier, facts=facts)
    check.content(node, f"prediction {identifier}", row["seal"], seal_of(row))
    node.of = [_model(check, row["model"]), _features(check, row)]
    cause = _route_cause(check, row["endpoint"], row["generation"])
    if cause is not None:
        node.of.append(cause)
    return node


def _features(check: _Check, row: dict[str, Any]) -> Node:
    """The values the model was given, each with the time at which its newest part happened."""
    from flyball.core.clock import from_us

    version = check.ws.ledger.get("model", row["model"], ModelVersion)
    names = [field.name for field in version.signature.inputs]
    facts: dict[str, Any] = {}
    for name, value, at in zip(names, row["features"], row["times_us"] or [None] * len(names), strict=False):
        facts[name] = value if at is None else f"{_short(value)} of {from_us(at):%Y-%m-%d %H:%M}"
    node = Node(what="features", name=f"{len(names)} values", facts=facts)
    if version.feature_service is not None:
        node.name += f" of {version.feature_service}"
        check.record(node, "service", version.feature_service)
        for ref in check.ws.ledger.get("service", version.feature_service, dict)["views"]:
            view = check.ws.ledger.get("view", ref, dict)
            child = Node(what="view", name=ref, facts={"source": view["source"], "entity": view["entity"]})
            check.record(child, "view", ref)
            node.of.append(child)
    return node


def _route_cause(check: _Check, endpoint: str, generation: int) -> Node | None:
    """Who or what put this version in service: the event that set the route, and its decision."""
    for event in check.ws.ledger.events(subject=endpoint):
        for change in event.sets:
            if change.noun != "route" or change.content is None or change.content["generation"] != generation:
                continue
            route = msgspec.convert(change.content, Route)
            arms = ", ".join(f"{arm.model} {arm.weight:.0%}" for arm in route.arms)
            node = Node(
                what="route",
                name=f"{endpoint} generation {generation}",
                facts={"at": event.at, "arms": arms, "by": event.actor, "because": route.because},
            )
            check.event(node, event.seq, event.id)
            for other in event.sets:
                if other.noun == "decision":
                    node.of.append(_decision(check, other.key))
            return node
    return None


def _decision(check: _Check, key: str) -> Node:
    decision = check.ws.ledger.get("decision", key, Decision)
    node = Node(
        what="decision",
        name=key,
        facts={"action": decision.action, "because": decision.because, "evidence": decision.evidence},
    )
    check.record(node, "decision", key)
    return node


def _model(check: _Check, ref: str) -> Node:
    ws = check.ws
    version = ws.ledger.get("model", ref, ModelVersion)
    aliases = [a.alias for a in ws.ledger.ls("alias", Alias) if f"{a.model}@{a.number}" == ref]
    node = Node(
        what="model",
        name=ref,
        facts={
            "format": version.format,
            "registered": version.created,
            "aliases": ", ".join(aliases),
            "feature_service": version.feature_service,
            "metrics": version.metrics,
            "export": version.export,
            "note": version.note,
        },
    )
    node.facts = {name: value for name, value in node.facts.items() if value}
    check.record(node, "model", ref)
    node.of.append(_blob(check, "model bytes", version.artifact))
    if version.native:
        node.of.append(_blob(check, "native model", version.native))
    if version.gate:
        node.of.append(_report(check, version.gate))
    if version.run:
        node.of.append(_run(check, version.run))
    return node


def _blob(check: _Check, what: str, digest: str) -> Node:
    node = Node(what=what, name=digest)
    if digest in check.ws.blobs:
        node.facts = {"bytes": check.ws.blobs.size_bytes(digest)}
    check.blob(node, digest)
    return node


def _report(check: _Check, key: str) -> Node:
    report = check.ws.ledger.get("report", key, Report)
    node = Node(
        what=report.kind,
        name=key,
        facts={"passed": report.passed, "summary": report.summary, "at": report.at},
    )
    check.record(node, "report", key)
    return node


def _run(check: _Check, key: str) -> Node:
    ws = check.ws
    run = ws.ledger.get("run", key, Run)
    node = Node(
        what="run",
        name=key,
        facts={
            "pipeline": run.pipeline,
            "started": run.started,
            "params": run.params,
            "by": run.actor,
            "because": run.because,
        },
    )
    check.record(node, "run", key)
    code = ws.ledger.find("code", run.code, Code)
    if code is not None:
        node.of.append(_code(check, code))
    environment = ws.ledger.find("environment", run.environment, Environment)
    if environment is not None:
        node.of.append(_environment(check, environment))
    for ref in dict.fromkeys(value.removeprefix("snapshot:") for value in run.inputs.values()):
        if ws.ledger.find("snapshot", ref, Snapshot) is not None:
            node.of.append(_snapshot(check, ref))
    if run.because.startswith("dec_"):
        node.of.append(_decision(check, run.because))
    return node


def _code(check: _Check, code: Code) -> Node:
    node = Node(what="code", name=code.digest, facts={"commit": code.commit, "branch": code.branch})
    node.facts = {name: value for name, value in node.facts.items() if value}
    check.record(node, "code", code.digest)
    if code.patch:
        node.of.append(_blob(check, "uncommitted patch", code.patch))
    for source in code.sources:
        one = Node(what="source", name=source.path)
        check.blob(one, source.digest)
        node.of.append(one)
    return node


def _environment(check: _Check, environment: Environment) -> Node:
    node = Node(
        what="environment",
        name=environment.digest,
        facts={
            "python": environment.python,
            "platform": environment.platform,
            "packages": len(environment.packages),
        },
    )
    check.record(node, "environment", environment.digest)
    return node


def _snapshot(check: _Check, ref: str) -> Node:
    snapshot = check.ws.ledger.get("snapshot", ref, Snapshot)
    node = Node(
        what="data",
        name=ref,
        facts={"rows": snapshot.rows, "files": len(snapshot.files), "digest": snapshot.digest},
    )
    check.record(node, "snapshot", ref)
    for file in snapshot.files:
        one = Node(what="file", name=file.path, facts={"bytes": file.size_bytes, "digest": file.digest})
        check.blob(one, file.digest)
        node.of.append(one)
    return node


def _lines(node: Node, indent: str) -> Iterator[str]:
    mark = {None: "", True: "ok ", False: "CHANGED "}[node.verified]
    yield f"{indent}{mark}{node.what} {node.name}"
    for name, value in node.facts.items():
        yield f"{indent}    {name}: {_short(value)}"
    for child in node.of:
        yield from _lines(child, indent + "  ")


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_short(one)}" for name, one in value.items())
    return str(value)
