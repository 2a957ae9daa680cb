"""Proof by generated rows that a definition has one meaning: per row, in Polars, in DuckDB, by numba; online and offline.

Rows are made from values that break things (nulls, NaN, infinities, the ends of integers, days on which clocks change,
empty and foreign texts, the definition's own literals) with a seed, so a disagreement comes again. The first one found
is made small: the least part of the expression that disagrees, over the plainest row that still shows it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any

import msgspec
import polars as pl

from flyball.features.definitions import View
from flyball.features.expressions.batch import apply
from flyball.features.expressions.kinds import check_derived, column_kinds, condition
from flyball.features.expressions.rows import compile_row
from flyball.features.expressions.tree import Expr, columns_of, walk
from flyball.features.in_batch import computed
from flyball.features.on_demand import function_of, row_of, types_of
from flyball.features.services import OnDemand, Vector

TOLERANCE = 1e-11  # relative; two libraries round exp, log and powers to different last digits
_START = datetime(2013, 3, 10, 6, tzinfo=UTC)
_DTYPES = {"n": pl.Float64(), "b": pl.Boolean(), "s": pl.String(), "t": pl.Datetime("us", "UTC")}
_NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 0.1, 3.0, 100.0, 1e-9, 5e-324, 1e15 + 0.3, 2.0**53, 2.0**63, -(2.0**63),
    1e149, 1e150, -1e150, 1e151, 1.7e308, math.nan, math.inf, -math.inf, 709.5, 1e9,
)  # fmt: skip
_TEXTS = (
    "", " ", "a", "A", "Zürich", "ÄÖÜ", "ß", "İstanbul", "Σίσυφος", "日本語", "👍🏽", " a\t", "1.5", "-3e2", "1e999", "nan",
    "true", "2013-02-29", "2013-03-10T07:00:00Z", "2013-11-03 01:30:00.25-04:00", "'; --", '"', "{0}", "%s", "\\", "a\nb",
)  # fmt: skip
_TIMES = tuple(
    datetime.fromisoformat(f"{text}+00:00")
    for text in (
        "1970-01-01T00:00:00", "1969-12-31T23:59:59.999999", "2013-03-10T06:59:59.999999", "2013-03-10T07:00:00",
        "2013-11-03T05:59:59", "2013-11-03T06:00:00", "2012-02-29T12:00:00", "2012-12-31T23:59:59", "2013-03-31T01:00:00",
        "2013-10-27T01:00:00", "2024-12-30T00:00:00", "2033-07-01T12:34:56.789012", "1985-06-30T00:00:00",
    )
)  # fmt: skip


class Disagreement(msgspec.Struct, frozen=True):
    """One row to which two ways give different values."""

    what: str  # the feature, derived column or filter
    expression: str  # the least part that disagrees
    row: dict[str, Any]
    answers: dict[str, Any]  # by engine

    def as_text(self) -> str:
        """For people."""
        given = ", ".join(f"{name} = {value!r}" for name, value in self.row.items())
        lines = [f"  {engine:<10} {value!r}" for engine, value in self.answers.items()]
        return "\n".join([f"{self.what}: {self.expression}", f"  of {given or 'nothing'}", *lines])


class Verified(msgspec.Struct, frozen=True):
    """What was compared, and the first disagreement, if there is one."""

    name: str
    rows: int
    engines: tuple[str, ...]
    checked: tuple[str, ...]
    questions: int = 0  # answered both offline and online
    disagreement: Disagreement | None = None


class Ways(msgspec.Struct, frozen=True):
    """Ways to compute expressions: each from rows to values, by name."""

    by_name: dict[str, Callable[[Expr, Sequence[Mapping[str, Any]], Mapping[str, str]], list[Any]]]

    @classmethod
    def installed(cls) -> Ways:
        """The row function and Polars always; DuckDB and numba where they are installed."""
        ways: dict[str, Any] = {"row": _by_row, "polars": _by_polars}
        if find_spec("duckdb") is not None and find_spec("pyarrow") is not None:
            ways["duckdb"] = _by_duckdb
        if find_spec("numba") is not None:
            ways["numba"] = _by_numba
        return cls(ways)


def verify(
    one: View | OnDemand, *, rows: int = 1000, seed: int = 0, vector: Vector | None = None
) -> Verified:
    """Compare every way to compute a view or on-demand view over generated rows; a view's windows online and offline too.

    ``vector`` says the types of what an on-demand view reads, where expressions leave them open.
    """
    ways = Ways.installed()
    chance = random.Random(seed)
    if isinstance(one, OnDemand):
        if one.python:
            return _verify_function(one, vector, rows, chance)
        expressions, types = dict(one.expressions), types_of(one, vector)
        found = disagreement(expressions, types, ways, rows, chance)
        return Verified(one.name, rows, tuple(ways.by_name), tuple(one.features), disagreement=found)
    expressions = {**one.derived, **({"where": one.where} if one.where is not None else {})}
    types = {**one.types, **check_derived(one.derived, one.where, one.types)}
    if one.where is not None:
        types |= condition(one.where, types)
    found = disagreement(expressions, types, ways, rows, chance)
    engines = tuple(ways.by_name) if expressions else ()
    if found is not None:
        return Verified(one.name, rows, engines, tuple(expressions), disagreement=found)
    from flyball.features.verifying_views import disagreement_online

    asked, found = disagreement_online(one, rows, chance)
    return Verified(one.name, rows, engines, (*expressions, *one.features), asked, found)


def disagreement(
    expressions: Mapping[str, Expr], types: Mapping[str, str], ways: Ways, rows: int, chance: random.Random
) -> Disagreement | None:
    """The first row on which two ways to compute one of these differ, made small."""
    for name, expression in expressions.items():
        kinds = column_kinds([expression], types)
        made = generated(kinds, rows, chance, literals_of(expression))
        at = _first_difference(expression, made, types, ways)
        if at is None:
            continue
        part, row = smallest(expression, made[at], types, ways)
        answers = {way: found[0] for way, found in _answers(part, [row], types, ways).items()}
        shown = {column: row[column] for column in columns_of(part)}
        return Disagreement(name, repr(part), shown, answers)
    return None


def generated(
    kinds: Mapping[str, str], rows: int, chance: random.Random, literals: Sequence[Any] = ()
) -> list[dict[str, Any]]:
    """Rows of these columns (``n``, ``b``, ``s``, ``t``) made of values that break things; one in eight is null."""
    texts = [*_TEXTS, *(one for one in literals if isinstance(one, str))]
    numbers = [*_NUMBERS, *(one for one in literals if isinstance(one, float))]

    def value(kind: str) -> Any:
        if chance.random() < 0.125:
            return None
        if kind == "b":
            return chance.random() < 0.5
        if kind == "s":
            text = chance.choice(texts)
            return text if chance.random() < 0.8 else text + chance.choice(texts)
        if kind == "t":
            moved = (
                timedelta(microseconds=chance.randrange(-(10**14), 10**14))
                if chance.random() < 0.5
                else timedelta()
            )
            return chance.choice(_TIMES) + moved
        draw = chance.random()
        if draw < 0.5:
            return chance.choice(numbers)
        return (
            float(chance.randrange(-50, 50))
            if draw < 0.8
            else chance.gauss(0, 10.0 ** chance.randrange(-3, 9))
        )

    return [{name: value(kind) for name, kind in kinds.items()} for _ in range(rows)]


def literals_of(expression: Expr) -> list[Any]:
    """What is written in an expression: its own edges, and those beside them."""
    found: list[Any] = []
    for node in walk(expression):
        for arg in node.args if node.op != "col" else ():
            if isinstance(arg, str):
                found.append(arg)
            elif isinstance(arg, float):
                found += [arg, arg + 1.0, math.nextafter(arg, math.inf)]
    return found


def smallest(
    expression: Expr, row: Mapping[str, Any], types: Mapping[str, str], ways: Ways
) -> tuple[Expr, dict[str, Any]]:
    """The least part of the expression, and the plainest row, that still disagree."""
    kinds = column_kinds([expression], types)
    types = {**types, **kinds}  # a part alone may not say what its columns are

    def differs(part: Expr, over: Mapping[str, Any]) -> bool:
        return _first_difference(part, [over], types, ways) is not None

    parts = sorted((node for node in walk(expression)), key=lambda node: sum(1 for _ in walk(node)))
    part = next((node for node in parts if node.op != "lit" and differs(node, row)), expression)
    found = dict(row)
    plain = {"n": (None, 0.0, 1.0, -1.0), "b": (None, False), "s": (None, "", "a"), "t": (None, _TIMES[0])}
    for column in columns_of(part):
        for value in plain[kinds[column]]:
            if differs(part, {**found, column: value}):
                found[column] = value
                break
    return part, found


def equal(one: Any, other: Any) -> bool:
    """Whether two answers are the same, but for the last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-290)
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return bool(one == other)


def _first_difference(
    expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], ways: Ways
) -> int | None:
    answers = list(_answers(expression, rows, types, ways).values())
    for at in range(len(rows)):
        if any(not equal(answers[0][at], other[at]) for other in answers[1:]):
            return at
    return None


def _answers(
    expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], ways: Ways
) -> dict[str, list[Any]]:
    from flyball.features.expressions.rows import numba_can

    return {
        name: way(expression, rows, types)
        for name, way in ways.by_name.items()
        if name != "numba" or numba_can(expression, types)
    }


def _frame(expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> pl.DataFrame:
    kinds = column_kinds([expression], types)
    columns = [
        pl.Series(name, [row[name] for row in rows], dtype=_DTYPES[kind]) for name, kind in kinds.items()
    ]
    return pl.DataFrame([pl.Series("", [0] * len(rows)), *columns])


def _by_row(
    expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str], engine: Any = "python"
) -> list[Any]:
    names = columns_of(expression)
    function = compile_row({"": expression}, names, types=types, engine=engine)
    return [function([row[name] for name in names])[0] for row in rows]


def _by_numba(expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> list[Any]:
    return _by_row(expression, rows, types, "numba")


def _by_polars(expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> list[Any]:
    found: list[Any] = apply(_frame(expression, rows, types), {"": expression}, types=types)[""].to_list()
    return found


def _by_duckdb(expression: Expr, rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> list[Any]:
    import duckdb

    from flyball.features.expressions.duck import to_duckdb

    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("generated", _frame(expression, rows, types).to_arrow())
        found = connection.execute(f"select {to_duckdb(expression, types)} from generated").fetchall()
    return [_in_utc(row[0]) for row in found]


def _in_utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _verify_function(one: OnDemand, vector: Vector | None, rows: int, chance: random.Random) -> Verified:
    """A plain function against its batch form; without one, against itself through the types of a training set."""
    types = types_of(one, vector)
    kinds = {name: {"BYTES": "s"}.get(types.get(name, ""), "n") for name in one.needs}
    made = generated(kinds, rows, chance)
    for row in made:  # what a request can bring
        for name, value in row.items():
            if isinstance(value, float) and not abs(value) <= 1e150:
                row[name] = None
    alone = row_of(one, vector)
    columns = [
        pl.Series(name, [row[name] for row in made], dtype=_DTYPES[kind]) for name, kind in kinds.items()
    ]
    together = computed(one, vector, pl.DataFrame(columns)).select(one.features).rows()
    way = "batch" if function_of(one)[1] is not None else "row by row"
    checked = Verified(one.name, rows, ("row", way), tuple(one.features))
    for row, other in zip(made, together, strict=True):
        found = alone([row[name] for name in one.needs])
        for name, a, b in zip(one.features, found, other, strict=True):
            if not equal(a, b):
                wrong = Disagreement(name, one.python, row, {"row": a, way: b})
                return msgspec.structs.replace(checked, disagreement=wrong)
    return checked
