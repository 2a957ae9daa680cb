"""The language that runs are searched in: MLflow's filter grammar, and a little more for people, compiled to SQL.

    run_query(where="", order=(), *, experiments=None, view="active", limit=100, token="", strict=False, extra=None)
        -> RunQuery, for RunStore.search
    parse(text, names=RUN, *, strict=False) -> Expression      Compare(kind, name, op, value) | All(of) | Either(of) | Not(of)
    parse_order(text, names=RUN, *, strict=False) -> Order(kind, name, descending)
    sql(expression, extra=None) -> SQL condition on runs       extra(compare) answers for kinds that have no table here
    matches(expression, values: (kind, name) -> number | text | list | None) -> bool    the same in Python, any noun
    RUN, EXPERIMENT, REGISTERED_MODEL, MODEL_VERSION, LOGGED_MODEL: the words of each noun

    metrics.auc > 0.7 and params.trees >= 100 and tags."mlflow.user" = 'ann' and status = 'FINISHED'

Names hold dots, dashes and slashes; with others they stand in "…" or `…`. Operators: ``= != > >= < <= LIKE ILIKE IN NOT IN
IS NULL IS NOT NULL``. ``strict`` is MLflow's grammar: only ``and``, and values of the types it demands. Without it there
are also ``or``, ``not``, parentheses, numbers on params, times as dates, and our own words (``started``, ``seconds``).
A run that lacks a metric, param or tag meets no comparison; one where a metric is NaN only ``!=``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from flyball.core.clock import parse_time, to_us
from flyball.errors import Invalid, nearest
from flyball.stores.run_facts import number_of
from flyball.stores.runs import Order, RunQuery
from flyball.track.conditions import COLUMN, STATUSES, compared, matches, sql
from flyball.track.words import (
    EXPERIMENT,
    LOGGED_MODEL,
    MODEL_VERSION,
    REGISTERED_MODEL,
    RUN,
    All,
    Compare,
    Either,
    Expression,
    Names,
    Not,
)

__all__ = [
    "EXPERIMENT",
    "LOGGED_MODEL",
    "MODEL_VERSION",
    "REGISTERED_MODEL",
    "RUN",
    "STATUSES",
    "All",
    "Compare",
    "Either",
    "Expression",
    "Names",
    "Not",
    "compared",
    "matches",
    "parse",
    "parse_order",
    "run_query",
    "sql",
]

_DEEPEST = 100
_NUMBERS = ("=", "!=", ">", ">=", "<", "<=")
_WORDS = ("=", "!=", "LIKE", "ILIKE")
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | (?P<text>'(?:[^']|'')*')
    | (?P<name>(?:"[^"]*"|`[^`]*`|[^\W\d][\w]*)(?:\.(?:"[^"]*"|`[^`]*`|[\w./:@$%+-]+))?)
    | (?P<op><=|>=|!=|<>|==|=|<|>)
    | (?P<mark>[(),])
    )""",
    re.VERBOSE,
)


class _Token(msgspec.Struct, frozen=True):
    what: str
    text: str
    at: int


def parse(text: str, names: Names = RUN, *, strict: bool = False) -> Expression:
    """A filter as an expression; what is wrong with it is :class:`Invalid` and says where.

    >>> parse("metrics.auc > 0.7 and tags.stage = 'final'")
    All(of=(Compare(kind='metric', name='auc', op='>', value=0.7), Compare(kind='tag', name='stage', op='=', value='final')))
    """
    if not text or not text.strip():
        return All()
    return _Parser(text, names, strict).whole()


def parse_order(text: str, names: Names = RUN, *, strict: bool = False) -> Order:
    """``metrics.auc DESC`` (or, for people, ``-metrics.auc``) as an order.

    >>> parse_order("metrics.`my loss` desc")
    Order(kind='metric', name='my loss', descending=True, as_number=False)
    """
    stripped = text.strip()
    descending = not strict and stripped.startswith("-")
    parser = _Parser(stripped[1:] if descending else stripped, names, strict)
    kind, name = parser.identifier()
    if (word := parser.word()) in ("ASC", "DESC"):
        parser.take()
        descending = word == "DESC"
    parser.end()
    if kind == "dataset":
        raise Invalid("runs are not sorted by datasets", "sort by metrics, params, tags or attributes")
    if kind == "attribute" and names is RUN:
        name = COLUMN.get(name, name)
    return Order(kind, name, descending, as_number=kind == "param" and not strict)  # type: ignore[arg-type]


def run_query(
    where: str = "",
    order: Sequence[str] = (),
    *,
    experiments: Sequence[str] | None = None,
    view: Literal["active", "deleted", "all"] = "active",
    limit: int | None = 100,
    token: str = "",
    strict: bool = False,
    extra: Callable[[Compare], sa.ColumnElement[bool]] | None = None,
) -> RunQuery:
    """What a person or MLflow's client wrote, as the store is asked it. ``experiments`` are ids."""
    expression = parse(where, strict=strict)
    orders = [parse_order(one, strict=strict) for one in order]
    doubled = {(one.kind, one.name) for one in orders}
    if len(doubled) < len(orders):
        raise Invalid(f"the order names one thing twice: {', '.join(order)}", "name each once")
    return RunQuery(
        where=() if expression == All() else (sql(expression, extra),),
        order=orders,
        experiments=experiments,
        view=view,
        limit=limit,
        token=token,
    )


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str, names: Names, strict: bool) -> None:
        self._text = text
        self._names = names
        self._strict = strict
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._any()
        self.end()
        return found if isinstance(found, All) else All((found,))

    def end(self) -> None:
        if self._next < len(self._tokens):
            token = self._tokens[self._next]
            hint = "parts are joined with 'and'"
            if self._strict and token.text.upper() == "OR":
                hint = "only 'and' joins comparisons here"
            raise self._wrong(f"{token.text!r} is not expected", token, hint)

    def take(self) -> _Token:
        if self._next >= len(self._tokens):
            raise self._wrong("something is missing", None, "like metrics.auc > 0.7")
        self._next += 1
        return self._tokens[self._next - 1]

    def word(self) -> str:
        """The next word in capitals, or nothing."""
        if self._next >= len(self._tokens):
            return ""
        token = self._tokens[self._next]
        return token.text.upper() if token.what in ("name", "mark") else ""

    def identifier(self) -> tuple[str, str]:
        """``(kind, name)``; a word without a dot is an attribute."""
        token = self.take()
        if token.what != "name":
            raise self._wrong(
                f"{token.text} is not a name", token, "a comparison begins with one: metrics.auc"
            )
        first, name = _split(token.text)
        if name is None:
            kind, name = "attribute", first
        else:
            kind = self._names.kinds.get(first, "")
            if not kind:
                raise self._wrong(
                    f"{self._names.noun}s have no {first!r}", token, nearest(first, list(self._names.kinds))
                )
        if kind == "attribute":
            name = self._attribute(name, token)
        if kind == "dataset" and name not in ("name", "digest", "context"):
            raise self._wrong(f"datasets have no {name!r}", token, "they have name, digest and context")
        return kind, name

    def _attribute(self, name: str, token: _Token) -> str:
        asked = self._names.aliases.get(name, name)
        ours = self._names.ours if self._strict else frozenset()
        if asked not in self._names.attributes or name in ours or asked in ours:
            known = [one for one in self._names.attributes if one not in ours]
            raise self._wrong(f"{self._names.noun}s have no attribute {name!r}", token, nearest(name, known))
        return asked

    def _any(self) -> Expression:
        parts = [self._all()]
        while not self._strict and self.word() == "OR":
            self.take()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _all(self) -> Expression:
        parts = [self._one()]
        while self.word() == "AND":
            self.take()
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _one(self) -> Expression:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._wrong("it is nested too deeply", None, f"at most {_DEEPEST} levels")
        try:
            return self._negated()
        finally:
            self._depth -= 1

    def _negated(self) -> Expression:
        if not self._strict and self.word() == "NOT":
            self.take()
            return Not(self._one())
        if not self._strict and self.word() == "(":
            self.take()
            found = self._any()
            if self.word() != ")":
                raise self._wrong("a parenthesis is not closed", None, "add ')'")
            self.take()
            return found
        return self._comparison()

    def _comparison(self) -> Compare:
        start = self._tokens[self._next] if self._next < len(self._tokens) else None
        kind, name = self.identifier()
        op = self._operator()
        if op in ("IS NULL", "IS NOT NULL"):
            if self._strict and kind not in self._names.nullable:
                raise self._wrong(f"{op} is not asked of a {kind}", start, "it is of params and tags")
            return Compare(kind, name, op)
        if op in ("IN", "NOT IN"):
            return self._listed(kind, name, op, start)
        value = self._value()
        if self._strict:
            self._check(kind, name, op, value, start)
        return self._typed(kind, name, op, value, start)

    def _operator(self) -> str:
        token = self.take()
        if token.what == "op":
            return {"<>": "!=", "==": "="}.get(token.text, token.text)
        word = token.text.upper()
        if word == "NOT" and self.word() == "IN":
            self.take()
            return "NOT IN"
        if word == "IS":
            words = "IS"
            if self.word() == "NOT":
                self.take()
                words += " NOT"
            if self.word() == "NULL":
                self.take()
                return f"{words} NULL"
        if word in ("LIKE", "ILIKE", "IN"):
            return word
        raise self._wrong(f"{token.text!r} does not compare", token, "= != > >= < <= LIKE ILIKE IN 'IS NULL'")

    def _value(self) -> int | float | str:
        token = self.take()
        if token.what == "number":
            plain = token.text.lstrip("+-").isdigit()
            return int(token.text) if plain else float(token.text)
        if token.what == "text":
            return token.text[1:-1].replace("''", "'")
        quoted = token.what == "name" and token.text[0] in '"`' and token.text[-1] == token.text[0]
        if quoted and token.text.count(token.text[0]) == 2:
            return token.text[1:-1]
        raise self._wrong(f"{token.text!r} is not a value", token, "put words in quotes: 'FINISHED'")

    def _listed(self, kind: str, name: str, op: str, start: _Token | None) -> Compare:
        if self.word() != "(":
            raise self._wrong(f"after {op} comes a list", start, f"{op} ('a', 'b')")
        self.take()
        found: list[str] = []
        while True:
            value = self._value()
            if not isinstance(value, str):
                if self._strict or kind == "metric":
                    raise self._wrong(f"{value} is not a quoted word", start, f"{op} ('a', 'b')")
                value = str(value)
            found.append(value)
            mark = self.take().text
            if mark == ")":
                break
            if mark != ",":
                raise self._wrong("a list is not closed", start, "('a', 'b')")
        allowed = kind in self._names.listed or (kind == "attribute" and name in self._names.lists)
        if kind == "metric" or (self._strict and not allowed):
            raise self._wrong(f"{name} is not compared with a list", start, "use = and 'and'")
        if kind == "attribute" and self._names.attributes[name] != "text":
            raise self._wrong(f"{name} is a number, a list holds words", start, "use > and <")
        return Compare(kind, name, op, tuple(found))

    def _check(self, kind: str, name: str, op: str, value: Any, start: _Token | None) -> None:
        """What MLflow demands of types."""
        number = kind == "metric" or (kind == "attribute" and self._names.attributes[name] == "number")
        if number and isinstance(value, str):
            raise self._wrong(f"{name} is compared with a number, not {value!r}", start, f"{name} > 0.5")
        if not number and not isinstance(value, str):
            raise self._wrong(f"{name} is compared with a word in quotes", start, f"{name} = '{value}'")
        if op not in (_NUMBERS if number else _WORDS):
            raise self._wrong(
                f"{name} is not compared by {op}", start, " ".join(_NUMBERS if number else _WORDS)
            )

    def _typed(
        self, kind: str, name: str, op: str, value: int | float | str, start: _Token | None
    ) -> Compare:
        what = self._names.attributes.get(name, "text") if kind == "attribute" else kind
        like = op in ("LIKE", "ILIKE")
        if what == "time":
            value = self._time(value, start)
        elif what in ("metric", "number") and isinstance(value, str):
            number = number_of(value) if value.lower() not in ("inf", "-inf") else float(value)
            if number is None:
                raise self._wrong(f"{name} is compared with a number, not {value!r}", start, f"{name} > 0.5")
            value = number
        elif what in ("text", "tag", "dataset") and not isinstance(value, str):
            if op not in ("=", "!="):
                raise self._wrong(f"{name} holds words, not numbers", start, f"{name} = '{value}'")
            value = str(value)
        if like and not isinstance(value, str):
            raise self._wrong(f"{op} compares words", start, f"{name} {op} 'a%'")
        return Compare(kind, name, op, value)

    def _time(self, value: int | float | str, start: _Token | None) -> int:
        """Microseconds: a number is milliseconds, a text a date or time."""
        if not isinstance(value, str):
            return int(value) * 1000
        try:
            return to_us(parse_time(value))
        except ValueError as error:
            raise self._wrong(
                f"{value!r} is not a time", start, "like '2026-01-31' or '2026-01-31T12:00'"
            ) from error

    def _wrong(self, what: str, token: _Token | None, hint: str) -> Invalid:
        at = len(self._text) if token is None else token.at
        return Invalid(f"in the filter {self._text!r:.300}: {what} (at letter {at + 1})", hint, at=at)


def _tokens(text: str) -> Iterable[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or found.end() == at:
            raise Invalid(
                f"in the filter {text!r:.300}: {text[at:].lstrip()[:20]!r} can't be read (at letter {at + 1})",
                "names with spaces stand in `…`, words in '…'",
                at=at,
            )
        what = found.lastgroup or ""
        yield _Token(what, found[what], found.start(what))
        at = found.end()


def _split(text: str) -> tuple[str, str | None]:
    """``metrics."a b"`` -> ``("metrics", "a b")``; without a dot outside quotes there is no second part."""
    if text[0] in '"`':
        end = text.index(text[0], 1)
        first, rest = text[1:end], text[end + 1 :]
    else:
        first, dot, inner = text.partition(".")
        rest = dot + inner
    if not rest:
        return first, None
    name = rest[1:]
    return first, name[1:-1] if name[0] in '"`' and name[-1] == name[0] else name
