"""What every online store must do. Subclass :class:`OnlineStoreSuite` and give it a fixture ``store``.

>>> class TestMine(OnlineStoreSuite):
...     def store(self):            # with @pytest.fixture
...         return open_online("mine:...")
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import msgspec
import numpy as np
import pytest

from flyball.errors import Invalid, Unavailable
from flyball.stores.online import OnlineStore, Rows, no_rows, pack_key, view_address
from flyball.stores.online_chunks import Header, bare_of, layout_of

Row = tuple[str, int, int, int, float]  # key, happened, known, row id, value
VIEW = "delays@1"


def batch(rows: list[Row], texts: Mapping[int, str] = {}) -> Rows:
    """A batch of one column from plain tuples."""
    names = list(dict.fromkeys(row[0] for row in rows))
    columns = [np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2, 3)]
    return Rows(
        [pack_key((name,)) for name in names],
        np.array([names.index(row[0]) for row in rows], dtype=np.int64),
        columns[0],
        columns[1],
        columns[2],
        np.array([[row[4]] for row in rows], dtype=np.float64),
        texts,
    )


def rows_of(store: OnlineStore, name: str, view: str = VIEW, columns: int = 1) -> list[tuple[float, ...]]:
    """All rows of a key as ``(happened, known, row id, value)``, oldest first, read the way a reader must."""
    layout, address = layout_of(columns), view_address(view) + pack_key((name,))
    reading = store.begin()
    found: list[tuple[float, ...]] = []
    try:
        chunk = reading.tail(address)
        while chunk is not None:
            bare = bare_of(layout, chunk)
            times, values = bare.view(np.int64)[:, :3].tolist(), bare[:, 3:].tolist()
            found = [(*time, *value) for time, value in zip(times, values, strict=True)] + found
            chunk = reading.closed(address, int(times[0][0]) - 1)
    finally:
        reading.close()
    return found


class OnlineStoreSuite:
    """The promises of :class:`flyball.stores.online.OnlineStore`, one test each."""

    def test_an_unknown_key_view_or_store_has_no_rows(self, store: OnlineStore) -> None:
        assert rows_of(store, "UA") == []
        assert store.views() == {}
        assert store.clear("nothing@1") == 0
        assert store.expire("nothing@1", 10, as_of_us=10) == 0
        store.append(VIEW, batch([("UA", 1, 1, 0, 5.0)]))
        assert rows_of(store, "AA") == []
        assert store.views() == {VIEW: 1}

    def test_rows_come_back_sorted_whatever_the_order_of_arrival(self, store: OnlineStore) -> None:
        rows = [("UA", at * 7 % 1009, at * 7 % 1009 + at % 3, 0, float(at)) for at in range(1000)]
        for begin in range(0, 1000, 90):
            store.append(VIEW, batch(rows[begin : begin + 90]))
        assert rows_of(store, "UA") == sorted(row[1:] for row in rows)

    def test_a_row_twice_counts_once_in_one_batch_and_across(self, store: OnlineStore) -> None:
        rows: list[Row] = [
            ("UA", 1, 1, 0, 5.0),
            ("UA", 2, 2, 0, 6.0),
            ("AA", 2, 2, 0, 6.0),
            ("UA", 1, 1, 0, 5.0),
        ]
        assert store.append(VIEW, batch(rows)) == 3
        assert store.append(VIEW, batch(rows)) == 0
        assert len(rows_of(store, "UA")) == 2

    def test_rows_that_differ_only_in_their_id_are_two(self, store: OnlineStore) -> None:
        assert store.append(VIEW, batch([("UA", 1, 1, 7, 5.0), ("UA", 1, 1, 8, 5.0)])) == 2
        assert store.append(VIEW, batch([("UA", 1, 1, 8, 5.0), ("UA", 1, 1, 9, 5.0)])) == 1

    def test_ties_in_both_clocks_keep_the_order_of_arrival(self, store: OnlineStore) -> None:
        """Whatever their ids and values are; the first of two equal rows stays where it is."""
        for at, order in enumerate(permutations([(7, 5.0), (8, 5.0), (1, 9.0)])):
            rows: list[Row] = [(f"N{at}", 3, 3, row_id, value) for row_id, value in order]
            store.append(VIEW, batch([*rows, rows[0], *rows[:2]]))
            assert rows_of(store, f"N{at}") == [row[1:] for row in rows]
            for row in (*rows, (f"N{at}", 3, 2, 0, 1.0), (f"N{at}", 3, 3, 0, 1.0), rows[1]):
                store.append(VIEW, batch([row]))
            assert rows_of(store, f"N{at}") == [(3, 2, 0, 1.0), *(row[1:] for row in rows), (3, 3, 0, 1.0)]

    def test_marks_are_set_with_the_rows_and_go_with_them(self, store: OnlineStore) -> None:
        assert store.mark("offset") is None
        store.append(VIEW, batch([("UA", 1, 1, 0, 5.0)]), marks={"offset": b"17", "x" * 900: b""})
        store.append(VIEW, no_rows(), marks={"offset": b"18"})
        store.append("other@1", batch([("UA", 1, 1, 0, 5.0)]), marks={"other": b"\x00"})
        store.append("third@1", no_rows())
        assert (store.mark("offset"), store.mark("x" * 900), store.mark("other")) == (b"18", b"", b"\x00")
        assert store.mark("offse") is None
        assert store.views() == {VIEW: 1, "other@1": 1}
        store.clear(VIEW)
        assert (store.mark("offset"), store.mark("x" * 900), store.mark("other")) == (None, None, b"\x00")

    def test_a_batch_that_is_refused_leaves_nothing_behind(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", 1, 1, 0, 1.0)], {5: "Boeing"}), marks={"offset": b"1"})
        clash = batch([("UA", 2, 2, 0, 5.0), ("AA", 2, 2, 0, 6.0)], {6: "Airbus", 5: "Embraer"})
        with pytest.raises(Invalid, match="'Boeing' and 'Embraer'"):
            store.append(VIEW, clash, marks={"offset": b"2"})
        wide = msgspec.structs.replace(clash, values=np.zeros((2, 2)), texts={6: "Airbus"})
        with pytest.raises(Invalid, match="1 columns, not 2"):
            store.append(VIEW, wide, marks={"offset": b"2"})
        assert rows_of(store, "UA") == [(1, 1, 0, 1.0)]
        assert rows_of(store, "AA") == []
        assert store.mark("offset") == b"1"
        reading = store.begin()
        assert [reading.text(code) for code in (5, 6)] == ["Boeing", None]
        reading.close()

    def test_texts_are_kept_once_for_their_codes(self, store: OnlineStore) -> None:
        reading = store.begin()
        assert reading.text(3) is None
        reading.close()
        store.append(VIEW, batch([("UA", 1, 1, 0, 3.0)], {3: "JFK", (1 << 52) - 1: "Zürich"}))
        store.append(VIEW, batch([("UA", 2, 2, 0, 3.0)], {3: "JFK"}))
        reading = store.begin()
        assert [reading.text(code) for code in (3, (1 << 52) - 1, 4)] == ["JFK", "Zürich", None]
        reading.close()

    def test_many_tails_are_each_what_one_would_be(self, store: OnlineStore) -> None:
        addresses = [view_address(view) + pack_key((f"N{at}",)) for view in (VIEW, "b@1") for at in range(40)]
        reading = store.begin()
        assert reading.tails(addresses) == [None] * 80
        assert reading.tails([]) == []
        reading.close()
        store.append(VIEW, batch([(f"N{at}", at, at, 0, 1.0) for at in range(0, 40, 2)]))
        store.append("b@1", batch([(f"N{at}", i, i, 0, 1.0) for at in range(20, 40) for i in range(at)]))
        reading = store.begin()
        tails = reading.tails(addresses)
        assert [None if tail is None else bytes(tail) for tail in tails] == [
            None if tail is None else bytes(tail) for tail in map(reading.tail, addresses)
        ]
        assert sum(tail is not None for tail in tails) == 40
        reading.close()

    def test_a_head_is_the_beginning_of_the_header_and_of_the_newest_row(self, store: OnlineStore) -> None:
        rows = [("UA", at, at, 0, float(at)) for at in range(300)]
        plain = msgspec.structs.replace(batch(rows), sums=False)
        for view, its in ((VIEW, batch(rows)), ("latest@1", plain)):
            store.append(view, its)
            layout, addresses = (
                layout_of(1, its.sums),
                [view_address(view) + pack_key((name,)) for name in ("UA", "AA")],
            )
            reading = store.begin()
            tail, (head, nothing) = reading.tail(addresses[0]), reading.heads(addresses, layout)
            reading.close()
            assert nothing is None
            assert tail is not None
            last = tail[-layout.row_bytes :]
            assert head == bytes(tail[:48]) + bytes(last[:40])
        assert store.views() == {VIEW: 1, "latest@1": 1}

    def test_late_rows_are_merged_into_closed_chunks_and_a_look_from_before_is_not_mixed(
        self, store: OnlineStore
    ) -> None:
        """A look whose chunks were rewritten shows all as it was, or says that it must be made again."""
        store.append(VIEW, batch([("UA", at, at, 0, 1.0) for at in range(0, 2000, 2)]))
        address, layout, reading = view_address(VIEW) + pack_key(("UA",)), layout_of(1), store.begin()
        tail = reading.tail(address)
        assert tail is not None
        before = Header.read(layout, tail).rows_before
        assert store.append(VIEW, batch([("UA", at, at + 5, 0, 2.0) for at in range(1, 1001, 2)])) == 500
        found, at_us = 0, int(layout.words(tail).view(np.int64)[0, 0]) - 1
        try:
            while (chunk := reading.closed(address, at_us)) is not None:
                found, at_us = found + layout.count(chunk), int(layout.words(chunk).view(np.int64)[0, 0]) - 1
        except Unavailable:
            found = before
        reading.close()
        assert found == before
        assert [row[0] for row in rows_of(store, "UA")] == [*range(1001), *range(1002, 2000, 2)]

    def test_nulls_and_what_is_no_number_are_one_null(self, store: OnlineStore) -> None:
        odd = [float("nan"), float("inf"), -float("inf"), 1e200]
        assert store.append(VIEW, batch([("UA", 1, 1, 0, value) for value in odd])) == 1

    def test_running_sums_are_those_of_all_rows_before(self, store: OnlineStore) -> None:
        """Also after late rows: a chunk's header plus its last row tells count, sum and squares of the whole key."""
        values = [float(at % 17) for at in range(900)]
        late = list(range(0, 900, 13))
        store.append(VIEW, batch([("UA", at, at, 0, values[at]) for at in range(900) if at not in late]))
        store.append(VIEW, batch([("UA", at, at + 5, 0, values[at]) for at in late]))
        layout, reading = layout_of(1), store.begin()
        tail = reading.tail(view_address(VIEW) + pack_key(("UA",)))
        assert tail is not None
        header, last = Header.read(layout, tail), layout.words(tail)[-1]
        reading.close()
        count, total, squares = (a + b for a, b in zip(header.sums_before, last[5:8].tolist(), strict=True))
        shift = header.shifts[0]
        assert header.exact == 1
        assert header.rows_before + layout.count(bytes(tail)) == 900 == count
        assert total == sum(value - shift for value in values)
        assert squares == sum((value - shift) ** 2 for value in values)
        assert header.ready == max(899, late[-1] + 5)

    def test_closed_finds_the_chunk_in_which_a_time_falls(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", at * 10, at * 10, 0, 1.0) for at in range(1000)]))
        store.append(VIEW, batch([("TZ", 5, 5, 0, 1.0), ("ZZ", 5, 5, 0, 1.0)]))  # neighbours on both sides
        address, reading = view_address(VIEW) + pack_key(("UA",)), store.begin()
        assert reading.closed(address, -1) is None
        for at in (0, 9, 10, 555, 1280, 5000):
            chunk = reading.closed(address, at)
            assert chunk is not None
            happened = bare_of(layout_of(1), chunk).view(np.int64)[:, 0]
            assert happened[0] <= at < happened[-1] + 10
        oldest = reading.oldest(address)
        assert oldest is not None
        assert bare_of(layout_of(1), oldest).view(np.int64)[0, 0] == 0
        assert reading.oldest(view_address(VIEW) + pack_key(("TZ",))) is None
        reading.close()

    def test_rows_of_one_instant_stay_in_one_chunk(self, store: OnlineStore) -> None:
        rows: list[Row] = [("UA", at // 400, at // 400, at, 1.0) for at in range(2000)]
        assert store.append(VIEW, batch(rows)) == 2000
        assert len(rows_of(store, "UA")) == 2000
        assert store.append(VIEW, batch(rows[300:1500])) == 0

    def test_a_reading_does_not_see_what_is_written_meanwhile(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", 1, 1, 0, 5.0)]))
        address, reading = view_address(VIEW) + pack_key(("UA",)), store.begin()
        before = reading.tail(address)
        assert before is not None
        copy = bytes(before)
        store.append(VIEW, batch([("UA", 2, 2, 0, 6.0)]))
        after = reading.tail(address)
        assert after is not None
        assert bytes(before) == bytes(after) == copy
        reading.close()
        assert len(rows_of(store, "UA")) == 2

    def test_expiry_keeps_what_is_needed_and_the_newest(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", at, at, 0, 1.0) for at in range(2000)]))
        store.append(VIEW, batch([("AA", 1, 1, 0, 1.0)]))
        dropped = store.expire(VIEW, 1000, as_of_us=1500)
        kept = rows_of(store, "UA")
        assert dropped > 500
        assert len(kept) == 2000 - dropped
        assert kept[0][0] <= 1001
        assert len(rows_of(store, "AA")) == 1
        assert store.expire(VIEW, 1000, as_of_us=1500) == 0

    def test_expiry_waits_until_a_newer_row_is_visible(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", at, at + 10_000, 0, 1.0) for at in range(2000)]))
        assert store.expire(VIEW, 1000, as_of_us=1500) == 0
        assert store.expire(VIEW, 1000, as_of_us=11_500) > 0

    def test_append_drops_old_chunks_when_told_how_much_to_keep(self, store: OnlineStore) -> None:
        for begin in range(0, 4000, 50):
            rows: list[Row] = [("UA", at, at, 0, 1.0) for at in range(begin, begin + 50)]
            assert store.append(VIEW, batch(rows), keep_us=500) == 50
        kept = rows_of(store, "UA")
        assert kept[-1][0] == 3999
        assert 500 < len(kept) < 1200

    def test_clearing_forgets_one_view_only(self, store: OnlineStore) -> None:
        store.append(VIEW, batch([("UA", at, at, 0, 1.0) for at in range(1000)]))
        store.append(VIEW, batch([("AA", 1, 1, 0, 1.0)]))
        store.append("other@1", batch([("UA", 1, 1, 0, 1.0)]))
        assert store.clear(VIEW) == 2
        assert rows_of(store, "UA") == rows_of(store, "AA") == []
        assert store.views() == {"other@1": 1}
        assert len(rows_of(store, "UA", "other@1")) == 1
