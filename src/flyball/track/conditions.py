"""An expression as a condition in SQL on the table of runs, and the same expression asked of anything in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flyball.errors import Invalid
from flyball.stores.engine import by_code_point
from flyball.stores.run_facts import number_of
from flyball.stores.run_tables import FACTS, RUNS
from flyball.track.words import RUN, All, Compare, Either, Expression, Not

COLUMN = {
    "run_id": "id",
    "run_name": "name",
    "user_id": "actor",
    "start_time": "started_us",
    "end_time": "ended_us",
    "started": "started_us",
    "ended": "ended_us",
}
# MLflow's words for how a run stands; ours are compared as they are.
STATUSES = {
    "running": "RUNNING",
    "scheduled": "SCHEDULED",
    "done": "FINISHED",
    "failed": "FAILED",
    "refused": "FAILED",
    "killed": "KILLED",
}
# MLflow keeps these as tags; here they are of the head.
_HEAD_TAGS = {"mlflow.runName": "run_name", "mlflow.parentRunId": "parent"}


def sql(
    expression: Expression, extra: Callable[[Compare], sa.ColumnElement[bool]] | None = None
) -> sa.ColumnElement[bool]:
    """The condition on ``runs`` that an expression is."""
    if isinstance(expression, All):
        return sa.and_(sa.true(), *(sql(one, extra) for one in expression.of))
    if isinstance(expression, Either):
        return sa.or_(sa.false(), *(sql(one, extra) for one in expression.of))
    if isinstance(expression, Not):
        return sa.not_(sql(expression.of, extra))
    if expression.kind == "attribute":
        return _attribute(expression)
    if expression.kind == "tag" and expression.name in _HEAD_TAGS:
        return _attribute(msgspec.structs.replace(expression, name=_HEAD_TAGS[expression.name]))
    if expression.kind in ("metric", "param", "tag"):
        return _fact(expression)
    if extra is None:
        raise Invalid(f"runs are not searched by {expression.kind}", "by metrics, params, tags or attributes")
    return extra(expression)


def _attribute(one: Compare) -> sa.ColumnElement[bool]:
    column: Any
    if one.name == "status":
        ours = isinstance(one.value, str) and one.value in STATUSES
        column = RUNS.c.status if ours else sa.case(STATUSES, value=RUNS.c.status, else_=RUNS.c.status)
    elif one.name == "user_id":
        person = sa.func.substr(RUNS.c.actor, 8)
        column = sa.case((sa.func.substr(RUNS.c.actor, 1, 7) == "person:", person), else_=RUNS.c.actor)
    elif one.name == "artifact_uri":
        column = sa.literal("mlflow-artifacts:/") + RUNS.c.experiment + "/" + RUNS.c.id + "/artifacts"
    elif one.name in ("start_time", "end_time"):
        column = RUNS.c[COLUMN[one.name]] // 1000
    elif one.name == "seconds":
        column = sa.cast(RUNS.c.ended_us - RUNS.c.started_us, sa.Double) / 1e6
    else:
        column = RUNS.c[COLUMN.get(one.name, one.name)]
    if one.op in ("IS NULL", "IS NOT NULL"):
        absent = sa.or_(column.is_(None), column == "") if _is_text(one) else column.is_(None)
        return absent if one.op == "IS NULL" else sa.not_(absent)
    return sa.and_(column.is_not(None), compared(column, one.op, one.value))


def _is_text(one: Compare) -> bool:
    return RUN.attributes[one.name] == "text"


def _fact(one: Compare) -> sa.ColumnElement[bool]:
    having = sa.and_(FACTS.c.kind == one.kind, FACTS.c.name == one.name)
    found = sa.select(FACTS.c.run)
    if one.op in ("IS NULL", "IS NOT NULL"):
        inside = RUNS.c.id.in_(found.where(having))
        return sa.not_(inside) if one.op == "IS NULL" else inside
    return RUNS.c.id.in_(found.where(having, _fact_value(one)))


def _fact_value(one: Compare) -> sa.ColumnElement[bool]:
    if one.kind == "metric" or (one.kind == "param" and isinstance(one.value, int | float)):
        met = compared(FACTS.c.number, one.op, one.value)
        # NaN, and a param that is no number, differ from every number and are neither more nor less.
        return sa.or_(FACTS.c.number.is_(None), met) if one.op == "!=" else met
    if one.kind == "param" and one.op == "=" and (number := number_of(str(one.value))) is not None:
        # The index has numbers, not texts: without it every run's param is fetched to be compared.
        return sa.and_(FACTS.c.number == number, compared(FACTS.c.text, one.op, one.value))
    if one.kind == "param" and one.op in (">", ">=", "<", "<="):
        number = number_of(str(one.value))
        text = compared(FACTS.c.text, one.op, one.value)
        if number is None:
            return text
        return sa.case((FACTS.c.number.is_not(None), compared(FACTS.c.number, one.op, number)), else_=text)
    return compared(FACTS.c.text, one.op, one.value)


def compared(column: Any, op: str, value: Any) -> sa.ColumnElement[bool]:
    """A column compared with a value, by code point, and the same on both engines."""
    if op in ("LIKE", "ILIKE"):
        return _like(column, value, op == "ILIKE")
    if op == "IN":
        found: sa.ColumnElement[bool] = column.in_(list(value))
        return found
    if op == "NOT IN":
        missing: sa.ColumnElement[bool] = column.not_in(list(value))
        return missing
    if isinstance(value, str):
        column = by_code_point(column)
    compare: dict[str, Callable[[], sa.ColumnElement[bool]]] = {
        "=": lambda: column == value,
        "!=": lambda: column != value,
        ">": lambda: column > value,
        ">=": lambda: column >= value,
        "<": lambda: column < value,
        "<=": lambda: column <= value,
    }
    return compare[op]()


class _matches_like(FunctionElement[bool]):  # noqa: N801
    """Case-sensitive LIKE without an escape letter: SQLite's own LIKE takes A for a, so there it is a GLOB."""

    inherit_cache = True
    type = sa.Boolean()


def _glob(pattern: str) -> str:
    """
    >>> _glob("50%_[a]*")
    '50*?[[]a][*]'
    """
    table = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(table.get(letter, letter) for letter in pattern)


def _like(column: Any, pattern: str, ignore_case: bool) -> sa.ColumnElement[bool]:
    if ignore_case:
        return sa.func.lower(column).like(
            pattern.lower() if pattern.isascii() else sa.func.lower(pattern), escape=_NONE
        )
    return _matches_like(column, sa.literal(_glob(pattern)), sa.literal(pattern))


_NONE = "\x01"  # no pattern holds it: LIKE without an escape letter on both engines


@compiles(_matches_like, "sqlite")
def _as_glob(element: Any, compiler: Any, **kw: Any) -> str:
    column, glob, _ = element.clauses
    return f"{compiler.process(column, **kw)} GLOB {compiler.process(glob, **kw)}"


@compiles(_matches_like)
def _as_like(element: Any, compiler: Any, **kw: Any) -> str:
    column, _, pattern = element.clauses
    return f"{compiler.process(column, **kw)} LIKE {compiler.process(pattern, **kw)} ESCAPE ''"


def matches(expression: Expression, values: Callable[[str, str], Any]) -> bool:
    """Whether a thing meets the expression; ``values(kind, name)`` is a number, a text, a list of texts, or ``None``.

    >>> matches(All((Compare("tag", "team", "LIKE", "a%"),)), lambda kind, name: "alpha")
    True
    """
    if isinstance(expression, All):
        return all(matches(one, values) for one in expression.of)
    if isinstance(expression, Either):
        return any(matches(one, values) for one in expression.of)
    if isinstance(expression, Not):
        return not matches(expression.of, values)
    found = values(expression.kind, expression.name)
    if expression.op == "IS NULL":
        return found is None
    if expression.op == "IS NOT NULL":
        return found is not None
    if found is None:
        return False
    if isinstance(found, list):
        return any(_holds(one, expression) for one in found)
    return _holds(found, expression)


def _holds(found: Any, one: Compare) -> bool:
    value = one.value
    if one.op in ("LIKE", "ILIKE"):
        return (
            _pattern(str(value), one.op == "ILIKE").fullmatch(_lower(str(found), one.op == "ILIKE"))
            is not None
        )
    if one.op in ("IN", "NOT IN"):
        assert isinstance(value, tuple)
        return (found in value) == (one.op == "IN")
    if isinstance(found, str):
        number = number_of(found)
        wanted = value if isinstance(value, int | float) else number_of(str(value))
        ordered = one.kind == "param" and one.op not in ("=", "!=")  # tags are words, as in SQL
        if isinstance(value, int | float) or (ordered and number is not None and wanted is not None):
            if number is None or wanted is None:
                return one.op == "!="
            found, value = number, wanted
    return _COMPARE[one.op](found, value)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
}


def _lower(text: str, ignore_case: bool) -> str:
    """Latin capitals only, as SQLite folds them."""
    return re.sub("[A-Z]", lambda found: found[0].lower(), text) if ignore_case else text


def _pattern(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    parts = {"%": ".*", "_": "."}
    return re.compile(
        "".join(parts.get(letter, re.escape(letter)) for letter in _lower(pattern, ignore_case)), re.DOTALL
    )
