"""Blobs: whole or not at all, and never other bytes than their name says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.core.hashing import digest_bytes
from flyball.errors import Invalid, NotFound, Refused
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
