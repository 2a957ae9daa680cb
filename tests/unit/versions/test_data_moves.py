"""Snapshots between names, stores, databases and other tools: tags, diff, push and pull, queries, DVC."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from flyball.core.records import Snapshot
from flyball.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, naming
from flyball.versions.diff import diff
from flyball.versions.dvc import import_project
from flyball.versions.queries import rows_of
from flyball.versions.transfer import pull, push


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


def frame(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"id": pl.Int64, "word": pl.String, "x": pl.Float64}, orient="row")


# tags


def test_a_tag_names_a_snapshot_until_it_is_moved_and_remembers_where_it_was(ledger, blobs):
    for number in (1, 2):
        data.add(ledger, blobs, "f", frame((number, "a", 0.0)), actor="a")
    naming.tag(ledger, "f@1", "clean", actor="ann", because="checked")
    assert data.resolve(ledger, "f@clean").ref == "f@1"
    naming.tag(ledger, "f", "clean", actor="bob", because="newer")
    assert data.resolve(ledger, "f@clean").ref == "f@2"
    naming.untag(ledger, "f@clean", actor="bob")
    assert [(one.ref, one.by, one.because) for one in naming.history(ledger, "f")] == [
        ("f@1", "ann", "checked"),
        ("f@2", "bob", "newer"),
        (None, "bob", ""),
    ]
    with pytest.raises(NotFound) as caught:
        data.resolve(ledger, "f@clean")
    assert "f has 1 to 2" in caught.value.hint


@pytest.mark.parametrize("tag", ["latest", "3", "a b", "", "@x", "é\n"])
def test_what_could_be_a_number_is_no_tag(ledger, blobs, tag):
    data.add(ledger, blobs, "f", frame((1, "a", 0.0)), actor="a")
    with pytest.raises(Invalid):
        naming.tag(ledger, "f@1", tag, actor="a")


def test_a_forgotten_snapshot_gives_its_bytes_up_and_its_number_never(ledger, blobs):
    one = data.add(ledger, blobs, "f", frame((1, "a", 0.0)), actor="a")
    two = data.add(ledger, blobs, "f", frame((2, "a", 0.0)), actor="a")
    naming.tag(ledger, "f@2", "kept", actor="a")
    with pytest.raises(Conflict, match="f@kept points at f@2"):
        naming.forget(ledger, "f@2", actor="a")
    naming.untag(ledger, "f@kept", actor="a")
    naming.forget(ledger, "f@2", actor="a")
    assert data.reach(ledger, blobs) == {one.files[0].digest}
    assert data.resolve(ledger, "f") == one
    with pytest.raises(NotFound, match="f@2 was forgotten"):
        data.resolve(ledger, "f@2")
    again = data.add(ledger, blobs, "f", frame((2, "a", 0.0)), actor="a")
    assert (again.ref, again.digest) == ("f@3", two.digest)


def test_what_something_was_made_from_is_not_forgotten_by_accident(ledger, blobs):
    data.add(ledger, blobs, "raw", frame((1, "a", 0.0)), actor="a")
    data.add(ledger, blobs, "clean", frame((2, "a", 0.0)), actor="a", parents=["raw@1"])
    with pytest.raises(Refused, match="snapshot:clean@1"):
        naming.forget(ledger, "raw@1", actor="a")
    assert naming.forget(ledger, "raw@1", actor="a", even_if_used=True).forgotten
    with pytest.raises(Invalid, match="names no single snapshot"):
        naming.forget(ledger, "clean", actor="a")


# diff


def kept(ledger, blobs, before, after):
    refs = [data.add(ledger, blobs, name, one, actor="a").ref for name, one in (("b", before), ("a", after))]
    return [data.use(ledger, blobs, ref) for ref in refs]


def test_rows_are_told_apart_by_key_and_changed_cells_by_column(ledger, blobs):
    before = frame((1, "a", 1.0), (2, "b", 2.0), (3, None, 3.0), (None, "n", 0.0))
    after = frame((4, "d", 4.0), (3, None, 3.5), (2, "c", 2.0), (None, "n", 0.0))
    found = diff(*kept(ledger, blobs, before, after), key=["id"]).rows
    assert (found.before, found.after) == (4, 4)
    assert (found.added, found.removed, found.changed) == (1, 1, 2)
    assert found.cells == {"word": 1, "x": 1}


def test_without_a_key_whole_rows_are_counted(ledger, blobs):
    before = frame((1, "a", 1.0), (1, "a", 1.0), (2, "b", 2.0))
    after = frame((1, "a", 1.0), (2, "b", 2.0), (3, "c", 3.0), (3, "c", 3.0))
    found = diff(*kept(ledger, blobs, before, after)).rows
    assert (found.added, found.removed, found.changed) == (2, 1, None)


def test_columns_and_distributions_that_moved_are_named(ledger, blobs):
    before = pl.DataFrame({"x": [float(n) for n in range(1000)], "w": ["a"] * 1000, "gone": [1] * 1000})
    after = pl.DataFrame({"x": [n + 288.7 for n in range(1000)], "w": ["a", "b"] * 500, "new": [1] * 1000})
    found = diff(*kept(ledger, blobs, before, after))
    assert (list(found.columns_added), list(found.columns_removed)) == (["new"], ["gone"])
    moved = {one.column: round(one.distance, 2) for one in found.moved}
    assert moved == {"x": 1.0, "w": 0.5}
    text = found.as_text()
    assert "column new (Int64) added" in text
    assert "x moved by 1 standard deviations, mean 499.5 -> 788.2" in text


def test_a_key_that_names_several_rows_or_none_is_invalid(ledger, blobs):
    twice = kept(ledger, blobs, frame((1, "a", 1.0), (1, "b", 1.0)), frame((2, "a", 1.0)))
    with pytest.raises(Invalid, match="1 values of id name several rows before"):
        diff(*twice, key=["id"])
    with pytest.raises(Invalid, match="no column 'idd'"):
        diff(*twice, key=["idd"])


def test_files_that_came_went_changed_or_were_renamed(ledger, blobs, tmp_path):
    for name, text in (("same", "1"), ("gone", "2"), ("changed", "3"), ("old", "4 renamed")):
        (tmp_path / name).write_text(text)
    data.add(ledger, blobs, "d", tmp_path, actor="a")
    (tmp_path / "gone").unlink()
    (tmp_path / "changed").write_text("33")
    (tmp_path / "old").rename(tmp_path / "young")
    (tmp_path / "new").write_text("5")
    data.add(ledger, blobs, "d", tmp_path, actor="a")
    found = diff(data.use(ledger, blobs, "d@1"), data.use(ledger, blobs, "d@2"))
    assert {one.path: one.change for one in found.files} == {
        "changed": "changed",
        "gone": "removed",
        "new": "added",
        "young": "renamed",
    }
    assert "rows are not compared" in found.as_text()
    assert "renamed  young  was old" in found.as_text()
    same = diff(data.use(ledger, blobs, "d@1"), data.use(ledger, blobs, "d@1"))
    assert same.as_text() == "d@1 and d@1 hold the same bytes"


# push and pull


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(50):
        (folder / f"{number}.bin").write_bytes(os.urandom(2000))
    (folder / "large.bin").write_bytes(os.urandom(400_000))
    return folder


def test_a_pulled_snapshot_is_the_pushed_one_with_its_number_and_tag(ledger, blobs, raw):
    data.add(ledger, blobs, "f", raw / "1.bin", actor="a")
    ours = data.add(ledger, blobs, "f", raw, actor="a")
    naming.tag(ledger, "f@2", "clean", actor="a")
    other = Blobs.open("memory:")
    assert push(ledger, blobs, "f", other).sent > 1
    assert push(ledger, blobs, "f", other).sent == 0
    there, theirs = Ledger.open("sqlite://"), Blobs.open("memory:")
    for ref in ("f", "f@latest", "f@2", "f@clean"):
        assert pull(there, theirs, ref, other, actor="b").ref == "f@2"
    got = there.get("snapshot", "f@2", Snapshot)
    assert (got.digest, got.files, got.manifest) == (ours.digest, ours.files, ours.manifest)
    assert data.verify(there, theirs, "f@2") == []
    assert data.use(there, theirs, "f").read("large.bin") == (raw / "large.bin").read_bytes()
    there.close()


def test_a_pull_gets_another_number_where_its_own_is_taken(ledger, blobs, raw):
    data.add(ledger, blobs, "f", raw, actor="a")
    other = Blobs.open("memory:")
    push(ledger, blobs, "f", other)
    there, theirs = Ledger.open("sqlite://"), Blobs.open("memory:")
    data.add(there, theirs, "f", raw / "1.bin", actor="b")
    done = pull(there, theirs, "f@1", other, actor="b")
    assert (done.ref, done.theirs) == ("f@2", "f@1")
    with pytest.raises(Conflict, match="has another f@1"):
        push(there, theirs, "f@1", other)
    there.close()


def test_an_interrupted_push_shows_nothing_and_goes_on(ledger, blobs, raw):
    data.add(ledger, blobs, "f", raw, actor="a")

    class Failing(Blobs):
        left = 1

        def writer(self):
            if not self.left:
                raise Unavailable("the line is cut")
            self.left -= 1
            return super().writer()

    store = Blobs.open("memory:")
    with pytest.raises(Unavailable):
        push(ledger, blobs, "f", Failing(store._store, "memory:"))
    with pytest.raises(NotFound, match="no data named 'f'"):
        pull(ledger, blobs, "f", store, actor="b")
    assert push(ledger, blobs, "f", store).sent == 1


def test_changed_bytes_are_never_passed_on(ledger, tmp_path, raw):
    blobs = Blobs.open(f"file:{tmp_path / 'blobs'}")
    kept = data.add(ledger, blobs, "f", raw, actor="a")
    pack = next(iter(data.mentions(blobs, kept.manifest)))
    place = blobs.path(pack)
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    other = Blobs.open("memory:")
    with pytest.raises(Refused, match=f"the bytes of {pack} .* have changed"):
        push(ledger, blobs, "f", other)
    assert pack not in other
    assert other.ls_named("snapshot/") == []


def test_a_store_that_answers_garbage_is_said(ledger, blobs):
    other = Blobs.open("memory:")
    other.put_named("snapshot/f@1.json", b"<html>busy</html>")
    with pytest.raises(Unavailable, match="is no snapshot"):
        pull(ledger, blobs, "f@1", other, actor="b")
    assert ledger.keys("snapshot") == []


# queries


def test_the_rows_of_a_query_are_kept_with_where_they_came_from(ledger, blobs, tmp_path):
    with sqlite3.connect(tmp_path / "shop.db") as shop:
        shop.execute("create table orders (id integer, price real)")
        shop.executemany("insert into orders values (?, ?)", [(1, 9.5), (2, None)])
    shop.close()
    rows, origin = rows_of("select * from orders order by id", f"sqlite:///{tmp_path / 'shop.db'}")
    kept = data.add(ledger, blobs, "orders", rows, actor="a", origin=origin)
    assert (kept.rows, kept.source["query"]) == (2, "select * from orders order by id")
    assert data.use(ledger, blobs, "orders").frame().rows() == [(1, 9.5), (2, None)]


@pytest.mark.parametrize(
    ("query", "database", "error"),
    [
        ("select * from nope", "sqlite://", Unavailable),
        ("selec", "sqlite://", Unavailable),
        ("select 1", "no url", Invalid),
        ("select 1", "nosuch://x", Invalid),
        ("select 1", "sqlite:////no/such/folder/x.db", Unavailable),
    ],
)
def test_a_query_that_fails_says_what_the_database_said(query, database, error):
    with pytest.raises(error) as caught:
        rows_of(query, database)
    assert caught.value.hint


# DVC


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def cache(folder: Path, content: bytes, suffix: str = "", *, legacy: bool = False) -> str:
    digest = md5(content) + suffix
    place = folder / ".dvc/cache" / ("" if legacy else "files/md5") / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return digest


@pytest.fixture
def project(tmp_path):
    """A DVC 3 project: a tracked file, a folder made of it by one stage, a model made of the folder by another."""
    (tmp_path / "data").mkdir()
    raw = cache(tmp_path, b"n\n1\n2\n")
    (tmp_path / "data/raw.csv.dvc").write_text(
        f"outs:\n- md5: {raw}\n  size: 6\n  hash: md5\n  path: raw.csv\n"
    )
    rows = [{"md5": cache(tmp_path, bytes([number]) * 9), "relpath": f"{number}.bin"} for number in range(3)]
    parts = cache(tmp_path, json.dumps(rows).encode(), ".dir")
    model = cache(tmp_path, b"model")
    (tmp_path / "dvc.lock").write_text(
        f"""schema: '2.0'
stages:
  train:
    cmd: python train.py
    deps:
    - {{path: data/parts, md5: {parts}, hash: md5}}
    outs:
    - {{path: model.pkl, md5: {model}, hash: md5}}
  split:
    cmd: python split.py
    deps:
    - {{path: data/raw.csv, md5: {raw}, hash: md5}}
    - {{path: split.py, md5: {"0" * 32}, hash: md5}}
    outs:
    - {{path: data/parts, md5: {parts}, hash: md5}}
"""
    )
    return tmp_path


def test_a_dvc_project_comes_with_its_lineage(ledger, blobs, project):
    done = import_project(ledger, blobs, project, actor="a", root=project)
    assert done.exit_code == 0
    assert {one.path: (one.ref, one.parents) for one in done.outs} == {
        "data/raw.csv": ("raw@1", ()),
        "data/parts": ("parts@1", ("raw@1",)),
        "model.pkl": ("model@1", ("parts@1",)),
    }
    assert data.use(ledger, blobs, "parts").read("2.bin") == b"\x02" * 9
    assert data.use(ledger, blobs, "raw").frame()["n"].to_list() == [1, 2]
    assert data.resolve(ledger, "model").source["command"] == "python train.py"
    again = import_project(ledger, blobs, project, actor="a", root=project)
    assert [one.ref for one in again.outs] == [one.ref for one in done.outs]


def test_before_dvc_3_a_text_has_the_md5_of_its_unix_lines(ledger, blobs, tmp_path):
    content = b"n\r\n1\r\n" * 100_000
    digest = md5(content.replace(b"\r\n", b"\n"))
    place = tmp_path / ".dvc/cache" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    (tmp_path / "old.csv.dvc").write_text(f"outs:\n- md5: {digest}\n  path: old.csv\n")
    assert import_project(ledger, blobs, tmp_path, actor="a").exit_code == 0
    assert data.use(ledger, blobs, "old").read("old.csv") == content


def test_what_the_cache_has_lost_comes_from_the_workspace_or_is_named(ledger, blobs, project):
    for place in (project / ".dvc/cache/files").rglob("*"):
        if place.is_file() and place.read_bytes() in (b"n\n1\n2\n", b"model"):
            place.unlink()
    (project / "data/raw.csv").write_bytes(b"n\n1\n2\n")
    (project / "model.pkl").write_bytes(b"another model")
    done = {one.path: one for one in import_project(ledger, blobs, project, actor="a").outs}
    assert done["data/raw.csv"].ref == "raw@1"
    assert "does not have the MD5" in done["model.pkl"].missing
    (project / "model.pkl").unlink()
    result = import_project(ledger, blobs, project, actor="a")
    assert result.exit_code == 1
    assert "dvc fetch first" in result.as_text()


def test_a_changed_object_in_the_cache_is_refused(ledger, blobs, project):
    for place in (project / ".dvc/cache/files").rglob("*"):
        if place.is_file() and place.read_bytes() == b"model":
            place.write_bytes(b"modem")
    done = {one.path: one for one in import_project(ledger, blobs, project, actor="a").outs}
    assert "does not have the MD5" in done["model.pkl"].missing


def test_a_folder_without_dvc_is_said(ledger, blobs, tmp_path):
    with pytest.raises(NotFound, match=r"no \.dvc file"):
        import_project(ledger, blobs, tmp_path, actor="a")
    (tmp_path / "x.dvc").write_text("- just\n- a list\n")
    with pytest.raises(Invalid, match=r"x\.dvc is no file of DVC"):
        import_project(ledger, blobs, tmp_path, actor="a")


def test_outputs_of_one_name_are_told_apart_by_their_folders(ledger, blobs, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        digest = cache(tmp_path, place.encode())
        (tmp_path / place / "x.csv.dvc").write_text(f"outs:\n- md5: {digest}\n  hash: md5\n  path: x.csv\n")
    done = import_project(ledger, blobs, tmp_path, actor="a")
    assert [one.ref for one in done.outs] == ["a.x.csv@1", "b.x.csv@1"]
