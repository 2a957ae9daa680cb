"""Explaining, in a ledger of 5,000 runs and 100,000 events, beside the same edges and records read with bare sqlite3."""

from __future__ import annotations

import sqlite3
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, cpu_s, timed
from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.service.explain import explain
from flyball.service.workspace import Workspace
from flyball.stores.prediction_log import LogWriter, Prediction

RUNS, STEPS = 5000, 16
_START = datetime(2013, 1, 1, tzinfo=UTC)
_UP = """with recursive up(name) as (select ? union select e.of from edges e join up on e.made = up.name)
select made, of, role, seq from edges where made in (select name from up)"""
_DOWN = """with recursive down(name) as (select ? union select e.made from edges e join down on e.of = down.name)
select made, of, role, seq from edges where of in (select name from down)"""


def measured(repeats: int) -> list[Row]:
    """A prediction upwards; a snapshot that fifty runs read, and the name that all read, downwards."""
    with tempfile.TemporaryDirectory() as folder:
        ws, prediction, model = _filled(Path(folder))
        bare = sqlite3.connect(ws.state / "ledger.db")

        def read(query: str, key: str) -> None:
            names = {name for made, of, *_ in bare.execute(query, (key,)) for name in (made, of)}
            for name in names:
                bare.execute("select content from records where key = ? and noun = 'run'", (name,)).fetchall()

        rows = [
            timed(what, ours, beside, repeats=repeats, unit="ms", per_s=1e3, clock=cpu_s)
            for what, ours, beside in (
                ("explain a prediction", lambda: explain(prediction, ws=ws), lambda: read(_UP, model)),
                (
                    "snapshot --down, 900 things",
                    lambda: explain("flights@40", down=True, ws=ws),
                    lambda: read(_DOWN, "snapshot:flights@40"),
                ),
                (
                    "environment --down, 90,000 things",
                    lambda: explain(_digest(5), down=True, ws=ws),
                    lambda: read(_DOWN, _digest(5)),
                ),
            )
        ]
        bare.close()
        ws.ledger.close()
    return rows


def _filled(root: Path) -> tuple[Workspace, str, str]:
    (root / "flyball.toml").write_text('[project]\nname = "big"\n')
    ws = Workspace.open(root)
    for first in range(0, RUNS, 250):
        with ws.ledger.transaction() as tx:
            for number in range(first, first + 250):
                _run(tx, number)
    prediction, model = new_id("p", _START), f"delays@{RUNS - 9}"
    writer = LogWriter(ws.log_dir)
    facts: list[Any] = ["delays", model, "champion", 0.0, model, 0.5, [1.0], [None], {}]
    writer.append([Prediction(prediction, 1_365_000_000_000_000, *facts, generation=RUNS // 10)])
    writer.close()
    return ws, prediction, f"model:{model}"


def _run(tx: Any, number: int) -> None:
    """One run of sixteen steps and its model; every fiftieth brings new data and code, every tenth is served."""
    at = _START + timedelta(minutes=number)
    run, data, code = new_id("run", at), f"flights@{number // 50 + 1}", _digest(2_000_000 + number // 50)

    def append(kind: str, subject: str, sets: Any, edges: Any = ()) -> None:
        tx.append(kind, subject, actor="x", at=at, sets=sets, edges=edges)

    if number % 50 == 0:
        file = {"path": "a.parquet", "digest": _digest(1_000_000 + number), "size_bytes": 10}
        snapshot = {"name": "flights", "number": number // 50 + 1, "digest": _digest(number), "files": [file]}
        append(
            "data.added",
            data,
            [("snapshot", data, snapshot)],
            [Edge(f"snapshot:{data}", file["digest"], "file")],
        )
        append("code.captured", code, [("code", code, {"digest": code, "commit": f"{number:040x}"})])
    numbers = {f"n{name}": name / 3 for name in range(10)}
    record = {
        "id": run, "pipeline": "train", "status": "done", "params": numbers, "metrics": numbers, "code": code,
        "environment": _digest(5), "inputs": {"flights": data},
    }  # fmt: skip
    append(
        "run.started",
        run,
        [("run", run, record)],
        [Edge(run, code, "code"), Edge(run, _digest(5), "environment")],
    )
    for step in range(STEPS):
        made = _digest(3_000_000 + number * 20 + step)
        edges = [Edge(made, run, f"output:s{step}"), Edge(run, f"snapshot:{data}", "input:flights")]
        edges += [Edge(made, _digest(3_000_000 + number * 20 + step - 1), "from:x")] if step else []
        append(
            "step.done",
            f"{run}/s{step}",
            [("step", _digest(9_000_000 + number * 20 + step), {"key": "k"})],
            edges,
        )
    append("run.done", run, [("run", run, record)])
    ref = f"delays@{number + 1}"
    model = {"name": "delays", "number": number + 1, "artifact": _digest(8_000_000 + number), "run": run}
    edges = [Edge(f"model:{ref}", model["artifact"], "artifact"), Edge(f"model:{ref}", run, "run")]
    append("model.registered", ref, [("model", ref, model)], edges)
    if number % 10 == 0:
        arms = [{"model": ref, "weight": 1.0, "role": "champion"}]
        route = {"endpoint": "delays", "generation": number // 10 + 1, "arms": arms}
        append("route.deployed", "delays", [("route", "delays", route)])


def _digest(number: int) -> str:
    return f"b3:{number:064x}"
