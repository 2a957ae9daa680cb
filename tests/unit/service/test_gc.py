"""Collecting blobs: what anything needs stays, whatever the age; what nothing needs goes when it is old enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.core.events import Edge
from flyball.core.hashing import digest_bytes
from flyball.core.records import Run
from flyball.errors import Invalid, NotFound, Refused
from flyball.models.mlmodel.folder import manifest_of
from flyball.service.gc import gc, span_s
from flyball.service.workspace import Workspace
from flyball.stores.artifacts import ArtifactStore
from flyball.stores.run_seal import put_head
from flyball.stores.runs import RunStore
from flyball.versions import data
from flyball.versions.manifest import mentions
from tests.workspaces import age, close, new_workspace, write

LONG_AGO = datetime.now(UTC) - timedelta(days=100)


@pytest.fixture
def ws(tmp_path: Path, ledger_url: str) -> Iterator[Workspace]:
    opened = new_workspace(tmp_path / "project", ledger_url)
    yield opened
    close(opened)


def put(ws: Workspace, content: bytes, days: float = 50) -> str:
    """A blob, as old as that."""
    digest = ws.blobs.put(content)
    age(ws, digest, days)
    return digest


def run_record(key: str, **more: Any) -> Run:
    facts: dict[str, Any] = {
        "started": LONG_AGO,
        "status": "done",
        "params": {},
        "code": "",
        "environment": "",
    }
    return Run(id=key, pipeline="p", actor="x", **{**facts, **more})


def step(ws: Workspace, key: str, run: str, digest: str, finished: datetime) -> None:
    write(
        ws,
        "step",
        key,
        {"key": key, "finished": finished.isoformat(), "outputs": [{"digest": digest}], "run": run},
        [Edge(digest, run, "output:x")],
    )


def collect(ws: Workspace, **rules: Any) -> Any:
    return gc(ws=ws, **rules)


def test_what_nothing_names_goes_and_what_a_record_names_stays(ws: Workspace) -> None:
    named, stray = put(ws, b"named"), put(ws, b"stray")
    write(ws, "model", "m@1", {"artifact": named})
    before = ws.blobs.ls()
    dry = collect(ws, dry_run=True)
    assert (dry.blobs, dry.kept, dry.bytes, dry.state) == (1, 1, 5, "dry run")
    assert "would remove 1 blobs, 5 B; 1 stay" in dry.as_text()
    assert sorted(ws.blobs.ls()) == sorted(before)
    done = collect(ws)
    assert (done.blobs, done.removed, done.state) == (1, (stray,), "done")
    assert ws.blobs.ls() == [named]
    kinds = [event.kind for event in ws.ledger.events(kind="gc.")]
    assert kinds == ["gc.decided", "gc.done"]
    (decided, _) = ws.ledger.events(kind="gc.")
    assert decided.body["blobs"] == 1
    assert decided.body["bytes"] == 5


def test_a_young_blob_stays_until_it_is_old_enough(ws: Workspace) -> None:
    put(ws, b"young", days=0)
    assert collect(ws).young == 1
    assert len(ws.blobs.ls()) == 1
    assert collect(ws, older_than="0s").blobs == 1


def test_an_old_blob_that_is_put_again_is_young(ws: Workspace) -> None:
    put(ws, b"again")
    ws.blobs.put(b"again")
    assert collect(ws).blobs == 0


def test_outputs_of_steps_stay_for_their_time_or_as_long_as_something_was_made_from_them(
    ws: Workspace,
) -> None:
    recent, old, under, model = (put(ws, one) for one in (b"recent", b"old", b"under", b"model"))
    write(ws, "run", "run_1", run_record("run_1", outputs={"a": old, "b": under, "c": recent}))
    step(ws, "k1", "run_1", recent, datetime.now(UTC))
    step(ws, "k2", "run_1", old, LONG_AGO)
    step(ws, "k3", "run_1", under, LONG_AGO)
    write(
        ws,
        "model",
        "m@1",
        {"artifact": model},
        [Edge("model:m@1", model, "artifact"), Edge(model, under, "from:x")],
    )
    done = collect(ws)
    assert done.removed == (old,)
    assert done.steps == 1
    assert sorted(ws.ledger.keys("step")) == ["k1", "k3"]
    assert sorted(ws.blobs.ls()) == sorted([recent, under, model])


def test_a_run_that_reused_an_old_result_lately_keeps_it(ws: Workspace) -> None:
    old = put(ws, b"old")
    write(ws, "run", "run_1", run_record("run_1", outputs={"a": old}))
    step(ws, "k", "run_1", old, LONG_AGO)
    lately = run_record("run_2", started=datetime.now(UTC), outputs={"a": old})
    write(ws, "run", "run_2", lately, [Edge("run_2", old, "reused")])
    assert collect(ws).blobs == 0
    assert collect(ws, keep_steps="0s").removed == (old,)


def test_artifacts_of_a_deleted_run_go_after_their_grace_unless_another_has_them(ws: Workspace) -> None:
    runs, artifacts = RunStore(ws.ledger), ArtifactStore(ws.ledger, ws.blobs)
    mine, shared = put(ws, b"mine"), put(ws, b"shared")
    for key in ("run_1", "run_2"):
        record = run_record(key, ended=LONG_AGO)
        with ws.ledger.transaction() as tx:
            tx.append("run.started", key, actor="x", sets=[("run", key, record)])
            put_head(tx, record)
        artifacts.put(key, "shared.txt", shared)
    artifacts.put("run_1", "mine.txt", mine)
    for digest in (mine, shared):
        age(ws, digest, 0)
    runs.delete("run_1", actor="x")
    assert collect(ws).blobs == 0
    done = collect(ws, keep_deleted="0s")
    assert (done.removed, done.runs) == ((mine,), 1)
    assert artifacts.ls("run_1") == []
    assert artifacts.get("run_2", "shared.txt") == b"shared"
    runs.restore("run_1", actor="x")
    assert runs.verify("run_1") == []
    assert collect(ws, keep_deleted="0s").runs == 0


def test_a_deleted_run_that_a_model_came_from_keeps_its_bytes(ws: Workspace) -> None:
    code = put(ws, b"code")
    write(ws, "run", "run_1", run_record("run_1", code=code, deleted=LONG_AGO))
    write(ws, "model", "m@1", {"run": "run_1"}, [Edge("model:m@1", "run_1", "run")])
    assert collect(ws).blobs == 0


def test_forgotten_snapshots_go_and_those_that_something_was_made_from_stay(
    ws: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.bin").write_bytes(os.urandom(300_000))
    one = data.add(ws.ledger, ws.blobs, "flights", folder, actor="x")
    (folder / "a.bin").write_bytes(os.urandom(300_000))
    two = data.add(ws.ledger, ws.blobs, "flights", folder, actor="x")
    for digest in ws.blobs.ls():
        age(ws, digest, 50)
    assert collect(ws).blobs == 0
    write(ws, "model", "m@1", {}, [Edge("model:m@1", f"snapshot:{one.ref}", "training")])
    for snapshot in (one, two):
        write(ws, "snapshot", snapshot.ref, msgspec.structs.replace(snapshot, forgotten=True))
    assert collect(ws).blobs > 0
    assert one.manifest in ws.blobs
    assert mentions(ws.blobs, one.manifest) <= set(ws.blobs.ls())
    assert two.manifest not in ws.blobs


def test_a_manifest_that_cannot_be_read_stops_the_collection(ws: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.bin").write_bytes(os.urandom(300_000))
    snapshot = data.add(ws.ledger, ws.blobs, "flights", folder, actor="x")
    stray = put(ws, b"stray")
    path = ws.blobs.path(snapshot.manifest)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"torn")
    with pytest.raises(Refused, match="can't be told"):
        collect(ws)
    assert stray in ws.blobs


def test_a_run_that_goes_on_keeps_its_last_hour(ws: Workspace) -> None:
    write(ws, "run", "run_1", run_record("run_1", status="running"))
    put(ws, b"not named yet", days=0.01)
    with pytest.raises(Refused, match="run_1 goes on"):
        collect(ws, older_than="1m")
    assert collect(ws, older_than="1h").blobs == 0


@pytest.mark.parametrize("text", ["", "soon", "-1h", "24", "1y", "h"])
def test_a_span_that_is_none_is_named(ws: Workspace, text: str) -> None:
    with pytest.raises(Invalid, match="older_than is"):
        collect(ws, older_than=text)


def test_spans_are_read() -> None:
    assert (span_s("90s"), span_s("1.5h"), span_s(" 30d ")) == (90.0, 5400.0, 2_592_000.0)


def test_a_collection_killed_in_the_middle_is_done_again(tmp_path: Path) -> None:
    ws = new_workspace(tmp_path / "p")
    named = put(ws, b"named")
    write(ws, "model", "m@1", {"artifact": named})
    for n in range(20):
        put(ws, f"stray {n}".encode())
    code = f"""
import os, signal
from flyball.service.workspace import Workspace
from flyball.service.gc import gc
from flyball.stores.blobs import Blobs
real, count = Blobs.delete, 0
def delete(self, digest):
    global count
    count += 1
    if count == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, digest)
Blobs.delete = delete
gc(ws=Workspace.open({str(tmp_path / "p")!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert len(ws.blobs.ls()) == 14
    assert collect(ws).blobs == 13
    assert ws.blobs.ls() == [named]
    ws.ledger.close()


class World:
    """A workspace and what must be in it."""

    def __init__(self, ws: Workspace) -> None:
        self.ws = ws
        self.must: dict[str, set[bytes]] = {}
        self.count = 0

    def add(self, seed: int) -> None:
        content = f"content {seed}".encode()
        key = f"n{seed % 5}"
        digest = put(self.ws, content, days=seed % 3)
        write(self.ws, "note", key, {"artifact": digest})
        self.must[key] = {content}

    def stray(self, seed: int) -> None:
        put(self.ws, f"stray {seed}".encode(), days=seed % 3)

    def made_from(self, seed: int) -> None:
        if self.must:
            key = sorted(self.must)[seed % len(self.must)]
            below = f"under {seed}".encode()
            write(self.ws, "lineage", f"l{seed}", {}, [Edge(f"note:{key}", put(self.ws, below), "from")])
            self.must[key] = self.must[key] | {below}

    def drop(self, seed: int) -> None:
        if self.must:
            key = sorted(self.must)[seed % len(self.must)]
            write(self.ws, "note", key, None)
            del self.must[key]

    def collect(self, seed: int) -> None:
        collect(self.ws, older_than=("0s", "24h", "60h")[seed % 3])

    def check(self) -> None:
        for contents in self.must.values():
            for content in contents:
                assert self.ws.blobs.get(digest_bytes(content)) == content


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "stray", "made_from", "drop", "collect"]), st.integers(0, 30)),
        max_size=14,
    )
)
def test_whatever_is_written_dropped_and_collected_every_reachable_byte_stays(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[str, int]]
) -> None:
    world = World(new_workspace(tmp_path_factory.mktemp("gc") / "p"))
    for name, seed in acts:
        getattr(world, name)(seed)
        world.check()
    world.ws.ledger.close()


def test_a_missing_blob_is_still_named_as_missing(ws: Workspace) -> None:
    with pytest.raises(NotFound):
        ws.blobs.get("b3:" + "0" * 64)


def test_the_files_of_an_mlmodel_folder_stay_with_the_model(ws: Workspace) -> None:
    files = {"MLmodel": put(ws, b"flavors: {}"), "data/model.xgb": put(ws, b"trees")}
    artifact = put(ws, manifest_of(files))
    write(ws, "model", "m@1", {"name": "m", "artifact": artifact, "format": "mlmodel"})
    stray = put(ws, b"stray")
    assert collect(ws).removed == (stray,)
    assert sorted(ws.blobs.ls()) == sorted([artifact, *files.values()])


def test_bytes_that_a_tag_names_stay(ws: Workspace) -> None:
    named = put(ws, b"named by a tag")
    record = run_record("run_1")
    with ws.ledger.transaction() as tx:
        tx.append("run.started", "run_1", actor="x", sets=[("run", "run_1", record)])
        put_head(tx, record)
    RunStore(ws.ledger).write("run_1", tags={"made": f"see {named}"})
    assert collect(ws).blobs == 0
