"""Snapshots: what is kept, when a number is given, and what a changed byte looks like."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import polars as pl
import pytest

from flyball.core.clock import ManualClock
from flyball.core.events import Edge
from flyball.core.hashing import digest_bytes
from flyball.errors import Conflict, Invalid, NotFound
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, sources
from flyball.versions.content import Content
from flyball.versions.keeping import Keeper

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://", ManualClock(NOON))
    yield ledger
    ledger.close()


@pytest.fixture
def blobs():
    return Blobs.open("memory:")


def frame(rows: int) -> pl.DataFrame:
    return pl.DataFrame({"n": range(rows), "word": ["a"] * rows})


def test_a_frame_is_kept_with_schema_rows_and_statistics(ledger, blobs):
    kept = data.add(
        ledger, blobs, "flights", pl.DataFrame({"n": [1, 3, None], "at": [NOON] * 3}), actor="person:ann"
    )
    assert (kept.ref, kept.rows, kept.created, kept.made_by) == ("flights@1", 3, NOON, "person:ann")
    assert kept.schema["n"] == "Int64"
    assert kept.statistics["n"] == {"nulls": 1, "min": 1, "max": 3, "mean": 2.0}
    assert kept.statistics["at"]["min"].startswith("2013-04-01 12:00:00")
    assert data.use(ledger, blobs, "flights").frame()["n"].to_list() == [1, 3, None]


def test_the_same_content_again_is_the_same_snapshot(ledger, blobs):
    one = data.add(ledger, blobs, "flights", frame(3), actor="a")
    assert data.add(ledger, blobs, "flights", frame(3), actor="b") == one
    assert len(ledger.events(kind="data.added")) == 1


def test_changed_content_gets_the_next_number_and_the_old_one_stays(ledger, blobs):
    data.add(ledger, blobs, "flights", frame(3), actor="a")
    two = data.add(ledger, blobs, "flights", frame(4), actor="a")
    assert (two.ref, two.parent) == ("flights@2", "flights@1")
    assert data.use(ledger, blobs, "flights@1").frame().height == 3
    assert data.use(ledger, blobs, "flights@latest").snapshot.number == 2
    assert Edge("snapshot:flights@2", "snapshot:flights@1", "parent") in ledger.made_from(
        "snapshot:flights@2"
    )
    # going back to the first content is a change as well: latest is what was added last
    assert data.add(ledger, blobs, "flights", frame(3), actor="a").ref == "flights@3"


def test_an_unchanged_file_is_stored_once(ledger, blobs, tmp_path):
    (tmp_path / "a.csv").write_text("n\n1\n")
    (tmp_path / "b.csv").write_text("n\n2\n")
    data.add(ledger, blobs, "raw", tmp_path, actor="a")
    (tmp_path / "b.csv").write_text("n\n3\n")
    two = data.add(ledger, blobs, "raw", tmp_path, actor="a")
    assert len(blobs.ls()) == 3
    edges = {edge.of for edge in ledger.made_from("snapshot:raw@2") if edge.role == "file"}
    assert edges == {one.digest for one in two.files}


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("raw", ["deep/c.csv", "x.csv"]),
        ("raw/*.csv", ["x.csv"]),
        ("raw/**/*.csv", ["deep/c.csv", "x.csv"]),
        ("raw/x.csv", ["x.csv"]),
        (["raw/x.csv", "raw/deep/c.csv"], ["deep/c.csv", "x.csv"]),
    ],
)
def test_a_path_a_glob_a_folder_or_a_list_names_files(ledger, blobs, tmp_path, source, paths):
    (tmp_path / "raw/deep").mkdir(parents=True)
    (tmp_path / "raw/.hidden").write_text("no")
    (tmp_path / "raw/x.csv").write_text("n\n1\n")
    (tmp_path / "raw/deep/c.csv").write_text("n\n2\n")
    kept = data.add(ledger, blobs, "raw", source, actor="a", root=tmp_path)
    assert [one.path for one in kept.files] == paths
    assert kept.rows == len(paths)


@pytest.mark.parametrize("source", ["no.csv", "no/*.parquet", [], ["no.csv"], "empty"])
def test_nothing_to_add_is_not_found(ledger, blobs, tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        data.add(ledger, blobs, "raw", source, actor="a", root=tmp_path)
    assert ledger.keys("snapshot") == []


def test_an_empty_frame_is_kept_and_says_that_it_has_no_rows(ledger, blobs):
    assert data.add(ledger, blobs, "none", frame(0), actor="a").rows == 0
    assert data.use(ledger, blobs, "none").frame().columns == ["n", "word"]


def test_an_empty_csv_has_no_rows(ledger, blobs, tmp_path):
    (tmp_path / "a.csv").write_text("")
    assert data.add(ledger, blobs, "none", tmp_path / "a.csv", actor="a").rows == 0


def test_NA_in_a_csv_is_null(ledger, blobs, tmp_path):
    (tmp_path / "a.csv").write_text("delay,at\nNA,2013-01-01\n12,2013-01-02\n")
    kept = data.add(ledger, blobs, "raw", tmp_path / "a.csv", actor="a")
    assert kept.schema == {"delay": "Int64", "at": "Date"}
    assert kept.statistics["delay"]["nulls"] == 1


def test_tables_with_other_columns_are_described_each_and_read_by_name(ledger, blobs, tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "one.parquet")
    pl.DataFrame({"b": [1, 2]}).write_parquet(tmp_path / "two.parquet")
    kept = data.add(ledger, blobs, "mixed", tmp_path, actor="a")
    assert (set(kept.schema), kept.rows) == ({"one.parquet:a", "two.parquet:b"}, 3)
    content = data.use(ledger, blobs, "mixed")
    assert content.frame("two.parquet")["b"].to_list() == [1, 2]
    with pytest.raises(Invalid, match="different columns"):
        content.frame()
    with pytest.raises(NotFound, match="no table 'thre"):
        content.frame("three.parquet")


def test_a_broken_parquet_file_is_invalid_and_leaves_no_snapshot(ledger, blobs, tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(Invalid, match=r"a\.parquet"):
        data.add(ledger, blobs, "raw", tmp_path / "a.parquet", actor="a")
    assert ledger.keys("snapshot") == []


def test_a_file_whose_writer_never_stops_is_refused(ledger, blobs, tmp_path):
    path = tmp_path / "growing.bin"
    path.write_bytes(bytes(20_000_000))
    done = threading.Event()

    def write_on():
        with path.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"more")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        with pytest.raises(Conflict, match="changed while it was added, 4 times"):
            data.add(ledger, blobs, "raw", path, actor="a")
    finally:
        done.set()
        writer.join()
    assert ledger.keys("snapshot") == []


def test_a_file_that_changed_once_while_it_was_read_is_read_again(blobs, tmp_path, caplog):
    path = tmp_path / "growing.csv"
    path.write_bytes(b"n\n1\n" * 3_000_000)
    (source,) = sources.find(path).files

    class Writer:
        """Writes once more while the file is read: when its first segment has come."""

        def __init__(self, cutter):
            self.cutter, self.pool, self.left = cutter, cutter.pool, [b"n\n2\n"]

        def cut(self, handle, forced):
            for segment in self.cutter.cut(handle, forced):
                if self.left:
                    with path.open("ab") as file:
                        file.write(self.left.pop())
                yield segment

    with Keeper(blobs, pause=lambda _: None) as keeper:
        cutter, keeper._cutter = keeper._cutter, Writer(keeper._cutter)
        keeper.keep(source)
        keeper._cutter = cutter
        kept = keeper.finish()
    assert Content.of_manifest(kept, blobs).read("growing.csv") == path.read_bytes()
    assert "changed while it was added; trying again" in caplog.text


@pytest.mark.parametrize(
    ("ref", "said"), [("fligths", "flights"), ("flights@9", "1 to 1"), ("flights@x", "1 to 1")]
)
def test_an_unknown_ref_names_what_there_is(ledger, blobs, ref, said):
    data.add(ledger, blobs, "flights", frame(1), actor="a")
    with pytest.raises(NotFound) as caught:
        data.use(ledger, blobs, ref)
    assert said in caught.value.hint


@pytest.mark.parametrize("name", ["", "a@b", "a b", "a/b", "a:b"])
def test_a_name_that_a_ref_could_not_hold_is_invalid(ledger, blobs, name):
    with pytest.raises(Invalid):
        data.add(ledger, blobs, name, frame(1), actor="a")


def test_names_that_begin_alike_are_numbered_apart(ledger, blobs):
    data.add(ledger, blobs, "flights-late", frame(1), actor="a")
    assert data.add(ledger, blobs, "flights", frame(2), actor="a").ref == "flights@1"


def test_checkout_gives_the_exact_bytes_back(ledger, blobs, tmp_path):
    (tmp_path / "raw/deep").mkdir(parents=True)
    (tmp_path / "raw/deep/c.bin").write_bytes(bytes(range(256)))
    data.add(ledger, blobs, "raw", tmp_path / "raw", actor="a")
    out = data.use(ledger, blobs, "raw").checkout(tmp_path / "out")
    assert (out / "deep/c.bin").read_bytes() == bytes(range(256))
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["c.bin"]


def test_verify_names_a_changed_and_a_missing_blob(ledger, tmp_path):
    blobs = Blobs.open(f"file:{tmp_path / 'blobs'}")
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text(name * 10)
    kept = data.add(ledger, blobs, "raw", [tmp_path / f"{name}.txt" for name in "abc"], actor="x")
    assert data.verify(ledger, blobs, "raw") == []
    places = [tmp_path / "blobs" / one.digest[3:5] / one.digest[5:] for one in kept.files]
    places[0].write_bytes(b"aaaaaaaaab")
    places[1].unlink()
    problems = data.verify(ledger, blobs, "raw@1")
    assert len(problems) == 2
    assert problems[0].startswith("a.txt")
    assert digest_bytes(b"aaaaaaaaab") in problems[0]
    assert "b.txt" in problems[1]
    assert "gone" in problems[1]
