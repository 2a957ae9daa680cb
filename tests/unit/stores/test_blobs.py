"""Blobs: whole or not at all, and never other bytes than their name says."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.core.hashing import digest_bytes
from flyball.errors import Conflict, Invalid, NotFound, Refused, Unavailable
from flyball.stores.blobs import Blobs


@given(st.binary(max_size=2000))
def test_what_is_put_is_what_is_got(data: bytes) -> None:
    blobs = Blobs.open("memory:")
    digest = blobs.put(data)
    assert blobs.get(digest) == data
    assert blobs.size_bytes(digest) == len(data)
    assert blobs.put(data) == digest
    assert blobs.ls() == [digest]


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(range(256)) * 50_000)
    blobs = Blobs.open(f"file:{tmp_path / 'blobs'}")
    digest = blobs.put_file(path)
    assert digest == digest_bytes(path.read_bytes())
    assert blobs.get(digest) == path.read_bytes()


def test_changed_bytes_are_refused_and_named(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    digest = blobs.put(b"hello")
    place = tmp_path / digest[3:5] / digest[5:]
    place.write_bytes(b"hellp")
    with pytest.raises(Refused, match=f"the stored bytes of {digest} have changed"):
        blobs.get(digest)
    assert blobs.read_unchecked(digest) == b"hellp"


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    with pytest.raises(NotFound, match="no blob"):
        blobs.get(digest_bytes(b"x"))
    with pytest.raises(NotFound, match="no file"):
        blobs.put_file(tmp_path / "none")
    with pytest.raises(Invalid, match="is not a digest"):
        blobs.get("b3:..%2f..%2fetc")
    with pytest.raises(Invalid, match="is not a blob URL"):
        Blobs.open("what://is/this")


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_stream_is_the_blob_of_its_pieces(pieces: list[bytes]) -> None:
    blobs = Blobs.open("memory:")
    assert blobs.get(blobs.put_stream(pieces)) == b"".join(pieces)


@pytest.mark.parametrize("url", ["memory:", "file:"])
def test_a_part_of_a_blob_is_read_without_the_rest(tmp_path: Path, url: str) -> None:
    blobs = Blobs.open(f"{url}{tmp_path}" if url == "file:" else url)
    digest = blobs.put(b"0123456789")
    assert blobs.read_range(digest, 3, 4) == b"3456"
    assert blobs.read_range(digest, 3, 0) == b""
    assert b"".join(blobs.stream(digest, 4)) == b"0123456789"
    with pytest.raises(NotFound):
        blobs.read_range(digest_bytes(b"x"), 0, 1)


def test_a_writer_that_is_left_early_leaves_nothing(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError):
        blobs.put_stream(broken())
    assert blobs.ls() == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("url", ["memory:", "file:"])
def test_a_deleted_blob_is_gone_and_a_second_time_is_no_error(tmp_path: Path, url: str) -> None:
    blobs = Blobs.open(f"{url}{tmp_path}" if url == "file:" else url)
    digest = blobs.put(b"hello")
    assert blobs.delete(digest)
    assert not blobs.delete(digest)
    assert digest not in blobs
    assert blobs.put(b"hello") == digest
    assert blobs.get(digest) == b"hello"


def test_an_old_blob_that_is_put_again_counts_as_new(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    digest = blobs.put(b"hello")
    os.utime(blobs.path(digest), (1e9, 1e9))
    assert time.time() - blobs.stat(digest).modified.timestamp() > 1e6
    blobs.put(b"hello")
    assert time.time() - blobs.stat(digest).modified.timestamp() < 60


def test_who_collects_waits_for_who_adds_and_the_other_way_round(tmp_path: Path) -> None:
    blobs, other = (Blobs.open(f"file:{tmp_path}") for _ in range(2))
    with (
        blobs.adding(),
        other.adding(),
        pytest.raises(Conflict, match="someone adds"),
        other.collecting(wait_s=0),
    ):
        pass
    with other.collecting(wait_s=0), pytest.raises(Conflict, match="held"), blobs.collecting(wait_s=0):
        pass
    assert blobs.ls() == []


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    kept = blobs.put(b"hello")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(Unavailable, match="can't be written") as caught:
            blobs.put_stream(bytes(1 << 18) for _ in range(8))
        assert "free some space" in caught.value.hint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert blobs.ls() == [kept]
    assert not list(tmp_path.glob(".part/*"))


def test_what_killed_writers_left_is_cleared_once_it_is_old(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    kept = blobs.put(b"hello")
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part/old").write_bytes(b"half")
    os.utime(tmp_path / ".part/old", (1e9, 1e9))
    (tmp_path / ".part/new").write_bytes(b"half")
    assert blobs.clear_strays() == 1
    assert (tmp_path / ".part/new").exists()
    assert blobs.ls() == [kept]


def test_documents_by_name_lie_beside_the_blobs(tmp_path: Path) -> None:
    blobs = Blobs.open(f"file:{tmp_path}")
    assert blobs.get_named("snapshot/flights@1.json") is None
    blobs.put_named("snapshot/flights@1.json", b"{}", only_new=True)
    with pytest.raises(Conflict):
        blobs.put_named("snapshot/flights@1.json", b"[]", only_new=True)
    assert blobs.get_named("snapshot/flights@1.json") == b"{}"
    assert blobs.ls_named("snapshot/") == ["snapshot/flights@1.json"]
    assert blobs.ls() == []
