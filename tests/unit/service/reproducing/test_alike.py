"""Artifacts with other bytes: alike but for ids and times, in values, or not at all."""

from __future__ import annotations

import io
import zipfile

import polars as pl
import pytest

from flyball.core.clock import SystemClock
from flyball.core.ids import new_id
from flyball.service.reproducing.alike import alike
from flyball.service.reproducing.comparing import _metric
from flyball.stores.blobs import Blobs

NOW = SystemClock().now()


@pytest.fixture
def stores():
    return Blobs.open("memory:"), Blobs.open("memory:")


def how(stores, one: bytes, two: bytes) -> str:
    before, after = stores
    return alike(before.put(one), before, after.put(two), after)


def ipc(frame: pl.DataFrame, compression: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, compression=compression)
    return buffer.getvalue()


def archive(members: dict[str, bytes], year: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


def test_records_may_differ_in_ids_and_times_alone(stores):
    text = '{"id":"%s","at":"2026-11-24T10:00:0%dZ","score":%s}'
    one = (text % (new_id("rep", NOW), 1, 0.5)).encode()
    two = (text % (new_id("rep", NOW), 2, 0.5)).encode()
    assert how(stores, one, two) == "equal but for ids and times"
    assert how(stores, one, two.replace(b"0.5", b"0.6")) == "differs"
    assert how(stores, one, one) == "equal"


def test_frames_are_compared_by_value(stores):
    frame = pl.DataFrame({"x": [1, None, 3], "y": [float("nan"), 1.0, 2.0]})
    assert how(stores, ipc(frame, "zstd"), ipc(frame, "lz4")) == "equal values"
    assert how(stores, ipc(frame, "zstd"), ipc(frame.reverse(), "zstd")) == "differs"


def test_archives_are_compared_by_content_and_addresses_by_their_order(stores):
    first = {"111222.npy": b"a", "schema.json": b'{"__id__": 999888, "file": "111222.npy", "n": 1000000}'}
    again = {"333444.npy": b"a", "schema.json": b'{"__id__": 777666, "file": "333444.npy", "n": 1000000}'}
    other = {"333444.npy": b"a", "schema.json": b'{"__id__": 777666, "file": "333444.npy", "n": 1000001}'}
    assert how(stores, archive(first, 2020), archive(again, 2021)) == "equal values"
    assert how(stores, archive(first, 2020), archive(other, 2020)) == "differs"
    assert how(stores, archive(first, 2020), archive({**again, "333444.npy": b"b"}, 2020)) == "differs"
    assert how(stores, archive(first, 2020), archive(first, 2020)[:-30]) == "differs"


def test_digests_in_records_are_followed(stores):
    before, after = stores
    left = before.put(archive({"m": b"1"}, 2020))
    same, other = after.put(archive({"m": b"1"}, 2021)), after.put(archive({"m": b"2"}, 2020))
    record = '{"model":"%s"}'
    assert how(stores, (record % left).encode(), (record % same).encode()) == "equal values"
    assert how(stores, (record % left).encode(), (record % other).encode()) == "differs"


def test_what_is_gone_differs(stores):
    before, after = stores
    assert alike(before.put(b"x"), before, "b3:" + "0" * 64, after) == "differs"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (1.0, 1.0, "equal"),
        (1.0, 1.0 + 1e-12, "within tolerance"),
        (1.0, 1.001, "differs"),
        (0.0, 1e-300, "differs"),
        (float("nan"), float("nan"), "equal"),
        (float("nan"), 1.0, "differs"),
        (float("inf"), float("inf"), "equal"),
        (1.0, None, "missing"),
    ],
)
def test_a_metric_is_exact_or_within_its_share(before, after, expected):
    assert _metric("m", before, after, 1e-9).how == expected
