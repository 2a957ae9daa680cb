"""One file holds the workspace: all of it comes back, and a file with one byte wrong is refused before anything is."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from flyball.service.backup import backup
from flyball.service.restore import restore
from flyball.service.supervise import Held
from flyball.service.workspace import Workspace
from flyball.stores import archive
from tests.filling import small_disk
from tests.workspaces import close, everything, fill, new_workspace, write


@pytest.fixture
def ws(tmp_path: Path, ledger_url: str) -> Iterator[Workspace]:
    opened = new_workspace(tmp_path / "project", "" if ledger_url.startswith("sqlite") else ledger_url)
    yield opened
    close(opened)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Workspace]:
    opened = new_workspace(tmp_path / "project")
    yield opened
    close(opened)


def test_a_backup_brings_all_of_it_back_into_an_empty_folder(ws: Workspace, tmp_path: Path) -> None:
    fill(ws)
    before = everything(ws)
    made = backup(str(tmp_path / "b.tar"), ws=ws)
    assert "is whole: p at event" in made.as_text()
    assert backup(str(tmp_path / "b.tar"), verify=True).entries == made.entries
    done = restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    copy = Workspace.open(tmp_path / "copy")
    assert everything(copy) == before
    assert (tmp_path / "copy" / "defs.py").read_text() == "X = 1\n"
    assert copy.config.stores.metadata == "sqlite:///.flyball/ledger.db"
    if ws.config.stores.metadata.startswith("postgresql"):
        assert any("this copy has its own" in note for note in done.notes)
    write(copy, "note", "next", {})
    assert copy.ledger.verify("note", "next") == ""
    close(copy)


def test_a_backup_is_a_tar_that_other_tools_open(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    backup(str(tmp_path / "b.tar"), ws=local)
    with tarfile.open(tmp_path / "b.tar") as tar:
        names = tar.getnames()
        tar.extract("ledger.db", tmp_path / "out", filter="data")
    assert names[0] == "flyball-backup.json"
    assert names[-1] == "flyball-end.json"
    assert {"project/flyball.toml", "project/defs.py", "online/data.mdb", "ledger.db"} <= set(names)
    raw = sqlite3.connect(tmp_path / "out" / "ledger.db")
    assert raw.execute("pragma integrity_check").fetchone() == ("ok",)
    assert raw.execute("select count(*) from events").fetchone()[0] > 2
    raw.close()
    assert (tmp_path / "b.tar").stat().st_mode & 0o077 == 0


def test_a_backup_taken_while_others_write_is_of_one_moment(ws: Workspace, tmp_path: Path) -> None:
    fill(ws)
    ending = threading.Event()

    def keep_writing() -> None:
        n = 0
        while not ending.is_set():
            digest = ws.blobs.put(f"while {n}".encode())
            write(ws, "note", f"n{n}", {"artifact": digest})
            n += 1

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for n in range(3):
            backup(str(tmp_path / f"{n}.tar"), ws=ws)
    finally:
        ending.set()
        writer.join()
    restore(str(tmp_path / "2.tar"), into=str(tmp_path / "copy"))
    copy = Workspace.open(tmp_path / "copy")
    notes = copy.ledger.ls("note", dict)
    assert notes
    assert all(copy.blobs.get(note["artifact"]).startswith(b"while") for note in notes)
    assert all(copy.ledger.verify_event(event.seq) == "" for event in copy.ledger.events())
    close(copy)


def test_restoring_over_a_workspace_needs_force_when_something_would_be_lost(
    ws: Workspace, tmp_path: Path
) -> None:
    fill(ws)
    before = everything(ws)
    backup(str(tmp_path / "b.tar"), ws=ws)
    restore(str(tmp_path / "b.tar"), ws=ws)  # nothing is lost: it is the same
    close(ws)
    write(ws, "note", "later", {})
    with pytest.raises(Conflict, match="what is not in it would be lost"):
        restore(str(tmp_path / "b.tar"), ws=ws)
    assert ws.ledger.keys("note") == ["later"]
    close(ws)
    (ws.root / "defs.py").write_text("X = 2\n")
    done = restore(str(tmp_path / "b.tar"), force=True, ws=ws)
    close(ws)
    assert any("defs.py differs" in note for note in done.notes)
    assert (ws.root / "defs.py").read_text() == "X = 2\n"
    again = Workspace.open(ws.root)
    assert again.ledger.keys("note") == []
    assert everything(again) == before
    close(again)
    assert not list(ws.root.glob(".flyball.*"))


def test_restore_refuses_while_flyball_up_holds_the_workspace(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    backup(str(tmp_path / "b.tar"), ws=local)
    held = Held(local.state / "run", "up")
    with pytest.raises(Conflict, match="up runs already"):
        restore(str(tmp_path / "b.tar"), force=True, ws=local)
    held.release()


def test_every_torn_length_is_refused(local: Workspace, tmp_path: Path) -> None:
    write(local, "note", "a", {"artifact": local.blobs.put(b"x" * 3000)})
    backup(str(tmp_path / "b.tar"), ws=local)
    whole = (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "b.tar") as tar:
        end = tar.getmember("flyball-end.json").offset_data
    rng = random.Random(1)
    for length in (0, 1, 511, 512, 1024, end, *rng.choices(range(end), k=25)):
        (tmp_path / "torn.tar").write_bytes(whole[:length])
        with pytest.raises(Refused, match=r"torn|no backup|changed|cut short"):
            backup(str(tmp_path / "torn.tar"), verify=True)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("kept")
    ws = new_workspace(folder / "project")
    write(ws, "note", "a", {"artifact": ws.blobs.put(b"x" * 3000)})
    backup(str(folder / "b.tar"), ws=ws)
    close(ws)
    return (folder / "b.tar").read_bytes(), contents(folder / "b.tar")


def contents(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    archive.read(path, lambda name, _size, pieces: found.__setitem__(name, b"".join(pieces)))
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_was_only_padding(
    kept: tuple[bytes, dict[str, bytes]], tmp_path: Path, place: float, bit: int
) -> None:
    whole, expected = kept
    changed = bytearray(whole)
    changed[int(place * len(whole))] ^= 1 << bit
    (tmp_path / "flipped.tar").write_bytes(changed)
    try:
        found = contents(tmp_path / "flipped.tar")
    except Refused:
        return
    assert found == expected


def test_a_changed_entry_is_named_and_nothing_is_touched(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    digest = local.blobs.put(b"look for this")
    backup(str(tmp_path / "b.tar"), ws=local)
    whole = (tmp_path / "b.tar").read_bytes()
    (tmp_path / "b.tar").write_bytes(whole.replace(b"look for this", b"look for that"))
    before = everything(local)
    with pytest.raises(Refused, match=f"entry blobs/{digest[3:]} has changed"):
        restore(str(tmp_path / "b.tar"), force=True, ws=local)
    assert everything(local) == before
    with pytest.raises(Refused, match="has changed"):
        restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    assert not (tmp_path / "copy" / ".flyball").exists()


def test_an_entry_taken_out_or_slipped_in_is_found(local: Workspace, tmp_path: Path) -> None:
    write(local, "note", "a", {"artifact": local.blobs.put(b"x" * 3000)})
    backup(str(tmp_path / "b.tar"), ws=local)
    for skip, twice in (("project/defs.py", ""), ("", "project/defs.py")):
        with tarfile.open(tmp_path / "b.tar") as source, tarfile.open(tmp_path / "c.tar", "w") as target:
            for info in source:
                for _ in range(0 if info.name == skip else 2 if info.name == twice else 1):
                    target.addfile(info, source.extractfile(info))
        with pytest.raises(Refused, match="is not what was written"):
            backup(str(tmp_path / "c.tar"), verify=True)


def test_a_blob_that_has_changed_stops_the_backup_by_name(local: Workspace, tmp_path: Path) -> None:
    digest = local.blobs.put(b"good bytes")
    path = local.blobs.path(digest)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"evil bytes")
    with pytest.raises(Refused, match="its bytes have changed"):
        backup(str(tmp_path / "b.tar"), ws=local)
    assert [one.name for one in tmp_path.iterdir()] == ["project"]


def test_what_can_not_be_a_backup_is_said(local: Workspace, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        backup(str(tmp_path / "none.tar"), verify=True)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(Refused, match="no backup"):
        restore(str(tmp_path / "text"), into=str(tmp_path / "copy"))
    with pytest.raises(Invalid, match="is a folder"):
        backup(str(tmp_path), ws=local)
    with pytest.raises(Invalid, match="inside of what it is to save"):
        backup(str(local.state / "b.tar"), ws=local)
    with pytest.raises(NotFound, match="no folder"):
        backup(str(tmp_path / "no" / "b.tar"), ws=local)
    with archive.Writer(tmp_path / "new.tar") as writer:
        writer.add_bytes(archive.FIRST, json.dumps({"format": 99, "flyball": "9.9"}).encode())
        writer.finish()
    with pytest.raises(Conflict, match=r"newer Flyball \(9.9\)"):
        restore(str(tmp_path / "new.tar"), into=str(tmp_path / "copy"))


def test_a_backup_onto_a_full_disk_says_so_and_leaves_nothing(local: Workspace, tmp_path: Path) -> None:
    local.blobs.put(os.urandom(3_000_000))
    with small_disk(tmp_path / "small") as place:
        with pytest.raises(Unavailable, match=r"full|No space"):
            backup(str(place / "b.tar"), ws=local)
        assert list(place.iterdir()) == []


def test_restoring_onto_a_full_disk_leaves_the_old_workspace(local: Workspace, tmp_path: Path) -> None:
    for _ in range(3):
        local.blobs.put(os.urandom(1_000_000))
    backup(str(tmp_path / "b.tar"), ws=local)
    with small_disk(tmp_path / "small") as place:
        with pytest.raises(Unavailable, match="free"):
            restore(str(tmp_path / "b.tar"), into=str(place / "p"))
        assert not (place / "p" / ".flyball").exists()


@pytest.mark.parametrize("after", ["fill", "project_files", "put_elsewhere", "rmtree"])
def test_a_restore_killed_anywhere_leaves_the_old_workspace_or_the_new(tmp_path: Path, after: str) -> None:
    ws = new_workspace(tmp_path / "project")
    fill(ws, 1)
    new = everything(ws)
    backup(str(tmp_path / "b.tar"), ws=ws)
    write(ws, "note", "later", {"artifact": ws.blobs.put(b"later")})
    old = everything(ws)
    close(ws)
    code = f"""
import os, signal, shutil
from flyball.service.workspace import Workspace
from flyball.service import restore
def killing(real):
    def call(*args, **more):
        if {after!r} == "rmtree" and not str(args[0]).endswith(".flyball.restoring"):
            return real(*args, **more)
        if {after!r} != "rmtree":
            real(*args, **more)
        os.kill(os.getpid(), signal.SIGKILL)
    return call
if {after!r} == "rmtree":
    shutil.rmtree = killing(shutil.rmtree)
else:
    setattr(restore._Staged, {after!r}, killing(getattr(restore._Staged, {after!r})))
restore.restore({str(tmp_path / "b.tar")!r}, force=True, ws=Workspace.open({str(ws.root)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    left = Workspace.open(ws.root)
    assert everything(left) == (new if after == "rmtree" else old)
    close(left)
    restore(str(tmp_path / "b.tar"), force=True, ws=Workspace.open(ws.root))
    left = Workspace.open(ws.root)
    assert everything(left) == new
    close(left)
    assert not list(ws.root.glob(".flyball.*"))


def test_a_backup_killed_in_the_middle_has_no_name(tmp_path: Path) -> None:
    ws = new_workspace(tmp_path / "project")
    fill(ws)
    close(ws)
    code = f"""
import os, signal
from flyball.service.workspace import Workspace
from flyball.stores.archive import Writer
from flyball.service.backup import backup
Writer.finish = lambda self: os.kill(os.getpid(), signal.SIGKILL)
backup({str(tmp_path / "b.tar")!r}, ws=Workspace.open({str(ws.root)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "b.tar").exists()


def test_without_blobs_it_says_where_they_are(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    assert backup(str(tmp_path / "b.tar"), blobs=False, ws=local).blobs == 0
    done = restore(str(tmp_path / "b.tar"), into=str(tmp_path / "copy"))
    assert any("holds no blobs" in note for note in done.notes)


def test_the_command_line_restores_where_there_is_no_project(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    command = [sys.executable, "-m", "flyball"]
    subprocess.run([*command, "backup", str(tmp_path / "b.tar"), "--project", str(local.root)], check=True)
    (tmp_path / "empty").mkdir()
    for words in (["backup", "--verify", "../b.tar"], ["restore", "../b.tar", "--into", "../copy"]):
        subprocess.run([*command, *words], check=True, cwd=tmp_path / "empty")
    assert (tmp_path / "copy" / "flyball.toml").is_file()


def test_blobs_that_the_ledger_names_and_the_store_has_not_are_told(local: Workspace, tmp_path: Path) -> None:
    fill(local)
    gone = local.blobs.put(b"model 0")
    local.blobs.delete(gone)
    made = backup(str(tmp_path / "b.tar"), ws=local)
    assert made.missing == (gone,)
    assert f"1 blobs that the ledger names were not in the store, as {gone}" in made.as_text()
