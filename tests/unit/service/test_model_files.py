"""Models in and out of folders, as people type it: what is written, what is refused, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from flyball.cli import main
from flyball.errors import Conflict, Unavailable
from flyball.models import registry
from flyball.service import Workspace
from flyball.service.model_files import write_folder
from tests.unit.models.mlmodel.folders import Trap, sklearn_folder

ROWS = np.random.default_rng(8).normal(size=(120, 2))
FRAME = pl.DataFrame(ROWS, schema=["a", "b"])
MODEL = LogisticRegression().fit(FRAME, ROWS[:, 0] > 0)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLYBALL_ACTOR", "ann")
    (tmp_path / "flyball.toml").write_text('[project]\nname = "late"\n')
    ws = Workspace.open(tmp_path).use()
    registry.register(ws.ledger, ws.blobs, "delays", MODEL, sample=FRAME, actor="person:ann")
    yield ws
    ws.ledger.close()


@pytest.fixture
def say(project: Workspace, capsys: pytest.CaptureFixture[str]) -> Any:
    """Carry out a command; its answer as JSON, or (with a code) what it printed."""

    def run(*words: str, code: int = 0) -> Any:
        found = main([*words, *([] if code else ["--json"])])
        told = capsys.readouterr()
        assert found == code, told
        return told.out + told.err if code else json.loads(told.out)

    return run


def test_a_version_goes_out_as_a_folder_and_comes_back_with_the_same_answers(
    say: Any, project: Workspace, tmp_path: Path
) -> None:
    told = say("models", "export", "delays@1", "--to", "out")
    assert told["ref"] == "delays@1"
    assert (tmp_path / "out" / "MLmodel").is_file()
    assert sorted(told["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    version = say("models", "import", "out", "--name", "again", "--alias", "challenger", "--note", "a copy")
    assert (version["name"], version["format"], version["by"]) == ("again", "mlmodel", "person:ann")
    say("deploy", "again@challenger", "--endpoint", "again")
    served = project.plan.endpoints["again"].models["again@1"]
    assert (served.format, served.signature.outputs[0].name) == ("onnx", "probability")
    found = registry.load(project.ledger, project.blobs, "again").predict(FRAME)
    np.testing.assert_allclose(found, registry.load(project.ledger, project.blobs, "delays").predict(FRAME))


def test_the_graph_and_the_native_file_go_out_alone(say: Any, tmp_path: Path) -> None:
    assert say("models", "export", "delays@1", "--to", "graph", "--as", "onnx")["files"] == ["model.onnx"]
    assert say("models", "export", "delays@1", "--to", "own", "--as", "native")["files"] == ["model.skops"]
    assert "delays@1" not in say("models", "export", "delays@1", "--to", "x", "--as", "h5", code=2)
    assert not (tmp_path / "x").exists()


def test_a_folder_that_holds_something_is_left_alone(say: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert "is there already" in say("models", "export", "delays@1", "--to", "out", code=4)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    say("models", "export", "delays@1", "--to", "empty")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".empty")] == []


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="can't be written"):
        write_folder(tmp_path / "out", {"a": b"1", "a/b": b"2"})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(Conflict):
        write_folder(tmp_path / "file", {"a": b"1"})


def test_pickles_from_elsewhere_wait_for_somebodys_word(say: Any, project: Workspace, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path, data in sklearn_folder(MODEL, example=False).items():
        (theirs / path).write_bytes(data)
    assert say("models", "import", "theirs", "--name", "foreign")["export"]["foreign"] == ["model.pkl"]
    said = say("deploy", "foreign@1", "--endpoint", "foreign", code=1)
    assert "flyball models trust foreign@1" in said
    assert project.plan.endpoints == {}
    trusted = say("models", "trust", "foreign@1", "--because", "our own run made it")
    assert trusted["export"]["trusted"] == "person:ann: our own run made it"
    say("deploy", "foreign@1", "--endpoint", "foreign")
    told = project.plan.endpoints["foreign"].models["foreign@1"]
    assert (told.format, told.trusted) == ("mlmodel", True)


def test_trust_at_import_is_written_down_and_nothing_runs_before_a_load(say: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path, data in sklearn_folder(Trap(tmp_path / "sprung")).items():
        (theirs / path).write_bytes(data)
    version = say("models", "import", "theirs", "--name", "foreign", "--trust")
    assert version["export"]["trusted"] == "person:ann: imported with --trust"
    assert not (tmp_path / "sprung").exists()


def test_what_is_no_folder_or_no_model_is_said(say: Any, tmp_path: Path) -> None:
    assert "no folder" in say("models", "import", "absent", "--name", "x", code=3)
    (tmp_path / "empty").mkdir()
    assert "no file MLmodel" in say("models", "import", "empty", "--name", "x", code=2)
    assert "can't name a model" in say("models", "import", "empty", "--name", "a@b", code=2)
