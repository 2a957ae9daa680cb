"""A workspace moves to other stores and back with every id, event and byte; killed or interrupted, it goes on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.errors import Conflict, Invalid, Refused, Unavailable
from flyball.service.migrate import migrate
from flyball.service.settings_file import with_values
from flyball.service.supervise import Held
from flyball.service.workspace import Workspace
from flyball.stores.metadata import Ledger
from tests.postgres import Postgres
from tests.workspaces import close, everything, fill, new_workspace, write


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    opened = new_workspace(tmp_path / "project")
    fill(opened)
    yield opened
    close(opened)


def test_a_workspace_goes_to_postgres_and_another_store_and_back(
    ws: Workspace, postgres: Postgres, tmp_path: Path
) -> None:
    before = everything(ws)
    url, blobs = postgres.new(), f"file:{tmp_path}/elsewhere"
    done = migrate(blobs, to=url, ws=ws)
    assert done.lines == ("[stores]", f'blobs = "{blobs}"', f'metadata = "{url}"')
    assert {one.table for one in done.tables} >= {
        "events",
        "edges",
        "records",
        "runs",
        "run_points",
        "artifacts",
    }
    assert done.blobs == len(before["blobs"])
    assert everything(Workspace.open(ws.root)) == before  # nothing is switched until the settings say so
    again = migrate(url, to=blobs, write=True, check="all", ws=ws)
    assert (again.blobs, again.blobs_there, again.event) == (0, done.blobs, done.event)
    there = Workspace.open(ws.root)
    assert there.config.stores.metadata == url
    assert everything(there) == before
    write(there, "note", "there", {"artifact": there.blobs.put(b"there")})
    assert there.ledger.verify("note", "there") == ""
    after = everything(there)
    migrate("file:.flyball/blobs2", to="sqlite:///.flyball/back.db", write=True, ws=there)
    close(there)
    back = Workspace.open(ws.root)
    assert everything(back) == after
    assert [back.ledger.verify_event(event.seq) for event in back.ledger.events()] == [""] * (done.event + 1)
    write(back, "note", "back", {})
    assert back.ledger.events()[-1].seq > done.event + 1
    close(back)


def test_what_was_written_since_comes_along_the_next_time(ws: Workspace, postgres: Postgres) -> None:
    url = postgres.new()
    first = migrate(to=url, ws=ws)
    fill(ws, 1)
    second = migrate(to=url, write=True, ws=ws)
    assert second.event > first.event
    assert second.blobs == 0
    there = Workspace.open(ws.root)
    assert everything(there) == everything(ws)
    close(there)


def test_a_target_that_holds_another_ledger_is_left_alone(ws: Workspace, postgres: Postgres) -> None:
    url = postgres.new()
    other = Ledger.open(url)
    with other.transaction() as tx:
        tx.append("note.made", "theirs", actor="x", sets=[("note", "theirs", {})])
    with pytest.raises(Conflict, match="holds another ledger"):
        migrate(to=url, write=True, ws=ws)
    assert other.keys("note") == ["theirs"]
    other.close()
    assert Workspace.open(ws.root).config.stores.metadata.startswith("sqlite")


def test_a_flipped_blob_stops_the_move_by_name(ws: Workspace, postgres: Postgres, tmp_path: Path) -> None:
    digest = ws.blobs.put(b"good bytes")
    path = ws.blobs.path(digest)
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(b"evil bytes")
    url = postgres.new()
    with pytest.raises(Refused, match=digest):
        migrate(f"file:{tmp_path}/elsewhere", to=url, write=True, ws=ws)
    ledger = Ledger.open(url)
    assert ledger.events() == []
    ledger.close()


@pytest.mark.parametrize("place", ["_move_blobs", "_same_history", "copy", "_settings"])
def test_a_move_killed_anywhere_goes_on(
    ws: Workspace, postgres: Postgres, tmp_path: Path, place: str
) -> None:
    before = everything(ws)
    url, blobs = postgres.new(), f"file:{tmp_path}/elsewhere"
    code = f"""
import os, signal
from flyball.service.workspace import Workspace
from flyball.service import migrate
from flyball.stores import transfer
module = transfer if {place!r} == "copy" else migrate
real = getattr(module, {place!r})
def killing(*args, **more):
    if {place!r} != "_settings":
        real(*args, **more)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, {place!r}, killing)
migrate.migrate({blobs!r}, to={url!r}, write=True, ws=Workspace.open({str(ws.root)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert everything(Workspace.open(ws.root)) == before
    migrate(blobs, to=url, write=True, ws=ws)
    there = Workspace.open(ws.root)
    assert there.config.stores.metadata == url
    assert everything(there) == before
    close(there)


def test_what_can_not_be_moved_is_said(ws: Workspace, postgres: Postgres) -> None:
    for url, kind, says in (
        ("mysql://x@y/z", Invalid, "no store that a workspace can move to"),
        ("file:.flyball/blobs", Conflict, "lies at file:.flyball/blobs already"),
    ):
        with pytest.raises(kind, match=says):
            migrate(to=url, ws=ws)
    with pytest.raises(Invalid, match="two URLs for blobs"):
        migrate("s3://b", to="file:x", ws=ws)
    with pytest.raises(Invalid, match="no such check"):
        migrate(to="file:x", check="none", ws=ws)
    held = Held(ws.state / "run", "govern")
    with pytest.raises(Conflict, match="govern runs already"):
        migrate(to=postgres.new(), ws=ws)
    held.release()


def test_the_command_line_takes_both_urls_after_one_word(
    ws: Workspace, postgres: Postgres, tmp_path: Path
) -> None:
    close(ws)
    url = postgres.new()
    command = [sys.executable, "-m", "flyball", "migrate", "--project", str(ws.root)]
    said = subprocess.run(
        [*command, "--to", url, f"file:{tmp_path}/b"], check=True, capture_output=True, text=True
    ).stdout
    assert f'metadata = "{url}"' in said
    assert "equal on both sides" in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", '[stores]\nblobs = "s3://b"\n'),
        ("[stores]\n", '[stores]\nblobs = "s3://b"\n'),
        ('# mine\n[stores] # here\nonline = "x"\n\n[serve]\nport = 1\n', None),
        ('[serve]\nport = 1\n[stores]\nblobs = "file:x"  # old\n', None),
        ('[profiles.prod.stores]\nblobs = "file:y"\n', None),
    ],
)
def test_settings_change_only_where_they_must(text: str, expected: str | None) -> None:
    changed = with_values(text, "stores", {"blobs": "s3://b"})
    assert expected is None or changed == expected
    content = tomllib.loads(text)
    content.setdefault("stores", {})["blobs"] = "s3://b"
    assert tomllib.loads(changed) == content
    assert all(line in changed for line in text.splitlines() if not line.startswith("blobs"))


@pytest.mark.parametrize(
    "text", ["stores = { blobs = 'file:x' }\n", "[stores]\nblobs = [\n'a',\n'b']\n", "stores.blobs = 'x'\n"]
)
def test_settings_that_can_not_be_changed_safely_are_left(text: str) -> None:
    with pytest.raises(Invalid, match=r"can't be changed|not TOML"):
        with_values(text, "stores", {"blobs": "s3://b"})


def test_a_store_that_lists_nothing_is_not_moved(ws: Workspace, tmp_path: Path) -> None:
    close(ws)
    shutil.rmtree(ws.state / "blobs")
    with pytest.raises(Unavailable, match="lists no blob, and the ledger names"):
        migrate(to=f"file:{tmp_path}/elsewhere", write=True, ws=Workspace.open(ws.root))
