"""Workspaces for tests of what is done to a whole one: backup, restore, collection, migration."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.core.records import Run
from flyball.service.workspace import Workspace
from flyball.stores import transfer
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.online import Rows, pack_key
from flyball.stores.prediction_log import Label, frame
from flyball.stores.run_seal import put_head
from flyball.stores.runs import Point, RunStore
from flyball.versions import data

START = datetime(2013, 4, 1, tzinfo=UTC)


def new_workspace(root: Path, metadata: str = "", blobs: str = "") -> Workspace:
    """A project with nothing in it."""
    root.mkdir(parents=True, exist_ok=True)
    stores = {"metadata": metadata, "blobs": blobs}
    lines = [f'{name} = "{url}"' for name, url in stores.items() if url]
    table = "\n".join(["[stores]", *lines, ""]) if lines else ""
    (root / "flyball.toml").write_text(f'[project]\nname = "p"\ndefinitions = ["defs.py"]\n\n{table}')
    (root / "defs.py").write_text("X = 1\n")
    return Workspace.open(root)


def write(ws: Workspace, noun: str, key: str, content: Any, edges: Any = ()) -> None:
    """One record."""
    with ws.ledger.transaction() as tx:
        tx.append("test.wrote", key, actor="x", sets=[(noun, key, content)], edges=edges)


def add_run(ws: Workspace, key: str) -> None:
    """A run with a metric's history, a param and an artifact."""
    record = Run(
        id=key, pipeline="p", started=START, status="running", params={}, code="", environment="", actor="x"
    )
    with ws.ledger.transaction() as tx:
        tx.append("run.started", key, actor="x", sets=[("run", key, record)])
        put_head(tx, record)
    points = [Point("loss", 1 / (n + 1), n, 1_000_000 * n) for n in range(200)]
    RunStore(ws.ledger).write(key, params={"depth": "3"}, metrics=[*points, Point("odd", float("nan"), 0, 0)])
    ArtifactStore(ws.ledger, ws.blobs).put(key, "notes/é.txt", f"artifact of {key}".encode())


def fill(ws: Workspace, seed: int = 0) -> None:
    """A little of everything that a workspace can hold."""
    folder = ws.root / "in"
    folder.mkdir(exist_ok=True)
    (folder / "a.bin").write_bytes(np.random.default_rng(seed).bytes(400_000))
    (folder / "b.csv").write_text(f"x,y\n1,{seed}\n")
    snapshot = data.add(ws.ledger, ws.blobs, "flights", folder, actor="x")
    add_run(ws, f"run_{seed}")
    model = ws.blobs.put(f"model {seed}".encode())
    edges = [Edge("model:m@1", snapshot.ref, "training"), Edge("model:m@1", model, "artifact")]
    write(ws, "model", f"m@{seed}", {"artifact": model, "name": "é"}, edges)
    ws.log_dir.mkdir(parents=True, exist_ok=True)
    segment = frame(Label("p_1", 1.0, 5, 6)) * 3
    (ws.log_dir / f"{new_id('seg', START)}.wal").write_bytes(segment)
    (ws.log_dir / "cursors").mkdir(exist_ok=True)
    (ws.log_dir / "cursors" / "monitor.json").write_text("{}")
    (ws.tables_dir / "labels" / "day=2013-04-01").mkdir(parents=True, exist_ok=True)
    (ws.tables_dir / "labels" / "day=2013-04-01" / f"{seed}.parquet").write_bytes(b"PAR1")
    one = np.array([1], dtype=np.int64)
    ws.online.append("v@1", Rows([pack_key(("UA",))], one * 0, one, one, one, np.array([[float(seed)]])))
    (ws.state / "demo.json").write_text("{}")


def everything(ws: Workspace) -> dict[str, Any]:
    """What a workspace holds: tables, blobs, files."""
    with ws.ledger.reading() as connection:
        tables = {one.table: (one.rows, one.digest) for one in transfer.seals(connection)}
    files = {
        path.relative_to(ws.root).as_posix(): path.read_bytes()
        for folder in (ws.log_dir, ws.tables_dir)
        for path in folder.rglob("*")
        if path.is_file()
    }
    return {
        "tables": tables,
        "blobs": {digest: ws.blobs.get(digest) for digest in ws.blobs.ls()},
        "files": files,
        "views": ws.online.views(),
    }


def close(ws: Workspace) -> None:
    """Let go of the stores that were opened."""
    for name in ("ledger", "online"):
        if name in ws.__dict__:
            ws.__dict__.pop(name).close()


def age(ws: Workspace, digest: str, days: float) -> None:
    """Make a blob look that old."""
    path = ws.blobs.path(digest)
    assert path is not None
    then = path.stat().st_mtime - days * 86400
    os.utime(path, (then, then))
