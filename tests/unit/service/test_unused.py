"""``flyball ls --unused``: what nothing reads, serves, aliases or mentions, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.core.records import Experiment
from flyball.service.unused import ls
from flyball.service.workspace import Workspace
from flyball.versions import data
from tests.unit.service.lineage.story import LATER, add_model, new_story, say
from tests.workspaces import START, close


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    opened = new_story(tmp_path / "story")
    yield opened
    close(opened)


def unused(ws: Workspace) -> dict[tuple[str, str], str]:
    return {(one.what, one.name): one.because for one in ls(unused=True, ws=ws)}


def test_all_that_is_used_is_left_out(ws: Workspace) -> None:
    assert unused(ws) == {}
    assert {"what": "run", "count": 2} in ls(ws=ws)


def test_each_kind_is_named_with_why(ws: Workspace) -> None:
    (ws.root / "more.csv").write_text("a\n1\n")
    data.add(ws.ledger, ws.blobs, "spare", ws.root / "more.csv", actor="x")
    (ws.root / "more.csv").write_text("a\n2\n")
    data.add(ws.ledger, ws.blobs, "spare", ws.root / "more.csv", actor="x")
    add_model(ws, 3, LATER)
    view = {"name": "gate", "source": "flights", "entity": ["tail"]}
    say(ws, "view.applied", "gate@1", [("view", "gate@1", view)])
    say(ws, "service.applied", "old@1", [("service", "old@1", {"views": ["plane@1"], "digest": "x"})])
    empty = Experiment(id="7", name="tries", lifecycle="active", tags={}, created=START, updated=START)
    say(ws, "experiment.created", "7", [("experiment", "7", empty)])
    stray = ws.blobs.put(b"named by nobody")
    assert unused(ws) == {
        ("data", "spare@1"): "no run has read it, nothing was made from it",
        ("data", "spare@2"): "no run has read it yet; it is the newest of its name",
        ("model", "delays@3"): "it was never served, and no alias points at it",
        ("view", "gate@1"): "no service uses it",
        ("service", "old@1"): "no model uses it",
        ("experiment", "tries (7)"): "it has no runs",
        ("blob", stray): "nothing needs it: flyball gc takes it when it is a day old",
    }
    sizes = {one.name: one.bytes for one in ls(unused=True, ws=ws)}
    assert sizes["spare@1"] == 4
    assert sizes["delays@3"] == len(b"model 3")
    assert sizes[stray] == len(b"named by nobody")
