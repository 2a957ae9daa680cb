"""Online features against an oracle in the plainest Python: one entity, many entities, and the offline join agree.

Random tables with both clocks, ties, time-to-live edges, duplicates, unknown entities, writes out of order, texts, all
window functions and hops, in chunks so small that windows cross many of them.
"""

import itertools
import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flyball.core.clock import to_us
from flyball.features import OnlineReader, RequestField, Service, View, Window, point_in_time, push
from flyball.features.reading import NOT_FOUND, NULL, OUTSIDE_TTL, PRESENT
from flyball.features.vectors import VectorReader
from flyball.stores import online_chunks
from flyball.stores.online import OnlineStore, open_online
from flyball.stores.online_chunks import NEVER
from tests.redis_servers import RedisServer

START = datetime(2026, 3, 1, tzinfo=UTC)
NUMBERS = (
    "sum",
    "mean",
    "std",
    "min",
    "max",
    "last",
    "first",
    "distinct",
    "approx_distinct",
    "percentile",
    "count",
)
TEXTS = ("last", "first", "distinct", "approx_distinct", "count")
SCHEMA = {
    "shop": pl.String,
    "till": pl.Int64,
    "happened": pl.Datetime("us", "UTC"),
    "known": pl.Datetime("us", "UTC"),
    "price": pl.Float64,
    "pieces": pl.Int64,
    "open": pl.Boolean,
    "city": pl.String,
    "sale": pl.Int64,
}
ASKED = {"shop": pl.String, "till": pl.Int64, "at": pl.Datetime("us", "UTC")}
TYPES: Any = {"city": "BYTES", "pieces": "INT64", "open": "BOOL"}

whole = st.integers(-40, 300).map(float)
anything = st.one_of(
    whole, st.floats(-1e3, 1e3), st.sampled_from([0.1, 1e9, -0.0, math.nan, math.inf, -math.inf, 1e200])
)


def at(minute: float) -> datetime:
    return START + timedelta(minutes=minute)


def tables(prices: st.SearchStrategy[float]) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {
            "shop": st.sampled_from(["a", "a", "a", "b", None]),
            "till": st.sampled_from([1, 2]),
            "happened": st.sampled_from([*range(20), 0.5, 7.25]).map(at),
            "late": st.sampled_from([0] * 10 + [*range(-4, 9)]),
            "price": st.one_of(st.none(), prices),
            "pieces": st.one_of(st.none(), st.integers(0, 3)),
            "open": st.sampled_from([True, False, None]),
            "city": st.sampled_from(["Ulm", "Köln", "Ulm", "", None]),
            "sale": st.integers(0, 1),
        }
    )
    return st.lists(row, max_size=40).map(_known)


def _known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        row["known"] = row["happened"] + timedelta(minutes=row.pop("late"))
    return rows


questions = st.lists(
    st.fixed_dictionaries(
        {
            "shop": st.sampled_from(["a", "a", "b", "nobody", None]),
            "till": st.sampled_from([1, 2, 3]),
            "at": st.one_of(st.integers(0, 24), st.integers(-3, 60)).map(at),
        }
    ),
    min_size=1,
    max_size=10,
)


def views(ttl_s: int | None) -> list[View]:
    share = {"percentile": 0.3}
    windows = [
        Window(f"{function}_{window_s}_{hop_s}", "price", function, window_s, hop_s, share.get(function, 0.0))  # type: ignore[arg-type]  # its literals
        for window_s, hop_s in ((240, 0), (3600, 0), (240, 120))
        for function in NUMBERS
    ]
    windows += [Window(f"city_{one}", "city", one, 420) for one in TEXTS]  # type: ignore[arg-type]  # its literals
    windows += [Window("rows", None, "count", 240), Window("rows_hop", None, "count", 240, 120)]
    common: dict[str, Any] = {"source": "sales", "happened": "happened", "known": "known"}
    common["ttl_s"] = ttl_s
    text, number = {"types": {"city": "BYTES"}}, {"types": {"pieces": "INT64"}}
    return [
        View("by_shop", ("shop",), **common, columns=("price", "city"), windows=tuple(windows), **text),
        View("latest", ("shop",), **common, columns=("pieces", "open", "price", "city"), types=TYPES),
        View("by_till", ("shop", "till"), **common, columns=("pieces",), row_id=("sale",), **number),
    ]


def service(ttl_s: int | None) -> Service:
    names = [name for view in views(ttl_s) for name in view.features]
    return Service("all", ("amount", *names), (RequestField("amount", nullable=True),))


def oracle(view: View, source: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, tuple[Any, int]]:
    """Every feature of a view as the definition says it, with its status; ``source`` in order of arrival."""
    t, seen = asked["at"], []
    for row in source:
        key = tuple(row[name] for name in view.entity)
        if None in key or key != tuple(asked[name] for name in view.entity):
            continue
        values = {name: _value(row[name]) for name in view.stored_columns}
        found = (row["happened"], row["known"], tuple(row[name] for name in view.row_id), values)
        if row["happened"] <= t and row["known"] <= t and found not in seen:
            seen.append(found)
    seen.sort(key=lambda row: (row[0], row[1]))  # stable: of full ties the later arrival is the newer
    answers: dict[str, tuple[Any, int]] = {}
    for column in view.columns:
        if not seen:
            answers[column] = (None, NOT_FOUND)
        elif view.ttl_s is not None and t - seen[-1][0] > timedelta(seconds=view.ttl_s):
            answers[column] = (None, OUTSIDE_TTL)
        else:
            answers[column] = _stated(seen[-1][3][column])
    for window in view.windows:
        edge = to_us(t) - window.window_s * 1_000_000
        if window.hop_s:
            edge = edge // (window.hop_s * 1_000_000) * window.hop_s * 1_000_000
        inside = [row for row in seen if to_us(row[0]) > edge]
        values = [row[3][window.column] for row in inside] if window.column else [1] * len(inside)
        value = _reduced(window, [one for one in values if one is not None])
        answers[window.name] = _stated(value) if seen else (value, NOT_FOUND)
    return {f"{view.name}:{name}": answer for name, answer in answers.items()}


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return value + 0.0 if abs(value) <= 1e150 else None  # NaN is not below
    return value


def _stated(value: Any) -> tuple[Any, int]:
    return value, NULL if value is None else PRESENT


def _reduced(window: Window, values: list[Any]) -> Any:
    match window.function:
        case "count":
            return float(len(values))
        case "distinct" | "approx_distinct":
            return float(len(set(values)))
        case _ if not values:
            return None
        case "sum":
            return math.fsum(values)
        case "mean":
            return math.fsum(values) / len(values)
        case "std":
            return statistics.stdev(values) if len(values) > 1 else None
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "first":
            return values[0]
        case "percentile":
            return float(np.percentile(values, window.share * 100))
    return values[-1]


def same(found: Any, expected: Any) -> bool:
    if found is None or expected is None or isinstance(expected, str):
        return bool(found == expected) and type(found) is type(expected)
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-5)


@contextmanager
def filled(
    source: list[dict[str, Any]], cuts: list[int], ttl_s: int | None, url: str = ""
) -> Iterator[OnlineStore]:
    """A store of tiny chunks, filled in batches."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(online_chunks, "HALF", 2)
        patch.setattr("flyball.stores.online_lmdb.HALF", 2, raising=False)
        store = open_online(url or f"lmdb:{folder}")
        for begin, end in zip([0, *cuts], [*cuts, len(source)], strict=True):
            for view in views(ttl_s):
                push(view, pl.DataFrame(source[begin:end], schema=SCHEMA), store, history_s=None)
        yield store
        store.close()


batches = st.lists(st.integers(0, 40), max_size=5)


@pytest.mark.parametrize("ttl_s", [None, 0, 300])
@given(source=tables(anything), asked=questions, cuts=batches)
@settings(max_examples=15, deadline=None)
def test_one_entity_and_many_are_the_oracle_with_their_statuses(
    ttl_s: int | None, source: list, asked: list, cuts: list
) -> None:
    cuts = sorted(min(cut, len(source)) for cut in cuts)
    with filled(source, cuts, ttl_s) as store:
        one = OnlineReader(service(ttl_s), views(ttl_s), store)
        many = VectorReader(service(ttl_s), views(ttl_s), store)
        for question in asked:
            t = to_us(question["at"])
            row = one.read(question, {"amount": 1.5}, t)
            rows = [question, {"shop": "nobody", "till": 9}, question]
            vectors = many.read(rows, {"amount": [1.5, None, 1.5]}, t)
            assert vectors.status("amount") == ["PRESENT", "NULL", "PRESENT"]
            expected = {
                name: stated
                for view in views(ttl_s)
                for name, stated in oracle(view, source, question).items()
            }
            for place, (name, value) in enumerate(zip(one.service.features, row.values, strict=True)):
                if name == "amount":
                    continue
                assert same(value, expected[name][0]), (name, question)
                assert vectors.column(name)[0] == vectors.column(name)[2] == value, (name, question)
                assert vectors.statuses[0, place] == expected[name][1], (name, question)
                assert vectors.statuses[1, place] == NOT_FOUND
                time = row.times_us[place]
                assert vectors.times_us[0, place] == (NEVER if time is None else time)


@given(source=tables(whole), asked=questions, cuts=batches)
@settings(max_examples=15, deadline=None)
def test_online_is_the_offline_join_on_whole_numbers(source: list, asked: list, cuts: list) -> None:
    cuts = sorted(min(cut, len(source)) for cut in cuts)
    entities = pl.DataFrame(asked, schema=ASKED)
    names = service(300).features[1:]
    offline = point_in_time(entities, "at", views(300), {"sales": pl.DataFrame(source, schema=SCHEMA)})
    with filled(source, cuts, 300) as store:
        many = VectorReader(Service("all", names), views(300), store)
        for question, wanted in zip(asked, offline.select(names).to_dicts(), strict=True):
            found = many.read([question], (), to_us(question["at"])).to_dict(keys=False)
            for name in names:
                value, other = found[name][0], wanted[name]
                if "std" in name and other is not None:
                    assert value == pytest.approx(other, rel=1e-12, abs=1e-12), (name, question)
                else:
                    assert value == other, (name, question)


@given(source=tables(whole), asked=questions, data=st.data())
@settings(max_examples=15, deadline=None)
def test_event_time_wins_whatever_the_order_of_arrival(
    source: list, asked: list, data: st.DataObject
) -> None:
    """Rows that tie in key and both clocks keep their order; all others may come in any."""
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(source):
        places.setdefault((row["shop"], row["happened"], row["known"]), []).append(place)
    order = []
    taken = {key: iter(found) for key, found in places.items()}
    for place in data.draw(st.permutations(range(len(source)))):
        row = source[place]
        order.append(next(taken[row["shop"], row["happened"], row["known"]]))
    shuffled = [source[place] for place in order]
    with filled(source, [], 300) as straight, filled(shuffled, list(range(len(source))), 300) as mixed:
        for question in asked:
            t = to_us(question["at"])
            first, second = (
                VectorReader(service(300), views(300), store).read([question], [{"amount": 1.0}], t)
                for store in (straight, mixed)
            )
            np.testing.assert_array_equal(first.statuses, second.statuses)
            np.testing.assert_array_equal(first.values, second.values)


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.stop()


_prefixes = itertools.count()


_EARLY = {
    "shop": "a", "till": 1, "happened": at(0), "known": at(0), "price": None, "pieces": None, "open": True,
    "city": "Ulm", "sale": 0,
}  # fmt: skip


@given(source=tables(anything), asked=questions, cuts=batches)
@example(  # a late row that closes no chunk
    source=[{**_EARLY, "happened": at(1), "known": at(1)}, *[_EARLY] * 4],
    asked=[{"shop": "a", "till": 1, "at": at(0)}],
    cuts=[1],
)
@settings(max_examples=12, deadline=None)
def test_redis_answers_to_the_last_bit_as_lmdb_does(
    redis_url: str, source: list, asked: list, cuts: list
) -> None:
    cuts = sorted(min(cut, len(source)) for cut in cuts)
    url = f"{redis_url}?timeout_ms=10000&prefix=p{next(_prefixes)}"
    with filled(source, cuts, 300) as near, filled(source, cuts, 300, url) as far:
        for question in asked:
            t = to_us(question["at"])
            rows = [question, {"shop": "nobody", "till": 9}]
            ours, theirs = (
                VectorReader(service(300), views(300), store).read(rows, [{"amount": 1.0}] * 2, t)
                for store in (near, far)
            )
            np.testing.assert_array_equal(ours.values, theirs.values)
            np.testing.assert_array_equal(ours.statuses, theirs.statuses)
            np.testing.assert_array_equal(ours.times_us, theirs.times_us)
            assert ours.to_dict() == theirs.to_dict()
            one = [
                OnlineReader(service(300), views(300), store).read(question, {"amount": 1.0}, t)
                for store in (near, far)
            ]
            assert one[0] == one[1]
