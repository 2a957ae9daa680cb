"""Reading one vector, filling the store, and what may be forgotten. Values are proved in tests/property."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features import (
    OnlineReader,
    RequestField,
    Service,
    View,
    count,
    materialize,
    max,
    mean,
    push,
    std,
)
from flyball.features.filling import expire
from flyball.stores.online import OnlineStore, open_online

T = datetime(2013, 4, 1, 12, tzinfo=UTC)
VIEW = View(
    "c", ("carrier",), "landed", "at", "at", ("delay",), (mean("delay", "3h"), count("3h")), ttl_s=3600
)
REQUEST = (
    RequestField("hour", "INT64"),
    RequestField("note", "BYTES"),
    RequestField("far", "FP32", nullable=True),
)
SERVICE = Service("s", ("hour", "c:delay_mean_3h", "c:count_3h", "c:delay", "note", "far"), REQUEST)
FIELDS = {"hour": 9, "note": "x", "far": 1.5}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OnlineStore]:
    store = open_online(f"lmdb:{tmp_path}/online")
    yield store
    store.close()


def landed(count: int = 2, every: timedelta = timedelta(minutes=1)) -> pl.DataFrame:
    times = [T - every * (count - 1 - i) for i in range(count)]
    return pl.DataFrame(
        {"carrier": ["UA"] * count, "at": times, "delay": [float(i % 50) for i in range(count)]}
    )


def read(store: OnlineStore, at: datetime = T, view: View = VIEW) -> list[Any]:
    service = SERVICE if view is VIEW else Service("s", view.features)
    return OnlineReader(service, [view], store).read({"carrier": "UA"}, FIELDS, to_us(at)).values


def test_the_vector_is_in_the_order_of_the_service_with_source_times(store: OnlineStore) -> None:
    assert push(VIEW, landed(), store) == 2
    row = OnlineReader(SERVICE, [VIEW], store).read({"carrier": "UA"}, FIELDS, to_us(T))
    assert row.values == [9.0, 0.5, 2.0, 1.0, "x", 1.5]
    assert row.times_us == [None, to_us(T), to_us(T), to_us(T), None, None]


@pytest.mark.parametrize("key", ["ZZ", None, 7])
def test_an_unknown_entity_has_nulls_and_counts_of_nought(store: OnlineStore, key: object) -> None:
    push(VIEW, landed(), store)
    row = OnlineReader(SERVICE, [VIEW], store).read({"carrier": key}, FIELDS, to_us(T))
    assert row.values == [9.0, None, 0.0, None, "x", 1.5]
    assert row.times_us == [None] * 6


def test_a_store_that_was_never_filled_is_empty_and_later_seen(tmp_path: Path) -> None:
    reader_store = open_online(f"lmdb:{tmp_path}/online", readonly=True)
    assert read(reader_store)[1:4] == [None, 0.0, None]
    assert not (tmp_path / "online").exists()
    writer = open_online(f"lmdb:{tmp_path}/online")
    push(VIEW, landed(), writer)
    assert read(reader_store)[1:4] == [0.5, 2.0, 1.0]
    writer.close()
    reader_store.close()


@pytest.mark.parametrize(
    ("entities", "fields", "named"),
    [
        ({}, FIELDS, "lacks entity 'carrier'"),
        ({"carrier": 1.5}, FIELDS, "entity 'carrier' is 1.5"),
        ({"carrier": True}, FIELDS, "entity 'carrier' is True"),
        ({"carrier": ["UA"]}, FIELDS, "entity 'carrier' is"),
        ({"carrier": "UA"}, {**FIELDS, "hour": 9.5}, "request field 'hour' is 9.5"),
        ({"carrier": "UA"}, {**FIELDS, "hour": True}, "request field 'hour' is True"),
        ({"carrier": "UA"}, {**FIELDS, "hour": 2**63}, "request field 'hour' is 9223372036854775808"),
        ({"carrier": "UA"}, {**FIELDS, "hour": None}, "request field 'hour' is None"),
        ({"carrier": "UA"}, {**FIELDS, "note": 3}, "request field 'note' is 3"),
        ({"carrier": "UA"}, {**FIELDS, "far": float("nan")}, "request field 'far' is nan"),
        ({"carrier": "UA"}, {"hour": 9, "note": "x"}, "lacks field 'far'"),
    ],
)
def test_a_wrong_request_is_refused_and_its_field_named(
    store: OnlineStore, entities: dict[str, Any], fields: dict[str, Any], named: str
) -> None:
    with pytest.raises(Invalid) as error:
        OnlineReader(SERVICE, [VIEW], store).read(entities, fields, to_us(T))
    assert named in error.value.what
    assert error.value.facts["field"] in named


def test_a_nullable_field_may_be_null(store: OnlineStore) -> None:
    row = OnlineReader(SERVICE, [VIEW], store).read({"carrier": "UA"}, {**FIELDS, "far": None}, to_us(T))
    assert row.values[5] is None


def test_materialize_takes_what_became_known_after_since_up_to_until(store: OnlineStore) -> None:
    table = landed(10, timedelta(hours=1))
    first = materialize(VIEW, table, store, until=T - timedelta(hours=5))
    again = materialize(VIEW, table.lazy(), store, since=T - timedelta(hours=5), until=T)
    assert (first, again) == (5, 5)
    assert materialize(VIEW, table, store) == 0


def test_a_read_as_of_the_past_is_that_of_the_past(store: OnlineStore) -> None:
    push(VIEW, landed(1000), store)
    assert read(store, T - timedelta(minutes=700))[1:4] == [
        sum(i % 50 for i in range(120, 300)) / 180,
        180.0,
        float(299 % 50),
    ]


def test_what_was_forgotten_is_an_error_and_not_a_wrong_number(store: OnlineStore) -> None:
    for part in landed(3000).iter_slices(100):
        push(VIEW, part, store, history_s=3600)
    assert read(store)[2] == read(store, T - timedelta(minutes=59))[2] == 180.0
    with pytest.raises(Invalid, match="history_s"):
        read(store, T - timedelta(minutes=2900))


def test_expiry_by_hand_forgets_what_no_later_read_needs(store: OnlineStore) -> None:
    push(VIEW, landed(3000), store, history_s=None)
    before = read(store)
    assert expire(VIEW, store, as_of=T, history_s=0) > 2000
    assert read(store) == before


def test_numbers_with_fractions_stay_right_after_a_monstrous_one_has_left(store: OnlineStore) -> None:
    """1e17 in the running sums leaves no digit for 0.1: the reader notices and adds up the window itself."""
    view = View(
        "c",
        ("carrier",),
        "landed",
        "at",
        "at",
        (),
        (mean("delay", "3h"), std("delay", "3h"), max("delay", "3h")),
    )
    table = landed(5).with_columns(delay=pl.Series([0.5, 1e17, 0.1, 0.3, 0.8])).with_columns(
        at=pl.col("at") - pl.duration(hours=pl.Series([9, 9, 0, 0, 0]))
    )  # fmt: skip
    push(view, table, store)
    got = read(store, view=view)
    assert got[0] == pytest.approx(0.4, rel=1e-12)
    assert got[1] == pytest.approx(0.3605551275463989, rel=1e-12)
    assert got[2] == 0.8


def test_a_changed_view_reads_its_own_rows(store: OnlineStore) -> None:
    push(VIEW, landed(), store)
    changed = View("c", ("carrier",), "landed", "at", "at", (), (mean("other", "3h"),))
    push(changed, landed().rename({"delay": "other"}).with_columns(pl.col("other") + 100), store)
    assert read(store, view=changed) == [100.5]
    assert read(store)[1] == 0.5
