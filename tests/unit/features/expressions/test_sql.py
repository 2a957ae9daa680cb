"""SQL becomes the expression that it says, or is refused by name, with what to write instead."""

from __future__ import annotations

import sys

import pytest

from flyball.errors import Invalid
from flyball.features.expressions import col, sql, when


def test_sql_is_the_expression_one_would_have_written() -> None:
    assert bool(sql("amount / 2 + 1 > -b") == (col("amount") / 2 + 1 > -col("b")))
    assert bool(sql('"shop:price" * 2') == col("shop:price") * 2)
    assert bool(sql("a in (1, 2) and not b is null") == (col("a").is_in([1, 2]) & ~col("b").is_null()))
    assert bool(sql("if(a > 1, 'x', null)") == when(col("a") > 1).then("x").otherwise(None))
    assert bool(sql("substring(s, 2, 3)") == col("s").str.slice(1, 3))
    assert bool(sql("extract(hour from t)") == col("t").dt.hour())
    assert bool(sql("s like 'a%'") == col("s").str.starts_with("a"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("log(a)", "no expression for Log.*ln"),
        ("a // 2", r"floor\(a / b\)"),
        ("a::int", "trunc"),
        ("sum(a)", "window"),
        ("select a from b", "without SELECT"),
        ("a; drop table x", "without ;"),
        ("a > (select 1)", "no expression for Subquery"),
        ("t.a", "columns, no tables"),
        ("foo(a)", "no expression for foo"),
        ("read_csv('/etc/passwd')", "no expression for ReadCSV"),
        ("s like 'a_b'", "'abc%'"),
        ("regexp_matches(s, 'x')", "no expression for RegexpLike"),
        ("a +", "is no SQL expression"),
        ("", "no SQL|no expression"),
        ("9007199254740993", r"2\*\*53"),
        ("date_part('dow', t)", "date_part"),
        ("(" * 3000 + "a" + ")" * 3000, "no SQL expression|nested deeper"),
    ],
)
def test_what_has_no_equal_is_refused_by_name(text: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        sql(text)
    assert __import__("re").search(words, str(caught.value), 16), str(caught.value)


def test_without_sqlglot_the_line_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(Invalid, match=r"pip install 'flyball\[sql\]'"):
        sql("a + 1")
