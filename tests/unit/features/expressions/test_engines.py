"""What expressions mean, by cases that say it; every engine gives the same (see also tests/property)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from flyball.errors import Invalid, NotFound
from flyball.features.expressions import (
    Expr,
    apply,
    coalesce,
    col,
    compile_row,
    concat,
    greatest,
    least,
    lit,
    sql,
    to_duckdb,
    to_polars,
    when,
)  # fmt: skip

T = datetime(2013, 3, 10, 7, tzinfo=UTC)  # 03:00 in New York, whose clocks have just been put forward


def everywhere(expression: Expr, **row: Any) -> Any:
    """The value of one row in every engine, which must be one."""
    types = {"a": "FP64", "b": "FP64", "s": "BYTES", "t": "TIME"}
    dtypes = {"s": pl.String(), "t": pl.Datetime("us", "UTC")}
    frame = pl.DataFrame(
        [pl.Series(name, [one], dtype=dtypes.get(name, pl.Float64())) for name, one in row.items()]
    )
    by_row = compile_row({"out": expression}, list(row), types=types)(list(row.values()))[0]
    by_polars = apply(frame, {"out": expression})["out"].to_list()[0]
    alone = frame.select(to_polars(expression, types).alias("out"))["out"].to_list()[0]
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("given", frame.to_arrow())
        by_duckdb = connection.execute(f"select {to_duckdb(expression, types)} from given").fetchall()[0][0]
    assert by_row == by_polars == alone == by_duckdb, (by_row, by_polars, alone, by_duckdb)
    assert type(by_row) is type(by_polars) or isinstance(by_row, datetime)
    return by_row


a, b, s, t = col("a"), col("b"), col("s"), col("t")


@pytest.mark.parametrize(
    ("expression", "row", "value"),
    [
        (a + b, {"a": 1.0, "b": None}, None),
        (a / b, {"a": 1.0, "b": 0.0}, None),
        (a // b, {"a": -7.0, "b": 2.0}, -4.0),
        (a % b, {"a": -7.0, "b": 2.0}, 1.0),
        (a % b, {"a": 1e300, "b": 3.0}, None),
        (a * a * a, {"a": 1e149}, None),
        (a * a / a / a, {"a": 1e149}, 1.0),
        (a.exp().log(), {"a": 709.5}, None),
        ((-a).sqrt(), {"a": 4.0}, None),
        (a.round(), {"a": 2.5}, 2.0),
        (a.round(1), {"a": 0.25}, 0.2),
        (a.cast("INT64"), {"a": -2.7}, -2.0),
        (a.clip(0, 1), {"a": 5.0}, 1.0),
        (a.clip(0, b), {"a": 5.0, "b": None}, None),
        (a.sign(), {"a": -3.0}, -1.0),
        (greatest(a, b, 0), {"a": None, "b": -1.0}, 0.0),
        (least(a, b), {"a": None, "b": None}, None),
        (coalesce(a, b), {"a": None, "b": 3.0}, 3.0),
        (a.is_null(), {"a": float("nan")}, True),
        (a.is_null(), {"a": 1e151}, True),
        ((a > 1) & (b > 1), {"a": 0.0, "b": None}, False),
        ((a > 1) | (b > 1), {"a": 0.0, "b": None}, None),
        (when(a > 1).then("big").otherwise("small"), {"a": None}, "small"),
        (a.is_in([1, 2]), {"a": None}, None),
        (s.map({"UA": 1, "AA": 2}, default=0), {"s": "DL"}, 0.0),
        (s.map({"UA": 1, "AA": 2}, default=0), {"s": None}, None),
        (s.str.lower(), {"s": "ÄSSEN İ ß"}, "ässen İ ß"),
        (s.str.upper(), {"s": "straße"}, "STRAßE"),
        (s.str.length(), {"s": "日本👍"}, 3.0),
        (s.str.slice(-2), {"s": "日本👍"}, "本👍"),
        (s.str.slice(-3, 1), {"s": "ab"}, "a"),
        (s.str.strip(), {"s": "\t a\u00a0 \n"}, "a\u00a0"),
        (s.str.replace(".", "$1\\1"), {"s": "a.b"}, "a$1\\1b"),
        (concat(s, "-", s), {"s": None}, None),
        (s.cast("FP64"), {"s": "1e400"}, None),
        (s.cast("FP64"), {"s": " 1"}, None),
        (s.cast("FP64"), {"s": "-.5e1"}, -5.0),
        (a.cast("BYTES"), {"a": 12.0}, "12"),
        (a.cast("BYTES"), {"a": 12.5}, None),
        (s.str.hash_bucket(1000), {"s": "flyball"}, 222.0),
        (t.dt.hour("America/New_York"), {"t": T}, 3.0),
        (t.dt.hour("America/New_York"), {"t": T - timedelta(microseconds=1)}, 1.0),
        (t.dt.minute("Asia/Kolkata"), {"t": T}, 30.0),
        (t.dt.weekday(), {"t": T}, 7.0),
        (t.dt.date("America/New_York"), {"t": datetime(1970, 1, 1, tzinfo=UTC)}, -1.0),
        (t.dt.day_of_year(), {"t": datetime(2012, 12, 31, tzinfo=UTC)}, 366.0),
        (t.dt.epoch(), {"t": datetime(1969, 12, 31, 23, 59, 59, 500000, tzinfo=UTC)}, -0.5),
        (t.dt.seconds_since(datetime(2013, 3, 10, tzinfo=UTC)), {"t": T}, 25200.0),
        (a.dt.from_epoch(), {"a": 1362898800.0}, T),
        (s.str.to_time(), {"s": "2013-03-10 12:30:00+05:30"}, T),
        (s.str.to_time(), {"s": "2013-02-29"}, None),
        (sql("a % b"), {"a": -7.0, "b": 2.0}, -1.0),
        (sql("case when a > 1 then a / nullif(b, 0) else -1 end"), {"a": 3.0, "b": 2.0}, 1.5),
        (sql("concat(s, 'x')"), {"s": None}, "x"),
        (sql("hour(t at time zone 'America/New_York')"), {"t": T}, 3.0),
        (sql("s like '%b%' and a is not null"), {"s": "abc", "a": 1.0}, True),
    ],
    ids=str,
)  # fmt: skip
def test_one_meaning_everywhere(expression: Expr, row: dict[str, Any], value: Any) -> None:
    assert everywhere(expression, **row) == value


def test_the_row_function_takes_what_libraries_hold() -> None:
    function = compile_row({"n": a + 0, "hour": t.dt.hour()}, ["a", "t"])
    for number in (3, np.int64(3), np.float32(3), Decimal(3), 3.0):
        assert function([number, T])[0] == 3.0
    assert function([True, T])[0] == 1.0
    assert function([10**400, T])[0] is None
    east = timezone(timedelta(hours=5))
    for time in (T, T.replace(tzinfo=None), T.astimezone(east), T.date(), 1362898800_000_000):
        assert function([1, time])[1] in (7.0, 0.0)
    assert function([1, date(2013, 3, 10)])[1] == 0.0


def test_a_value_of_another_kind_names_its_column() -> None:
    with pytest.raises(Invalid, match="'delay' is 'late', where an expression takes a number"):
        compile_row({"x": col("delay") + 1}, ["delay"])(["late"])
    with pytest.raises(Invalid, match="'city' is 5, where an expression takes a text"):
        compile_row({"x": col("city").str.lower()}, ["city"])([5])
    with pytest.raises(NotFound, match="did you mean 'delay'"):
        compile_row({"x": col("dealy") + 1}, ["delay"])


def test_a_frame_of_other_columns_is_refused_by_name() -> None:
    frame = pl.DataFrame({"delay": ["1"], "list": [[1]]})
    with pytest.raises(Invalid, match="takes a number"):
        apply(frame, {"x": col("delay") + 1})
    with pytest.raises(Invalid, match="did you mean 'delay'"):
        apply(frame, {"x": col("dealy").str.lower()})
    with pytest.raises(Invalid, match=r"which is List"):
        apply(frame, {"x": col("list").is_null()})


def test_apply_keeps_rows_that_are_true_and_adds_columns_that_read_one_another() -> None:
    frame = pl.DataFrame({"a": [1, 2, None, 4], "s": ["x", None, "y", "z"]})
    derived = {"double": col("a") * 2, "big": col("double") > 3}
    for one in (frame, frame.lazy()):
        found = apply(one, derived, col("big") | (col("s") == "y")).lazy().collect()
        assert found.to_dict(as_series=False) == {
            "a": [2, None, 4], "s": [None, "y", "z"], "double": [4.0, None, 8.0], "big": [True, None, True],
        }  # fmt: skip
    flags = pl.DataFrame({"flag": [True, None, False], "number": [1, 0, 2]})
    assert apply(flags, {}, col("flag")).height == 1
    with pytest.raises(Invalid, match="no condition"):
        apply(flags, {}, col("number"))
    assert apply(frame, {"one": lit(1)})["one"].to_list() == [1.0] * 4
    assert apply(frame.clear(), derived, col("big")).shape == (0, 4)


def test_columns_of_any_type_that_holds_such_values_will_do() -> None:
    frame = pl.DataFrame({
        "a": pl.Series([1, 2], dtype=pl.UInt8),
        "s": pl.Series(["x", "y"], dtype=pl.Categorical),
        "t": pl.Series([datetime(2013, 1, 1, 5, tzinfo=UTC).replace(tzinfo=None), None], dtype=pl.Datetime("ns")),
        "nothing": pl.Series([None, None], dtype=pl.Null),
    })  # fmt: skip
    found = apply(frame, {"x": col("a") / 2, "y": col("s").str.upper(), "z": col("t").dt.hour("Europe/Berlin"),
                          "n": col("nothing").str.length()})  # fmt: skip
    assert found.select("x", "y", "z", "n").rows() == [(0.5, "X", 6.0, None), (1.0, "Y", None, None)]


EVIL = ['"; drop table given; --', "'); select 1; --", "x\\", "{0}", "%s", "a'b\"c", "__import__('os')",
        "c0", "v1", "\n", "${x}", "é"]  # fmt: skip


@pytest.mark.parametrize("word", EVIL)
def test_no_name_and_no_text_becomes_code(word: str) -> None:
    """As a column, a literal, a key and a part of a text, in every engine."""
    frame = pl.DataFrame({word: ["before " + word, "other", None]})
    column = col(word)
    expressions = {
        "same": column == "before " + word,
        "in": column.is_in([word, "other"]),
        "map": column.map({"other": word, word: "x"}, default="'" + word),
        "part": column.str.contains(word),
        "replaced": column.str.replace(word, "\\1$0'"),
        "joined": concat(column, word),
    }
    expected = apply(frame, expressions).select(list(expressions)).rows()
    function = compile_row(expressions, [word])
    assert [function([value]) for value in frame[word]] == expected
    assert expected[0][4] == "before \\1$0'"
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("given", frame.to_arrow())
        columns = ", ".join(to_duckdb(one) for one in expressions.values())
        assert connection.execute(f"select {columns} from given").fetchall() == expected


def test_nested_expressions_stay_small() -> None:
    """A divisor is looked at and divided by; thirty levels of that are no 2**30 of anything."""
    expression = col("a")
    for _ in range(30):
        expression = 1 / (expression.abs() % 7 + 1)
    function = compile_row({"x": expression}, ["a"])
    assert function([3.0])[0] == pytest.approx(
        apply(pl.DataFrame({"a": [3.0]}), {"x": expression})["x"][0], abs=0
    )
    with duckdb.connect(config={"threads": 1}) as connection:
        assert len(to_duckdb(expression)) < 100_000
        found = connection.execute(f"select {to_duckdb(expression)} from (select 3.0 as a)").fetchall()[0][0]
    assert found == function([3.0])[0]
    with pytest.raises(Invalid, match="in stages"):
        to_polars(expression)


def test_numba_compiles_numbers_and_says_so_of_all_else() -> None:
    function = compile_row({"x": (a + b) / 2, "y": a > b}, ["a", "b"], engine="numba")
    assert function([1, 2.0]) == (1.5, False)
    assert function([None, 2.0]) == (None, None)
    with pytest.raises(Invalid, match="numba compiles numbers"):
        compile_row({"x": s.str.length()}, ["s"], engine="numba")
