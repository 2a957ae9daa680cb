"""Any expression gives any row the same value in Polars, in DuckDB, as a Python function and compiled by numba."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import duckdb
import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.core.hashing import digest_of
from flyball.features.expressions import (
    Expr,
    apply,
    check,
    coalesce,
    col,
    compile_row,
    concat,
    greatest,
    least,
    to_duckdb,
    when,
)
from flyball.features.expressions.tree import walk

TYPES = {
    "x": "FP64",
    "y": "FP64",
    "i": "INT64",
    "b": "BOOL",
    "c": "BOOL",
    "s": "BYTES",
    "u": "BYTES",
    "t": "TIME",
    "d": "TIME",
}
DTYPES = {
    "x": pl.Float64, "y": pl.Float64, "i": pl.Int64, "b": pl.Boolean, "c": pl.Boolean, "s": pl.String, "u": pl.String,
    "t": pl.Datetime("us", "UTC"), "d": pl.Datetime("us", "UTC"),
}  # fmt: skip
ZONES = st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Australia/Lord_Howe"])
EDGES = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.5,
    -2.5,
    1e-300,
    5e-324,
    1e149,
    -1e150,
    2.0**53,
    math.nan,
    math.inf,
    -math.inf,
    1e200,
    709.5,
]
WORDS = ["", "a", "A", "ÄÖ", "ß", "İ", "Σς", "日本語", "👍x", " a\t", "1.5", "-3e2", "1e999", "nan", "0x10", "true", "2013-02-28",
         "2013-02-30", "2013-01-01T05:15:00", "2013-01-01 05:15:00.25+05:30", "2013-01-01T24:00",
         "'; drop table", "a\nb", "%", "\\"]  # fmt: skip
FIRST, LAST = datetime(1972, 1, 1), datetime(2036, 1, 1)  # noqa: DTZ001 (hypothesis adds the zone)
numbers_in = st.one_of(st.none(), st.sampled_from(EDGES), st.floats(), st.integers(-99, 99).map(float))
texts_in = st.one_of(
    st.none(),
    st.sampled_from(WORDS),
    st.text(
        st.characters(max_codepoint=0x589, exclude_characters="\x00", exclude_categories=["Cs"]), max_size=6
    ),
)
times_in = st.one_of(
    st.none(),
    st.sampled_from([datetime(2013, 3, 10, 7, tzinfo=UTC), datetime(2013, 3, 10, 6, 59, 59, 999999, tzinfo=UTC),
                     datetime(2013, 11, 3, 6, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)]),
    st.datetimes(FIRST, LAST, timezones=st.just(UTC)),
)  # fmt: skip
row = st.fixed_dictionaries({
    "x": numbers_in, "y": numbers_in, "i": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(-9, 9)),
    "b": st.one_of(st.none(), st.booleans()), "c": st.one_of(st.none(), st.booleans()), "s": texts_in, "u": texts_in,
    "t": times_in, "d": times_in,
})  # fmt: skip


def op(names: str, *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Expr]:
    """One of these operations."""
    return st.builds(lambda name, *given: Expr(name, given), st.sampled_from(names.split()), *args)


def maybe(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), one)


olds, news = st.sampled_from(["a", "ß", "'", "."]), st.sampled_from(["", "aa", "$1", "\\1"])
literals = st.sampled_from([0.0, 1.0, -1.0, 0.1, 2.0, 3.0, 1e150, -7.25, 1e-9, 100.0])
numbers = st.deferred(lambda: st.one_of(
    st.sampled_from([col("x"), col("y"), col("i")]),
    st.sampled_from([col("x"), col("y"), col("i")]),
    op("add sub mul div floordiv mod pow", numbers, st.one_of(numbers, literals)),
    op("neg abs floor ceil sqrt exp log log1p sign", numbers),
    st.builds(lambda a, d: a.round(d), numbers, st.integers(0, 6)),
    st.builds(lambda a, low, high: a.clip(low, high), numbers, st.one_of(st.none(), literals, numbers), maybe(literals)),
    st.builds(lambda c, a, b: when(c).then(a).otherwise(b), booleans, st.one_of(numbers, literals, st.none(), booleans), numbers),
    st.builds(coalesce, numbers, st.one_of(numbers, literals)),
    st.builds(lambda f, a, b, c: f(a, b, c), st.sampled_from([least, greatest]), numbers, maybe(numbers), literals),
    st.builds(lambda a, d: a.map({0: 1, 1: 2.5, 7: None}, default=d), numbers, st.sampled_from([None, -1.0])),
    st.builds(lambda a: a.map({"a": 1, "A": 2}), texts),
    st.builds(lambda a: a.cast("FP64"), st.one_of(texts, booleans)),
    st.builds(lambda a: a.cast("INT64"), numbers),
    st.builds(lambda a: a.str.length(), texts),
    st.builds(lambda a: a.str.hash_bucket(97), texts),
    op("year month day hour minute second weekday day_of_year date", times, ZONES),
    st.builds(lambda a: a.dt.epoch(), times),
    st.builds(lambda a, b: a.dt.seconds_since(b), times, times),
    st.builds(lambda a, b: a + b, booleans, numbers),
))  # fmt: skip
booleans = st.deferred(lambda: st.one_of(
    st.sampled_from([col("b"), col("c")]),
    op("eq ne lt le gt ge", numbers, st.one_of(numbers, literals, booleans)),
    op("eq ne lt ge", texts, st.one_of(texts, st.sampled_from(WORDS))),
    op("eq lt ge", times, times),
    op("and or", booleans, st.one_of(booleans, st.none(), st.booleans())),
    st.builds(lambda a: ~a, booleans),
    st.builds(lambda a: a.is_null(), st.one_of(numbers, booleans, texts, times)),
    st.builds(lambda a: a.is_in([1, 2.5, 0]), numbers),
    st.builds(lambda a: a.is_in(["a", "ß", "'; drop table"]), texts),
    op("contains starts_with ends_with", texts, st.one_of(texts, st.sampled_from(WORDS))),
    st.builds(lambda a: a.cast("BOOL"), numbers),
    st.builds(lambda c, a: when(c).then(a).otherwise(None), booleans, booleans),
))  # fmt: skip
texts = st.deferred(lambda: st.one_of(
    st.sampled_from([col("s"), col("u")]),
    op("lower upper strip", texts),
    st.builds(lambda a, i, n: a.str.slice(i, n), texts, st.integers(-4, 4), st.one_of(st.none(), st.integers(0, 4))),
    st.builds(lambda a, b: concat(a, "'", b), texts, texts),
    st.builds(lambda a, o, n: a.str.replace(o, n), texts, olds, news),
    st.builds(lambda a: a.cast("BYTES"), st.one_of(numbers, booleans)),
    st.builds(coalesce, texts, texts),
    st.builds(lambda a: a.map({"a": "x", "b": None}, default="other"), texts),
    st.builds(lambda f, a, b: f(a, b), st.sampled_from([least, greatest]), texts, texts),
))  # fmt: skip
times = st.deferred(lambda: st.one_of(
    st.sampled_from([col("t"), col("d")]),
    st.builds(lambda a: a.str.to_time(), texts),
    st.builds(lambda a: (a % 2e9).dt.from_epoch(), numbers),
    st.builds(coalesce, times, times),
))  # fmt: skip
SHORT = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# No two libraries round these alike, and a last digit may decide a comparison. Alone they are compared below.
INEXACT = {"exp", "log", "log1p", "pow"}


def same(one: Any, other: Any) -> bool:
    """To the last bit."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=DTYPES)


def by_row(expression: Expr, rows: list[dict[str, Any]], engine: str = "python") -> list[Any]:
    function = compile_row({"out": expression}, list(TYPES), types=TYPES, engine=engine)  # type: ignore[arg-type]
    return [function([one[name] for name in TYPES])[0] for one in rows]


@pytest.fixture(scope="module")
def duck() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set timezone='UTC'; set threads=1")
    return connection


any_expression = st.one_of(numbers, booleans, texts, times)


@SHORT
@given(any_expression, st.lists(row, min_size=1, max_size=8))
def test_polars_and_the_row_function_agree(expression: Expr, rows: list[dict[str, Any]]) -> None:
    inexact = any(node.op in INEXACT for node in walk(expression))
    batch = apply(frame_of(rows), {"out": expression}, types=TYPES)["out"].to_list()
    for one, alone, together in zip(rows, by_row(expression, rows), batch, strict=True):
        assert same(alone, together) or inexact, (expression, one, alone, together)


@SHORT
@given(any_expression, st.lists(row, min_size=1, max_size=8))
def test_duckdb_and_the_row_function_agree(
    duck: duckdb.DuckDBPyConnection, expression: Expr, rows: list[dict[str, Any]]
) -> None:
    inexact = any(node.op in INEXACT for node in walk(expression))
    duck.register("given", frame_of(rows))
    batch = duck.sql(f"select {to_duckdb(expression, TYPES)} as out from given").pl()["out"].to_list()
    for one, alone, together in zip(rows, by_row(expression, rows), batch, strict=True):
        assert same(alone, together) or inexact, (expression, one, alone, together)


only_numbers = st.deferred(lambda: st.one_of(
    st.sampled_from([col("x"), col("y"), col("i")]),
    op("add sub mul div floordiv mod", only_numbers, st.one_of(only_numbers, literals)),
    op("neg abs floor ceil truncate sqrt sign", only_numbers),
    st.builds(lambda a, d: a.round(d), only_numbers, st.integers(0, 6)),
    st.builds(lambda c, a, b: when(c).then(a).otherwise(b), only_booleans, st.one_of(only_numbers, st.none()), only_numbers),
    st.builds(lambda f, a, b: f(a, b, 1.5), st.sampled_from([least, greatest, coalesce]), only_numbers, only_numbers),
    st.builds(lambda a, b: a.clip(-1, b), only_numbers, only_numbers),
    st.builds(lambda a: a.map({0: 1, 1: 2.5, 7: None}, default=-1), only_numbers),
))  # fmt: skip
only_booleans = st.deferred(lambda: st.one_of(
    st.sampled_from([col("b"), col("c")]),
    op("eq ne lt ge", only_numbers, only_numbers),
    op("and or", only_booleans, only_booleans),
    st.builds(lambda a: ~a.is_in([1, 2.5, 0]), only_numbers),
    st.builds(lambda a: a.is_null(), st.one_of(only_numbers, only_booleans)),
))  # fmt: skip


@settings(SHORT, max_examples=12)  # numba takes half a second for each
@given(only_numbers, only_booleans, st.lists(row, min_size=1, max_size=8))
def test_numba_and_the_row_function_agree(number: Expr, boolean: Expr, rows: list[dict[str, Any]]) -> None:
    expressions = {"number": number, "boolean": boolean}
    plain = compile_row(expressions, list(TYPES), types=TYPES)
    fast = compile_row(expressions, list(TYPES), types=TYPES, engine="numba")
    for one in rows:
        values = [one[name] for name in TYPES]
        found, other = plain(values), fast(values)
        assert all(map(same, found, other)), (expressions, one, found, other)


@SHORT
@given(st.sampled_from(sorted(INEXACT)), st.lists(row, min_size=1, max_size=8))
def test_what_libraries_round_differently_agrees_to_the_last_digits(
    duck: duckdb.DuckDBPyConnection, op: str, rows: list[dict[str, Any]]
) -> None:
    expression = Expr(op, (col("x"), col("y")) if op == "pow" else (col("x"),))
    frame = frame_of(rows)
    duck.register("given", frame)
    batch = apply(frame, {"out": expression})["out"].to_list()
    in_sql = [one for (one,) in duck.sql(f"select {to_duckdb(expression, TYPES)} from given").fetchall()]
    for alone, *others in zip(by_row(expression, rows), batch, in_sql, strict=True):
        for other in others:
            assert (alone is None) == (other is None)
            assert alone is None or math.isclose(alone, other, rel_tol=1e-12, abs_tol=1e-300)


@SHORT
@given(any_expression)
def test_an_expression_survives_its_json_and_tells_its_kind(expression: Expr) -> None:
    again = msgspec.json.decode(msgspec.json.encode(expression), type=Expr)
    assert bool(again == expression)
    assert hash(again) == hash(expression)
    assert digest_of(again) == digest_of(expression)
    assert check(again, TYPES) == check(expression, TYPES)
