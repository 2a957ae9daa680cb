"""An SQLite ledger on a full disk, in a broken file, or held by another: clear errors, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.errors import FlyballError, Refused, Unavailable
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from tests.filling import small_disk


def note(ledger: Ledger, key: str, letters: int = 10) -> None:
    text = "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=letters))
    with ledger.transaction() as tx:
        tx.append("note.made", key, actor="x", sets=[("note", key, {"text": text})])


def test_a_full_disk_says_so_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as place:
        ledger = Ledger.open(f"sqlite:///{place}/ledger.db")
        acknowledged: list[str] = []
        with pytest.raises(Unavailable, match="is full"):
            for n in range(1000):
                note(ledger, str(n), 20_000)
                acknowledged.append(str(n))
        assert len(acknowledged) > 3
        assert ledger.keys("note") == acknowledged  # still readable
        (place / "ballast").unlink(missing_ok=True)
        ledger.close()
        again = Ledger.open(f"sqlite:///{place}/ledger.db")
        assert again.keys("note") == acknowledged
        assert [again.verify_event(event.seq) for event in again.events()] == [""] * len(acknowledged)
        again.close()


def test_when_there_is_room_again_writing_goes_on(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as place:
        ledger = Ledger.open(f"sqlite:///{place}/ledger.db")
        free = os.statvfs(place)
        (place / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_bsize - 16_384))
        with pytest.raises(Unavailable, match="is full"):
            for n in range(100):
                note(ledger, str(n), 20_000)
        (place / "ballast").unlink()
        note(ledger, "after", 20_000)
        assert ledger.verify("note", "after") == ""
        ledger.close()


def test_a_full_disk_under_blobs_says_so_and_leaves_no_half_blob(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small") as place:
        blobs = Blobs.open(f"file:{place}/blobs")
        kept = blobs.put(os.urandom(500_000))
        with pytest.raises(Unavailable, match=r"can't be written.*No space"):
            for _ in range(10):
                blobs.put(os.urandom(500_000))
        big = tmp_path / "big"
        big.write_bytes(os.urandom(3_000_000))
        with pytest.raises(Unavailable, match="No space"):
            blobs.put_file(big)
        for digest in blobs.ls():
            blobs.get(digest)
        assert kept in blobs


@pytest.mark.parametrize("where", ["header", "anywhere"])
def test_a_corrupt_file_is_named_and_never_believed(tmp_path: Path, where: str) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    for n in range(200):
        note(ledger, str(n), 500)
    ledger.close()
    whole = (tmp_path / "ledger.db").read_bytes()
    found = 0
    rng = random.Random(3)
    for _ in range(12):
        broken = bytearray(whole)
        start = 0 if where == "header" else rng.randrange(100, len(broken) - 4096)
        broken[start : start + 4096] = rng.randbytes(4096)
        (tmp_path / "ledger.db").write_bytes(broken)
        for extra in tmp_path.glob("ledger.db-*"):
            extra.unlink()
        try:
            opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
            wrong = [opened.verify("note", key) for key in map(str, range(200))]
            opened.close()
            found += any(wrong)
        except (Unavailable, Refused):
            found += 1
    assert found >= (12 if where == "header" else 6)  # the rest fell on pages of indexes that no query used


def test_a_cut_file_is_an_error_of_ours(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    for n in range(50):
        note(ledger, str(n), 2000)
    ledger.close()
    whole = (tmp_path / "ledger.db").read_bytes()
    (tmp_path / "ledger.db").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FlyballError):
        opened = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
        opened.events()


def test_a_reader_is_not_held_up_by_a_frozen_writer_and_a_writer_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.open(url)
    note(ledger, "a")
    code = f"""
import os, signal
from flyball.stores.metadata import Ledger
ledger = Ledger.open({url!r})
with ledger.transaction() as tx:
    tx.append("note.made", "b", actor="x", sets=[("note", "b", {{}})])
    print("in", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    assert ledger.keys("note") == ["a"]
    hurried = Ledger.open(url + "?lock_s=0.2")
    with pytest.raises(Unavailable, match="locked"):
        note(hurried, "c")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    note(hurried, "c")
    assert ledger.keys("note") == ["a", "c"]
    hurried.close()
    ledger.close()


def test_a_folder_that_may_not_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="can't be made"):
        Ledger.open(f"sqlite:///{tmp_path}/file/ledger.db")
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(Unavailable, match="does not answer"):
        Ledger.open(f"sqlite:///{tmp_path}/ledger.db")


def test_the_file_is_plain_sqlite_in_wal_mode(tmp_path: Path) -> None:
    Ledger.open(f"sqlite:///{tmp_path}/ledger.db").close()
    raw = sqlite3.connect(tmp_path / "ledger.db")
    assert raw.execute("pragma journal_mode").fetchone() == ("wal",)
    raw.close()
