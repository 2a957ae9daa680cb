"""Offline and online features against an oracle that says the definition in the plainest Python."""

import math
import statistics
import tempfile
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball.core.clock import to_us
from flyball.features import OnlineReader, Service, View, Window, point_in_time, push
from flyball.stores import online_chunks
from flyball.stores.online import open_online

START = datetime(2013, 4, 1, tzinfo=UTC)
FUNCTIONS = ("sum", "mean", "std", "min", "max", "last")
SCHEMA = {
    "origin": pl.String,
    "gate": pl.Int64,
    "happened": pl.Datetime("us", "UTC"),
    "known": pl.Datetime("us", "UTC"),
    "delay": pl.Float64,
    "seats": pl.Int64,
    "flight": pl.Int64,
}
ASKED = {"origin": pl.String, "gate": pl.Int64, "at": pl.Datetime("us", "UTC")}

minutes = st.integers(0, 24)
keys = st.sampled_from(["JFK", "JFK", "JFK", "LGA", "LGA", None])
gates = st.sampled_from([1, 2])
whole = st.integers(-40, 300).map(float)
numbers = st.one_of(
    whole, st.floats(-1e3, 1e3), st.sampled_from([0.1, 1e9, -0.0, float("nan"), float("inf")])
)


def at(minute: int | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def rows(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries(
        {
            "origin": keys,
            "gate": gates,
            "happened": st.sampled_from([*range(25), *range(25), None]).map(at),
            "late": st.sampled_from([0] * 12 + [None, *range(-6, 13)]),
            "delay": st.one_of(st.none(), values),
            "seats": st.one_of(st.none(), st.integers(0, 3)),
            "flight": st.integers(0, 1),
        }
    )
    return st.lists(row, max_size=40).map(_with_known)


def _with_known(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in found:
        late, happened = row.pop("late"), row["happened"]
        row["known"] = None if late is None or happened is None else happened + timedelta(minutes=late)
    return found


questions = st.lists(
    st.fixed_dictionaries(
        {
            "origin": st.sampled_from(["JFK", "JFK", "LGA", "EWR", None]),
            "gate": gates,
            "at": st.one_of(minutes, st.integers(-5, 60)).map(at),
        }
    ),
    max_size=12,
)


def views(ttl_s: int | None = 300) -> list[View]:
    windows = [Window("rows", None, "count", 240), Window("delays", "delay", "count", 600)]
    windows += [Window(f"{f}_4m", "delay", f, 240) for f in FUNCTIONS]  # type: ignore[arg-type] # its literals
    windows += [Window(f"{f}_1h", "delay", f, 3600) for f in FUNCTIONS]  # type: ignore[arg-type] # its literals
    return [
        View(
            "by_origin",
            ("origin",),
            "flights",
            "happened",
            "known",
            ("delay", "seats"),
            tuple(windows),
            ttl_s,
        ),
        View(
            "by_gate",
            ("origin", "gate"),
            "flights",
            "happened",
            "known",
            ("seats",),
            (Window("seats_5m", "seats", "mean", 300), Window("rows_5m", None, "count", 300)),
            row_id=("flight",),
        ),
    ]


def oracle(view: View, source: list[dict[str, Any]], asked: dict[str, Any]) -> dict[str, float | None]:
    """Every feature of a view as the definition says it, row by row."""
    t = asked["at"]
    key = tuple(asked[name] for name in view.entity)
    seen: dict[tuple[Any, ...], None] = {}  # in the order of the source, the first of equal rows
    for row in source:
        mine = tuple(row[name] for name in view.entity)
        if None in mine or mine != key or row["happened"] is None or row["known"] is None:
            continue
        if row["happened"] <= t and row["known"] <= t:
            values = tuple(_value(row[name]) for name in view.stored_columns)
            seen[row["happened"], row["known"], tuple(row[name] for name in view.row_id), values] = None
    found: dict[str, float | None] = {}
    if view.columns:
        newest = _newest(list(seen))
        fresh = newest and (view.ttl_s is None or t - newest[0] <= timedelta(seconds=view.ttl_s))
        for column in view.columns:
            found[column] = newest[3][view.stored_columns.index(column)] if newest and fresh else None
    for window in view.windows:
        inside = [row for row in seen if row[0] > t - timedelta(seconds=window.window_s)]
        if window.column is None:
            found[window.name] = float(len(inside))
            continue
        i = view.stored_columns.index(window.column)
        found[window.name] = _aggregate(window.function, [row for row in inside if row[3][i] is not None], i)
    return {f"{view.name}:{name}": value for name, value in found.items()}


def _value(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value) + 0.0


def _newest(seen: list[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    """Greatest (happened, known); of those that tie the one that came last."""
    return max(reversed(seen), key=lambda row: row[:2], default=None)


def _aggregate(function: str, inside: list[tuple[Any, ...]], column: int) -> float | None:
    values = [row[3][column] for row in inside]
    match function:
        case "count":
            return float(len(values))
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
    newest = _newest(inside)
    assert newest is not None
    return newest[3][column]


def frames(source: list[dict[str, Any]], asked: list[dict[str, Any]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.DataFrame(source, schema=SCHEMA), pl.DataFrame(asked, schema=ASKED)


def same(found: float | None, expected: float | None, exact: bool) -> bool:
    if found is None or expected is None:
        return found is expected
    if exact:
        return found == expected
    return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-5)


@pytest.mark.parametrize("ttl_s", [None, 0, 300])
@given(source=rows(whole), asked=questions)
@settings(max_examples=40, deadline=None)
def test_offline_is_the_oracle_on_whole_numbers(ttl_s: int | None, source: list, asked: list) -> None:
    table, entities = frames(source, asked)
    found = point_in_time(entities, "at", views(ttl_s), {"flights": table})
    assert found.select(*ASKED).equals(entities)
    for row, question in zip(found.to_dicts(), asked, strict=True):
        for view in views(ttl_s):
            for name, expected in oracle(view, source, question).items():
                # a standard deviation takes a root: the oracle rounds elsewhere, in the last bit
                assert same(row[name], expected, exact="std" not in name), (name, question)


@given(source=rows(numbers), asked=questions)
@settings(max_examples=50, deadline=None)
def test_offline_is_the_oracle_on_any_numbers(source: list, asked: list) -> None:
    table, entities = frames(source, asked)
    found = point_in_time(entities, "at", views(), {"flights": table.lazy()})
    for row, question in zip(found.to_dicts(), asked, strict=True):
        for view in views():
            for name, expected in oracle(view, source, question).items():
                assert same(row[name], expected, exact=False), (name, question)


@given(source=rows(numbers), asked=questions, data=st.data())
@settings(max_examples=50, deadline=None)
def test_online_is_the_oracle_whatever_the_batches_and_their_order(
    source: list, asked: list, data: st.DataObject
) -> None:
    """With chunks of at most four rows, so that windows cross chunks and late rows rewrite them."""
    order = data.draw(st.permutations(range(len(source))))
    shuffled = [source[i] for i in order]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=6)))
    service = Service("all", tuple(name for view in views() for name in view.features))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(online_chunks, "HALF", 2)
        store = open_online(f"lmdb:{folder}")
        for begin, end in zip([0, *cuts], [*cuts, len(source)], strict=True):
            for view in views():
                push(view, pl.DataFrame(shuffled[begin:end], schema=SCHEMA), store, history_s=None)
        reader = OnlineReader(service, views(), store)
        for question in asked:
            read = reader.read(question, {}, to_us(question["at"]))
            expected = {k: v for view in views() for k, v in oracle(view, shuffled, question).items()}
            for name, value in zip(service.features, read.values, strict=True):
                assert same(value, expected[name], exact=False), (name, question)
        store.close()


@given(source=rows(whole), asked=questions)
@settings(max_examples=40, deadline=None)
def test_online_and_offline_are_equal_to_the_last_bit_on_whole_numbers(source: list, asked: list) -> None:
    table, entities = frames(source, asked)
    service = Service("all", tuple(name for view in views() for name in view.features))
    offline = point_in_time(entities, "at", views(), {"flights": table}, service=service)
    with tempfile.TemporaryDirectory() as folder:
        store = open_online(f"lmdb:{folder}")
        for view in views():
            push(view, table, store, history_s=None)
        reader = OnlineReader(service, views(), store)
        online = [reader.read(question, {}, to_us(question["at"])).values for question in asked]
        store.close()
    assert online == [list(row) for row in offline.select(service.features).rows()]


@given(source=rows(whole), asked=questions)
@settings(max_examples=40, deadline=None)
def test_times_are_those_of_the_newest_row_that_entered(source: list, asked: list) -> None:
    view = View("v", ("origin",), "flights", "happened", "known", (), (Window("m", "delay", "mean", 600),))
    with tempfile.TemporaryDirectory() as folder:
        store = open_online(f"lmdb:{folder}")
        push(view, pl.DataFrame(source, schema=SCHEMA), store, history_s=None)
        reader = OnlineReader(Service("s", ("v:m",)), [view], store)
        for question in asked:
            t = question["at"]
            entered = [
                row["happened"]
                for row in source
                if row["origin"] is not None and row["origin"] == question["origin"]
                and row["happened"] is not None and row["known"] is not None and row["delay"] is not None
                and t - timedelta(minutes=10) < row["happened"] <= t and row["known"] <= t
            ]  # fmt: skip
            (time_us,) = reader.read(question, {}, to_us(t)).times_us
            assert time_us == (to_us(max(entered)) if entered else None)
        store.close()


@given(source=rows(whole), size=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_dropping_old_rows_changes_no_read_from_the_last_batch_on(source: list, size: int) -> None:
    """Live: batches in the order in which rows become known, nothing kept beyond the longest window."""
    windows = (Window("mean_4m", "delay", "mean", 240), Window("rows_4m", None, "count", 240))
    view = View("v", ("origin",), "flights", "happened", "known", ("delay",), windows)
    reader_of = Service("s", view.features)
    valid = [row for row in source if row["known"] is not None and row["origin"] is not None]
    live = sorted(valid, key=lambda row: row["known"])  # a null happened has a null known
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(online_chunks, "HALF", 1)
        store = open_online(f"lmdb:{folder}")
        reader = OnlineReader(reader_of, [view], store)
        for begin in range(0, len(live), size):
            part = live[begin : begin + size]
            push(view, pl.DataFrame(part, schema=SCHEMA), store, history_s=0)
            for t in (part[0]["known"], part[-1]["known"], part[-1]["known"] + timedelta(minutes=3)):
                for origin in ("JFK", "LGA"):
                    asked = {"origin": origin, "at": t}
                    read = reader.read(asked, {}, to_us(t)).values
                    assert read == list(oracle(view, live[: begin + size], asked).values()), asked
        store.close()
