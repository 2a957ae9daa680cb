"""What a table has promised: a contract is a name and expectations, all evaluated in one pass over the rows.

An expectation is a record: it can be stored, hashed and compared. ``share`` is the share of rows that may break it (0
to 1); nulls break only :func:`not_null`. A missing column is a broken expectation that names the nearest one.

>>> weather = Contract("weather", [not_null("temp"), between("temp", -30, 120), row_count(1)])
>>> result = validate(pl.DataFrame({"temp": [61.0, 999.0]}), weather)
>>> result.passed, result.failed[0].message
(False, 'temp: 1 of 2 rows lie outside [-30, 120]; first: row 1, temp=999.0')
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from flyball.checks.probing import ROW, Expectation, Scope, family_of
from flyball.checks.results import ContractResult, Result
from flyball.checks.rows import Between, InSet, Matches, NoFuture, NotNull, Ordered, Unique
from flyball.checks.steps import StepAtMost
from flyball.checks.tables import Fresh, HasColumns, MeanBetween, NullShareNear, QuantileBetween, RowCount
from flyball.core.hashing import digest_of
from flyball.errors import Invalid, Refused, nearest

has_columns = HasColumns
not_null = NotNull
between = Between
in_set = InSet
unique = Unique
matches = Matches
ordered = Ordered
no_future = NoFuture
step_at_most = StepAtMost
row_count = RowCount
mean_between = MeanBetween
quantile_between = QuantileBetween
null_share_near = NullShareNear
fresh = Fresh

Expected = (
    HasColumns | NotNull | Between | InSet | Unique | Matches | Ordered | NoFuture | StepAtMost | RowCount
    | MeanBetween | QuantileBetween | NullShareNear | Fresh
)  # fmt: skip

# The rows are in memory already: planning for a stream would cost a small batch ten times its evaluation.
_IN_MEMORY: dict[str, Any] = {"engine": "in-memory", "optimizations": pl.QueryOptFlags.none()}


class Contract(msgspec.Struct, frozen=True):
    """A name (the source's) and what it has promised. ``may_be_empty``: a table without rows keeps it."""

    name: str
    expectations: Sequence[Expected]
    may_be_empty: bool = False

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "expectations", tuple(self.expectations))

    @property
    def digest(self) -> str:
        """Of its content: the same promises have the same name everywhere."""
        return digest_of(
            msgspec.json.decode(msgspec.json.encode(self), type=Contract)
        )  # 0 and 0.0 are one limit


def validate(
    rows: pl.DataFrame,
    contract: Contract,
    *,
    now: datetime | None = None,
    previous: pl.DataFrame | None = None,
) -> ContractResult:
    """Hold a table against its contract, every expectation, in one pass.

    ``now`` is needed by ``fresh`` and ``no_future``; ``previous`` (the rows accepted last) by ``step_at_most``.
    """
    if rows.height == 0:
        return _empty(rows, contract)
    found: dict[int, Result] = {}
    asked: dict[int, tuple[Expectation, Scope]] = {}
    table, schema = rows.lazy().with_row_index(ROW), dict(rows.schema)
    exprs: list[pl.Expr] = []
    for number, one in enumerate(contract.expectations):
        if one.timed and now is None:
            raise Invalid(f"{one.title} needs the present time", "validate(rows, contract, now=clock.now())")
        unfit = _unfit(one, schema)
        if unfit is not None:
            found[number] = unfit
            continue
        scope = Scope(schema, rows.height, now, number, previous)
        table = one.prepare(table, scope)
        exprs += [expr.alias(f"{number}.{part}") for part, expr in one.ask(scope).items()]
        asked[number] = (one, scope)
    values = table.select(exprs).collect(**_IN_MEMORY).row(0, named=True) if exprs else {}
    for number, (expected, scope) in asked.items():
        prefix = f"{number}."
        seen = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        found[number] = _with_example(expected.judge(seen, scope), expected, rows)
    results = tuple(found[number] for number in sorted(found))
    return ContractResult(
        contract.name, all(one.passed for one in results), results, rows.height, contract.digest
    )


def require(
    rows: pl.DataFrame,
    contract: Contract,
    *,
    now: datetime | None = None,
    previous: pl.DataFrame | None = None,
) -> ContractResult:
    """:func:`validate`, and :class:`Refused` with the report unless everything holds."""
    result = validate(rows, contract, now=now, previous=previous)
    if not result.passed:
        from flyball.checks.report import contract_lines

        what = (
            f"{contract.name} breaks its contract: {len(result.failed)} of {len(result.results)} expectations"
        )
        raise Refused(what, "\n  ".join(contract_lines(result)), verdict=msgspec.to_builtins(result))
    return result


def _empty(rows: pl.DataFrame, contract: Contract) -> ContractResult:
    message = f"the table is empty: 0 rows, columns {', '.join(rows.columns) or 'none'}"
    result = Result(
        name="row_count", column="", passed=contract.may_be_empty, observed=0, limit="[1, …)", message=message
    )
    return ContractResult(contract.name, contract.may_be_empty, (result,), 0, contract.digest)


def _unfit(one: Expectation, schema: dict[str, Any]) -> Result | None:
    """The broken expectation that a missing column, or one of another kind, amounts to."""
    for column, family in one.needs().items():
        if column not in schema:
            found = f"no column {column!r}; {nearest(column, list(schema))}"
            return one.result(False, None, "the column is there", found)
        if family not in ("any", family_of(schema[column])):
            found = f"{column} is {schema[column]}, a {family} is needed"
            return one.result(False, str(schema[column]), f"a {family}", found)
    return None


def _with_example(result: Result, one: Expectation, rows: pl.DataFrame) -> Result:
    """The first broken row's values, in the record and (when it fails) in the message."""
    if result.first is None:
        return result
    row = result.first["row"]
    values = rows.select(list(one.needs())).row(row, named=True)
    shown = ", ".join(f"{name}={value}" for name, value in values.items())
    message = result.message if result.passed else f"{result.message}; first: row {row}, {shown}"
    return msgspec.structs.replace(result, first={"row": row, **values}, message=message)
