"""Files of every kind and size: kept, told apart, checked out, verified and mended."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import polars as pl
import pytest

from flyball.core.hashing import digest_file
from flyball.core.records import Snapshot
from flyball.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, tracked
from flyball.versions.checkout import checkout, reflink
from flyball.versions.content import Content
from flyball.versions.manifest import mentions, reach
from flyball.versions.status import status_of


@pytest.fixture
def ledger():
    ledger = Ledger.open("sqlite://")
    yield ledger
    ledger.close()


@pytest.fixture
def blobs(tmp_path):
    return Blobs.open(f"file:{tmp_path / 'store/blobs'}", state=tmp_path / "store")


@pytest.fixture
def folder(tmp_path):
    """Forty small files, one of 200 kB, and one of 10 MB: all ways of keeping at once."""
    folder = tmp_path / "raw"
    for number in range(40):
        (folder / f"{number % 4}").mkdir(parents=True, exist_ok=True)
        (folder / f"{number % 4}/{number}.bin").write_bytes(os.urandom(100 + number))
    (folder / "medium.bin").write_bytes(os.urandom(200_000))
    (folder / "large.bin").write_bytes(os.urandom(10_000_000))
    (folder / "empty.bin").write_bytes(b"")
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }


def stored(blobs: Blobs) -> int:
    return sum(one.size_bytes for one in blobs.stats())


def test_a_folder_of_all_sizes_comes_back_byte_for_byte(ledger, blobs, folder, tmp_path):
    kept = data.add(ledger, blobs, "raw", folder, actor="a")
    assert kept.file_count == 43
    assert kept.size_bytes == sum(map(len, content_of(folder).values()))
    assert len(blobs.ls()) < 10
    for one in kept.files:  # b3sum tells it
        assert one.digest == digest_file(folder / one.path)
    out = data.use(ledger, blobs, "raw").checkout(tmp_path / "out")
    assert content_of(out) == content_of(folder)
    assert data.verify(ledger, blobs, "raw") == []


def test_a_changed_byte_stores_about_a_chunk(ledger, blobs, folder):
    data.add(ledger, blobs, "raw", folder, actor="a")
    before = stored(blobs)
    with (folder / "large.bin").open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"changed")
    data.add(ledger, blobs, "raw", folder, actor="a")
    assert stored(blobs) - before < 600_000
    assert data.verify(ledger, blobs, "raw@1") == data.verify(ledger, blobs, "raw@2") == []


def test_many_files_are_named_by_the_manifest_alone(ledger, blobs, tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / f"many/{number:03}.txt").write_text(str(number))
    kept = data.add(ledger, blobs, "many", tmp_path / "many", actor="a")
    assert (kept.files, kept.file_count) == ((), 300)
    content = data.use(ledger, blobs, "many")
    assert len(content.files) == 300
    assert content.read("123.txt") == b"123"
    assert data.manifest_digest(content.files) == kept.digest
    assert {edge.role for edge in ledger.made_from("snapshot:many@1")} == {"manifest"}
    assert reach(ledger, blobs) == {kept.manifest} | mentions(blobs, kept.manifest) == set(blobs.ls())


def test_unchanged_files_are_not_read_again(ledger, blobs, folder, monkeypatch):
    monkeypatch.setattr(tracked, "_FINE_NS", 0)  # the files are as young as the test
    monkeypatch.setattr(tracked, "_COARSE_NS", 0)
    data.add(ledger, blobs, "raw", folder, actor="a")
    (folder / "medium.bin").write_bytes(os.urandom(200_000))
    opened = []
    really = os.open

    def noting(path, *rest, **more):
        opened.append(os.fspath(path))
        return really(path, *rest, **more)

    monkeypatch.setattr("flyball.versions.keeping.os.open", noting)
    data.add(ledger, blobs, "raw", folder, actor="a")
    assert [Path(path).name for path in opened if path.startswith(str(folder))] == ["medium.bin"]
    assert data.use(ledger, blobs, "raw").read("large.bin") == (folder / "large.bin").read_bytes()


def test_a_file_as_young_as_its_reading_is_read_again(blobs, tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"1")
    status = path.stat()
    memory = tracked.Tracked(tmp_path / "memory", tmp_path)
    written_ns = status.st_mtime_ns
    memory.remember("x.bin", status, b"d" * 32, written_ns + 1_000_000)
    assert memory.digest("x.bin", status) is None  # a write one ms later could carry the same time
    memory.remember("x.bin", status, b"d" * 32, written_ns + 3_000_000_000)
    assert memory.digest("x.bin", status) == b"d" * 32
    memory.save()
    again = tracked.Tracked(tmp_path / "memory", tmp_path)
    assert again.digest("x.bin", status) == b"d" * 32
    os.utime(path, ns=(1, 1))
    assert again.digest("x.bin", path.stat()) is None
    (tmp_path / "memory").write_bytes(b"broken")
    assert tracked.Tracked(tmp_path / "memory", tmp_path).digest("x.bin", status) is None


def test_status_tells_new_changed_and_deleted_files(ledger, blobs, folder):
    root = folder.parent
    snapshot = data.add(ledger, blobs, "raw", folder, actor="a", root=root)
    assert status_of(blobs, snapshot, root).state == "unchanged"
    (folder / "0/0.bin").unlink()
    (folder / "new.bin").write_bytes(b"new")
    bytes_there = bytearray((folder / "medium.bin").read_bytes())
    bytes_there[7] ^= 1
    (folder / "medium.bin").write_bytes(bytes_there)
    found = status_of(blobs, snapshot, root)
    assert {(one.path, one.change) for one in found.changes} == {
        ("0/0.bin", "deleted"),
        ("new.bin", "new"),
        ("medium.bin", "changed"),
    }
    assert "flyball data add raw raw keeps them" in found.as_text()


def test_status_of_what_is_gone_or_was_a_frame(ledger, blobs, tmp_path):
    (tmp_path / "x.csv").write_text("n\n1\n")
    snapshot = data.add(ledger, blobs, "x", "x.csv", actor="a", root=tmp_path)
    (tmp_path / "x.csv").unlink()
    assert status_of(blobs, snapshot, tmp_path).state == "gone"
    frame = data.add(ledger, blobs, "frame", pl.DataFrame({"n": [1]}), actor="a")
    assert status_of(blobs, frame, tmp_path).state == "not tracked"


def test_checkout_leaves_alone_what_is_right_and_writes_the_rest(ledger, blobs, folder):
    data.add(ledger, blobs, "raw", folder, actor="a")
    right = (folder / "large.bin").stat().st_ino
    (folder / "medium.bin").unlink()
    done = checkout(data.use(ledger, blobs, "raw"), blobs, folder)
    assert (done.written, done.unchanged) == (1, 42)
    assert (folder / "large.bin").stat().st_ino == right


def test_checkout_overwrites_only_what_some_snapshot_holds(ledger, blobs, folder):
    data.add(ledger, blobs, "raw", folder, actor="a")
    first = (folder / "medium.bin").read_bytes()
    (folder / "medium.bin").write_bytes(b"second")
    data.add(ledger, blobs, "raw", folder, actor="a")
    held = data.holder(ledger, blobs, "raw")
    checkout(data.use(ledger, blobs, "raw@1"), blobs, folder, may_replace=held)
    assert (folder / "medium.bin").read_bytes() == first
    (folder / "medium.bin").write_bytes(b"nobody kept this")
    with pytest.raises(Conflict, match=r"medium\.bin would be overwritten") as caught:
        checkout(data.use(ledger, blobs, "raw@2"), blobs, folder, may_replace=held)
    assert "--overwrite" in caught.value.hint
    assert (folder / "medium.bin").read_bytes() == b"nobody kept this"


def test_a_checkout_that_fails_leaves_no_folder_behind(ledger, blobs, folder, tmp_path):
    snapshot = data.add(ledger, blobs, "raw", folder, actor="a")
    flip(blobs, next(iter(mentions(blobs, snapshot.manifest))))
    with pytest.raises(Refused):
        data.use(ledger, blobs, "raw").checkout(tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["raw", "store"]


def test_a_linked_file_is_read_only_and_the_same_bytes_as_the_store(ledger, blobs, tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(os.urandom(400_000))
    kept = data.add(ledger, blobs, "raw", path, actor="a", whole=True)
    assert kept.manifest == ""
    done = checkout(data.use(ledger, blobs, "raw"), blobs, tmp_path / "out", link=True)
    assert done.linked == 1
    there = tmp_path / "out/raw.bin"
    assert there.stat().st_ino == blobs.path(kept.files[0].digest).stat().st_ino
    assert there.stat().st_mode & 0o222 == 0
    assert there.read_bytes() == path.read_bytes()


def test_a_link_to_changed_bytes_is_refused(ledger, blobs, tmp_path):
    path = tmp_path / "raw.bin"
    path.write_bytes(os.urandom(400_000))
    kept = data.add(ledger, blobs, "raw", path, actor="a", whole=True)
    flip(blobs, kept.files[0].digest)
    for link in (True, False):
        with pytest.raises(Refused):
            checkout(data.use(ledger, blobs, "raw"), blobs, tmp_path / "out", link=link)
        assert not (tmp_path / "out").exists()


def test_reflink_clones_or_says_that_it_can_not(tmp_path):
    (tmp_path / "a").write_bytes(b"bytes")
    if reflink(tmp_path / "a", tmp_path / "b"):
        assert (tmp_path / "b").read_bytes() == b"bytes"


def test_a_manifest_of_another_can_not_write_outside_the_folder(blobs, tmp_path):
    from flyball.versions.manifest import Held, Manifest

    digest = bytes.fromhex(blobs.put(b"x")[3:])
    for path in ("../x", "/x", "a/../../x", "a//x"):
        content = Content.of_manifest(Manifest((), (Held(path, digest, 1, None),)), blobs)
        with pytest.raises(Invalid, match="leads out of the folder"):
            checkout(content, blobs, tmp_path / "out")


def flip(blobs: Blobs, digest: str, at: int = 100) -> bytes:
    place = blobs.path(digest)
    before = place.read_bytes()
    place.chmod(0o644)
    place.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    return before


def test_a_flipped_bit_in_a_chunk_is_named_with_its_file_and_mended_from_another_store(
    ledger, blobs, folder, tmp_path
):
    from flyball.versions.transfer import copy, needed_by

    snapshot = data.add(ledger, blobs, "raw", folder, actor="a")
    other = Blobs.open(f"file:{tmp_path / 'other'}")
    copy(blobs, other, needed_by(blobs, snapshot))
    for digest in sorted(needed_by(blobs, snapshot)):
        flip(blobs, digest, 1000 if digest != snapshot.manifest else 20)
        problems = data.problems_of(blobs, snapshot)
        assert problems, digest
        assert {one.blob for one in problems} == {digest}
        if digest != snapshot.manifest:
            assert any(" chunk b3:" in str(one) for one in problems)
            files = {one.path for one in snapshot.files}
            assert all(str(one).split(" (")[0] in files for one in problems)
        assert data.repair(blobs, other, problems) == [digest]
        assert data.problems_of(blobs, snapshot) == []
    (blobs.path(snapshot.manifest)).unlink()
    assert "is gone" in str(data.problems_of(blobs, snapshot)[0])


def test_what_the_other_store_has_broken_too_stays_named(ledger, blobs, folder, tmp_path):
    snapshot = data.add(ledger, blobs, "raw", folder, actor="a")
    pack = next(iter(mentions(blobs, snapshot.manifest)))
    flip(blobs, pack)
    problems = data.problems_of(blobs, snapshot)
    assert data.repair(blobs, Blobs.open("memory:"), problems) == []
    assert data.problems_of(blobs, snapshot) == problems


def test_every_flipped_byte_of_a_small_store_is_found(ledger, blobs, tmp_path):
    (tmp_path / "x.txt").write_text("seven words of which one will change")
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number}.txt").write_text(f"text {number}")
    one = data.add(ledger, blobs, "one", tmp_path / "x.txt", actor="a")
    two = data.add(ledger, blobs, "two", many, actor="a")
    for digest in blobs.ls():
        for at in range(0, blobs.size_bytes(digest), 37):
            before = flip(blobs, digest, at)
            assert data.problems_of(blobs, one) or data.problems_of(blobs, two), (digest, at)
            blobs.path(digest).write_bytes(before)
    assert not data.problems_of(blobs, one) + data.problems_of(blobs, two)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda raw: (raw / "loop").symlink_to(raw), Invalid, "leads back"),
        (lambda raw: (raw / "self").symlink_to("self"), Unavailable, "self"),
        (lambda raw: (raw / "gone").symlink_to("nowhere"), NotFound, "leads nowhere"),
        (lambda raw: open(os.fsencode(raw) + b"/\xff\xfe.csv", "w").close(), Invalid, "not UTF-8"),
        (lambda raw: os.mkfifo(raw / "pipe"), Invalid, "no regular file"),
    ],
)
def test_what_can_not_be_kept_is_named_and_nothing_is_added(ledger, blobs, tmp_path, make, error, said):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "fine.bin").write_bytes(b"fine")
    make(raw)
    with pytest.raises(error, match=said) as caught:
        data.add(ledger, blobs, "raw", raw, actor="a")
    assert caught.value.hint
    assert ledger.keys("snapshot") == []


def test_links_to_files_and_folders_are_followed(ledger, blobs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/x.bin").write_bytes(b"x")
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "inner").symlink_to(tmp_path / "elsewhere")
    (raw / "y.bin").symlink_to(tmp_path / "elsewhere/x.bin")
    kept = data.add(ledger, blobs, "raw", raw, actor="a")
    assert [one.path for one in kept.files] == ["inner/x.bin", "y.bin"]


def test_a_full_disk_is_said_and_leaves_no_snapshot(ledger, blobs, tmp_path):
    import resource
    import signal

    (tmp_path / "large.bin").write_bytes(os.urandom(12_000_000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limit[1]))
    try:
        with pytest.raises(Unavailable) as caught:
            data.add(ledger, blobs, "raw", tmp_path / "large.bin", actor="a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "free some space" in caught.value.hint
    assert ledger.keys("snapshot") == []
    assert not list(blobs.folder.glob(".part/*"))
    data.add(ledger, blobs, "raw", tmp_path / "large.bin", actor="a")
    assert data.verify(ledger, blobs, "raw") == []


def test_two_who_add_at_once_get_numbers_of_their_own_and_share_bytes(tmp_path, folder):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Ledger.open(url).close()
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            ledger = Ledger.open(url)
            blobs = Blobs.open(f"file:{tmp_path / 'store/blobs'}", state=tmp_path / "store")
            extra = folder.parent / f"own{number}"
            extra.mkdir()
            (extra / "own.bin").write_bytes(os.urandom(300_000))
            for name in ("shared", f"own{number}"):
                data.add(ledger, blobs, name, folder if name == "shared" else extra, actor=str(number))
            ledger.close()
        except BaseException as error:  # noqa: BLE001 (told by the test's own thread)
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    ledger = Ledger.open(url)
    blobs = Blobs.open(f"file:{tmp_path / 'store/blobs'}", state=tmp_path / "store")
    assert [one.ref for one in ledger.ls("snapshot", Snapshot, "shared@")] == ["shared@1"]
    for one in ledger.ls("snapshot", Snapshot):
        assert data.problems_of(blobs, one) == []
    ledger.close()


def test_a_large_table_is_scanned_in_a_file_that_is_checked(ledger, blobs, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 1000)
    pl.DataFrame({"n": range(200_000)}).write_parquet(tmp_path / "big.parquet")
    data.add(ledger, blobs, "big", tmp_path / "big.parquet", actor="a")
    assert data.use(ledger, blobs, "big").lazy().select(pl.col("n").sum()).collect().item() == 19999900000
    (cached,) = (blobs.state / "cache/files").iterdir()
    assert cached.stat().st_mode & 0o222 == 0
    cached.chmod(0o644)
    cached.write_bytes(b"PAR1 broken")
    assert data.use(ledger, blobs, "big").frame().height == 200_000


def test_frames_of_other_libraries_are_kept(ledger, blobs):
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"n": [1, 2], "word": ["a", None]})
    one = data.add(ledger, blobs, "x", frame, actor="a")
    assert (one.rows, one.source) == (2, {"frame": "pandas"})
    assert data.add(ledger, blobs, "x", pl.DataFrame({"n": [1, 2], "word": ["a", None]}), actor="a") == one
    table = pyarrow.table({"n": [1, 2, 3]})
    assert data.add(ledger, blobs, "x", table, actor="a").rows == 3
    lazy = data.add(ledger, blobs, "x", pl.LazyFrame({"n": [1, 2, 3, 4]}), actor="a")
    assert data.use(ledger, blobs, lazy.ref).frame()["n"].to_list() == [1, 2, 3, 4]
    with pytest.raises(Invalid, match="a int is no data"):
        data.add(ledger, blobs, "x", 7, actor="a")


def test_several_parents_are_edges_of_the_lineage(ledger, blobs):
    for name in ("a", "b"):
        data.add(ledger, blobs, name, pl.DataFrame({name: [1]}), actor="x")
    joined = data.add(ledger, blobs, "joined", pl.DataFrame({"c": [1]}), actor="x", parents=["a", "b@1"])
    assert (joined.parent, joined.parents) == ("a@1", ("a@1", "b@1"))
    parents = {edge.of for edge in ledger.made_from("snapshot:joined@1") if edge.role == "parent"}
    assert parents == {"snapshot:a@1", "snapshot:b@1"}
    with pytest.raises(NotFound):
        data.add(ledger, blobs, "joined", pl.DataFrame({"c": [2]}), actor="x", parents=["nope"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(ledger, blobs, tmp_path):
    (tmp_path / "x.bin").write_bytes(b"x")
    (tmp_path / "x.bin").chmod(0)
    with pytest.raises(Unavailable, match=r"x\.bin can't be read"):
        data.add(ledger, blobs, "x", tmp_path / "x.bin", actor="a")


@pytest.mark.parametrize("there", [True, False])
def test_a_disk_that_fills_while_checking_out_is_said_and_leaves_no_half_file(
    ledger, blobs, folder, tmp_path, there
):
    import resource
    import signal

    data.add(ledger, blobs, "raw", folder, actor="a")
    out = tmp_path / "out"
    if there:
        out.mkdir()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(Unavailable, match="can't be written") as caught:
            data.use(ledger, blobs, "raw").checkout(out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert "free some space" in caught.value.hint
    assert out.exists() == there
    for path, content in content_of(out).items() if there else ():
        assert content == (folder / path).read_bytes()
    assert content_of(data.use(ledger, blobs, "raw").checkout(out)) == content_of(folder)
