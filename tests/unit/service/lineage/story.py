"""A small workspace with a little of everything that lineage speaks of, written as the practices write it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flyball.core.events import Edge
from flyball.core.hashing import digest_of
from flyball.core.records import (
    Alias,
    Arm,
    Code,
    Decision,
    Environment,
    Field,
    ModelVersion,
    Report,
    Route,
    Run,
    Signature,
)
from flyball.service.workspace import Workspace
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.prediction_log import LogWriter, Prediction
from flyball.stores.run_seal import put_head
from flyball.stores.runs import Point, RunStore
from flyball.versions import data
from tests.workspaces import START, new_workspace

RUN, LATER, GATE = (
    "run_01hzzzzzzzzzzzzzzzzz1zzzzz",
    "run_01hzzzzzzzzzzzzzzzzz2zzzzz",
    "rep_01hzzzzzzzzzzzzzzzzz3zzzzz",
)
DECISION, PREDICTION = "dec_01hzzzzzzzzzzzzzzzzz4zzzzz", "p_01hzzzzzzzzzzzzzzzzz5zzzzz"
SIGNATURE = Signature((Field("months", "FP32"),), (Field("prediction", "FP64"),))


def new_story(root: Path, metadata: str = "") -> Workspace:
    """Data, code and environment, a run with a gate and a model, a second one that was decided on, routes, an answer."""
    ws = new_workspace(root, metadata)
    (ws.root / "flights.csv").write_text("month,delay\n" + "".join(f"{n % 12},{n}\n" for n in range(40)))
    flights = data.add(ws.ledger, ws.blobs, "flights", ws.root / "flights.csv", actor="person:ann")
    source = ws.blobs.put(b"def train(): ...\n")
    code = Code(digest=digest_of("code"), commit="ab12" * 10, branch="main", patch=source, sources=())
    environment = Environment(
        digest=digest_of("env"), python="3.11.7", platform="linux", packages={"numpy": "2.0.0"}
    )
    view = {"name": "plane", "source": "flights", "entity": ["tail"], "happened": "at", "known": "at"}
    say(ws, "code.captured", code.digest, [("code", code.digest, code)])
    say(ws, "environment.captured", environment.digest, [("environment", environment.digest, environment)])
    say(ws, "view.applied", "plane@1", [("view", "plane@1", view)])
    say(
        ws,
        "service.applied",
        "delays_in@1",
        [("service", "delays_in@1", {"views": ["plane@1"], "digest": "x"})],
    )
    add_run(ws, RUN, code.digest, environment.digest, flights.ref)
    report = Report(
        id=GATE,
        kind="gate",
        subject="delays",
        at=START,
        passed=True,
        summary="passed",
        evidence={"run": RUN, "champion": None},
    )
    say(ws, "gate.passed", "delays", [("report", GATE, report)], [Edge(GATE, RUN, "run")])
    add_model(ws, 1, RUN, gate=GATE, feature_service="delays_in@1", training={"flights": flights.ref})
    set_route(ws, 1, "delays@1", "asked for by ann")
    decision = Decision(
        id=DECISION, at=START, policy="p", subject="delays", action="retrain", arguments={"pipeline": "train"},
        because="worse by 3 %", evidence={"report": GATE},
    )  # fmt: skip
    say(ws, "decision.made", "delays", [("decision", DECISION, decision)])
    add_run(ws, LATER, code.digest, environment.digest, flights.ref, because=DECISION)
    add_model(ws, 2, LATER, training={"flights": flights.ref})
    say(
        ws,
        "alias.set",
        "delays@champion",
        [("alias", "delays@champion", Alias(model="delays", alias="champion", number=2, set_at=START))],
    )
    set_route(ws, 2, "delays@2", DECISION, [Edge("delays#2", DECISION, "decided by")])
    answer(ws, PREDICTION, "delays@1", 1)
    return ws


def say(ws: Workspace, kind: str, subject: str, sets: Any, edges: Any = ()) -> None:
    """One event."""
    with ws.ledger.transaction() as tx:
        tx.append(kind, subject, actor="person:ann", sets=sets, edges=edges)


def add_run(ws: Workspace, key: str, code: str, environment: str, flights: str, because: str = "") -> None:
    """A run with an output, a metric's history and an artifact; it ends, and is sealed."""
    from flyball.track.runs import ActiveRun

    output = ws.blobs.put(f"frame of {key}".encode())
    run = Run(
        id=key, pipeline="train", name="nightly", started=START, status="running", params={"trees": 100}, code=code,
        environment=environment, actor="person:ann", because=because, inputs={"flights": flights}, outputs={"split": output},
    )  # fmt: skip
    edges = [
        Edge(key, code, "code"),
        Edge(key, environment, "environment"),
        Edge(key, f"snapshot:{flights}", "input:flights"),
    ]
    with ws.ledger.transaction() as tx:
        tx.append("run.started", key, actor="person:ann", sets=[("run", key, run)], edges=edges)
        put_head(tx, run)
    say(
        ws,
        "step.done",
        f"{key}/split",
        [("step", f"step of {key}", {"finished": datetime.now(UTC), "outputs": [{"digest": output}]})],
        [Edge(output, key, "output:split")],
    )
    RunStore(ws.ledger).write(key, metrics=[Point("loss", 1 / (n + 1), n, n) for n in range(50)])
    ArtifactStore(ws.ledger, ws.blobs).put(key, "plots/roc.svg", f"<svg>{key}</svg>".encode())
    ActiveRun(ws.ledger, key).end("done")


def add_model(ws: Workspace, number: int, run: str, **more: Any) -> None:
    """A version, with the edges that the registry writes."""
    artifact = ws.blobs.put(f"model {number}".encode())
    version = ModelVersion(
        name="delays",
        number=number,
        artifact=artifact,
        format="onnx",
        signature=SIGNATURE,
        created=START,
        run=run,
        **more,
    )
    here = f"model:{version.ref}"
    edges = [Edge(here, artifact, "artifact"), Edge(here, run, "run")]
    say(ws, "model.registered", version.ref, [("model", version.ref, version)], edges)


def set_route(ws: Workspace, generation: int, model: str, because: str, edges: Any = ()) -> None:
    """The next generation of the endpoint ``delays``."""
    at = START + timedelta(days=generation)
    arms = (Arm(model=model, weight=1.0, role="champion"),)
    route = Route(endpoint="delays", generation=generation, arms=arms, set_at=at, because=because)
    with ws.ledger.transaction() as tx:
        tx.append(
            "route.deployed",
            "delays",
            actor="person:ann",
            at=at,
            sets=[("route", "delays", route)],
            edges=edges,
        )


def answer(ws: Workspace, identifier: str, model: str, generation: int) -> None:
    """One prediction, as a worker writes it ahead."""
    writer = LogWriter(ws.log_dir)
    record = Prediction(
        identifier, 1_365_000_000_000_000, "delays", model, "champion", 0.0, model, 0.5, [3.0], [None], {}, generation=generation
    )  # fmt: skip
    writer.append([record])
    writer.close()
