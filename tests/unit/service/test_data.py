"""``flyball data`` as a person uses it: what is said, what scripts get, and the exit codes."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import polars as pl
import pytest

import flyball as fb
from flyball.cli import main
from flyball.core.records import Snapshot
from flyball.service.workspace import Workspace


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A project with a table and a folder; calling it runs a command: exit code, stdout, stderr."""
    (tmp_path / "flyball.toml").write_text("")
    (tmp_path / "rows.csv").write_text("id,x\n1,10\n2,20\n")
    (tmp_path / "raw").mkdir()
    for number in range(3):
        (tmp_path / f"raw/{number}.bin").write_bytes(os.urandom(100))
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        said = capsys.readouterr()
        return code, said.out, said.err

    run.root = tmp_path
    return run


def test_add_show_ls_and_diff_speak_to_people(project):
    assert project("data", "add", "rows", "rows.csv")[:2] == (0, "rows@1: 1 file, 15 bytes, 2 rows\n")
    (project.root / "rows.csv").write_text("id,x\n2,21\n3,30\n")
    assert project("data", "add", "rows", "rows.csv")[1].startswith(
        "rows@2: 1 file, 15 bytes, 2 rows; made of rows@1"
    )
    _, said, _ = project("data", "show", "rows@1")
    assert "from     path rows.csv" in said
    assert "x       Int64  0      10   15    20" in said
    assert said.index("\n  id ") < said.index("\n  x ")  # as they stand in the file
    _, said, _ = project("data", "diff", "rows@1", "rows@2", "--key", "id")
    assert "rows 2 -> 2: 1 added, 1 removed, 1 changed (by id)" in said
    _, said, _ = project("data", "ls", "--json")
    assert [(one["ref"], one["rows"], one["files"], one["bytes"]) for one in json.loads(said)] == [
        ("rows@1", 2, 1, 15),
        ("rows@2", 2, 1, 15),
    ]


def test_status_exits_one_when_files_have_changed(project):
    project("data", "add", "raw", "raw")
    assert project("data", "status")[:2] == (0, "raw@1: unchanged (raw, 3 files)\n")
    (project.root / "raw/1.bin").write_bytes(b"changed")
    code, said, _ = project("data", "status", "raw")
    assert code == 1
    assert "changed  1.bin" in said
    assert "flyball data add raw raw keeps them" in said


def test_checkout_goes_back_to_where_it_came_from_and_spares_what_nobody_kept(project):
    project("data", "add", "raw", "raw")
    before = (project.root / "raw/1.bin").read_bytes()
    (project.root / "raw/1.bin").write_bytes(b"mine")
    code, _, said = project("data", "checkout", "raw")
    assert code == 4
    assert "1.bin would be overwritten" in said
    assert project("data", "checkout", "raw", "--overwrite")[0] == 0
    assert (project.root / "raw/1.bin").read_bytes() == before
    assert project("data", "checkout", "raw", "elsewhere", "--path", "2.bin")[0] == 0
    assert [one.name for one in (project.root / "elsewhere").iterdir()] == ["2.bin"]


def test_a_tag_is_set_used_and_protects(project):
    project("data", "add", "raw", "raw")
    assert project("data", "tag", "raw@1", "clean", "--because", "checked")[0] == 0
    assert project("data", "show", "raw@clean")[1].startswith("raw@1 (clean)")
    assert project("data", "rm", "raw@1")[0] == 4
    assert project("data", "untag", "raw@clean")[0] == 0
    assert project("data", "rm", "raw@1")[0] == 0
    assert project("data", "show", "raw@1")[0] == 3
    _, said, _ = project("data", "tags", "raw", "--json")
    assert [one["because"] for one in json.loads(said)] == ["checked", ""]


def test_what_has_changed_is_named_and_mended_from_the_configured_store(project):
    (project.root / "flyball.toml").write_text('[stores]\nremote = "file:backup"\n')
    project("data", "add", "raw", "raw")
    assert "pushed to" in project("data", "push", "raw")[1]
    ws = Workspace.open(project.root)
    digest = ws.ledger.get("snapshot", "raw@1", Snapshot).files[1].digest
    ws.blobs.path(digest).write_bytes(b"other bytes")
    code, said, _ = project("data", "verify", "raw")
    assert (code, said) == (0, "raw: every byte is what it was; 1 object mended from the other store\n")
    (project.root / "flyball.toml").write_text("")
    ws.blobs.path(digest).write_bytes(b"other bytes")
    code, _, said = project("data", "verify")
    assert code == 1
    assert f"raw@1: 1.bin: blob {digest} has changed" in said
    assert "--repair-from URL" in said
    assert project("data", "verify", "--repair-from", "file:backup")[0] == 0
    ws.ledger.close()


def test_a_query_is_kept_with_its_words(project):
    with sqlite3.connect(project.root / "shop.db") as shop:
        shop.execute("create table orders (id integer)")
        shop.execute("insert into orders values (7)")
    shop.close()
    url = f"sqlite:///{project.root}/shop.db"
    assert project("data", "add", "orders", "--query", "select * from orders", "--database", url)[0] == 0
    assert "query select * from orders" in project("data", "show", "orders")[1]
    assert project("data", "add", "orders", "--query", "select 1")[0] == 2
    assert project("data", "add", "orders")[0] == 2


def test_another_project_pulls_what_was_pushed(project, tmp_path_factory, monkeypatch):
    project("data", "add", "raw", "raw")
    project("data", "push", "raw", "file:shared")
    other = tmp_path_factory.mktemp("other")
    (other / "flyball.toml").write_text("")
    monkeypatch.chdir(other)
    assert project("data", "pull", "raw", f"file:{project.root}/shared")[0] == 0
    assert project("data", "checkout", "raw", "here")[0] == 0
    assert (other / "here/2.bin").read_bytes() == (project.root / "raw/2.bin").read_bytes()
    assert project("data", "pull", "raw")[0] == 2  # no store is configured


def test_frames_and_lists_are_added_from_python_and_derived_data_says_so(project):
    ws = Workspace.open(project.root)
    one = fb.data.add("rows", pl.DataFrame({"n": [1]}), ws=ws)
    two = fb.data.add("both", ["rows.csv", "raw/1.bin"], parent=["rows"], ws=ws)
    assert [file.path for file in two.files] == ["raw/1.bin", "rows.csv"]
    assert two.parent == one.ref
    other = fb.data.add("more", pl.DataFrame({"n": [2]}), ws=ws)
    again = fb.data.add("both", ["rows.csv", "raw/1.bin"], parent=["more"], ws=ws)
    assert (again.ref, again.parents) == (two.ref, (one.ref, other.ref))
    assert fb.data.open("rows", ws=ws).frame()["n"].to_list() == [1]
    ws.ledger.close()
