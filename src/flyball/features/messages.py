"""Rows that come as JSON, by push or by stream: read by what the views of their source need, bad ones told apart.

A time is ISO 8601 (UTC where it names no zone) or a number since 1970: of seconds, milliseconds, microseconds or
nanoseconds, told apart by its size. Fields that no view needs are kept as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl

from flyball.core.clock import to_us
from flyball.errors import Invalid
from flyball.features.definitions import View

_TIME = datetime | int | float
_OF = {"BYTES": str | None, "INT64": int | None, "INT32": int | None, "BOOL": bool | None}
_DTYPES: dict[Any, Any] = {str | None: pl.String, int | None: pl.Int64, bool | None: pl.Boolean}
_UTC_US = pl.Datetime("us", "UTC")


class Bad(msgspec.Struct, frozen=True):
    """A message that is no row, and why."""

    place: int  # in its batch
    reason: str


class Schema:
    """What the rows of one source must have for all of its views.

    >>> spent = View("spent", ("user",), "clicks", happened="at", columns=("amount",))
    >>> schema = Schema([spent])
    >>> rows, bad = schema.frame([{"user": "u1", "at": "2026-03-01T00:00:00Z", "amount": 5}, {"user": "u2"}])
    >>> rows["amount"].to_list(), bad[0].reason
    ([5.0], 'it lacks `at`')
    """

    def __init__(self, views: Sequence[View], table: Mapping[str, Any] | None = None) -> None:
        self._clocks = {name for view in views for name in (view.happened, view.known)}
        happened = {view.happened for view in views}
        self._stamped = {
            view.known for view in views
        } - happened  # the time of arrival where the sender says none
        self._known = {view.known for view in views}
        self._keys = {name for view in views for name in view.entity}
        self._kinds: dict[str, Any] = {}
        for view in views:
            for name in view.needed_columns:
                kind = self._kind(view, name, (table or {}).get(name))
                self._kinds[name] = _both(self._kinds.get(name, Any), kind, name, view)
        self._decided = table is not None
        self._type = self._struct()

    def frame(
        self,
        messages: Sequence[Mapping[str, Any]],
        stamps_us: Sequence[int | None] | None = None,
        *,
        texts: bool = False,
        latest_us: int | None = None,
    ) -> tuple[pl.DataFrame, list[Bad]]:
        """Rows of the good messages, in order, and the bad ones. ``stamps_us`` say when each arrived.

        With ``texts`` numbers may be written as texts. What is known after ``latest_us`` is bad: that clock is ahead.
        """
        if not self._decided and messages:
            self._decide(messages)
        good, kept, stamps = [], [], []
        bad: list[Bad] = []
        for place, message in enumerate(messages):
            stamp = stamps_us[place] if stamps_us is not None else None
            try:
                row = msgspec.convert(message, self._type, strict=not texts)
                reason = self._wrong(row, stamp, latest_us)
            except msgspec.ValidationError as error:
                reason = str(error).replace("Object missing required field", "it lacks")
            if reason:
                bad.append(Bad(place, reason))
                continue
            good.append(row)
            kept.append(message)
            stamps.append(stamp)
        columns = [self._series(name, good, stamps) for name in self._kinds]
        return pl.DataFrame([*columns, *_extras(kept, self._kinds.keys())]), bad

    def _kind(self, view: View, name: str, dtype: Any) -> Any:
        if name in self._clocks:
            return _TIME
        if name in view.types:
            return _OF.get(view.types[name], float | None)
        if name in view.entity or name in view.row_id or name not in view.stored_columns:
            return {pl.String: str | None, pl.Int64: int | None, pl.Boolean: bool | None}.get(
                dtype, float | None if dtype in (pl.Float64, pl.Float32) else Any
            )
        return float | None

    def _decide(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """What is text and what a number where no view says it: by the first message that has it."""
        for name, kind in self._kinds.items():
            if kind is Any:
                first = next((one[name] for one in messages if one.get(name) is not None), None)
                if first is not None:
                    known = {str: str | None, bool: bool | None, int: int | None}
                    self._kinds[name] = known.get(type(first), float | None)
        self._decided = Any not in self._kinds.values()
        self._type = self._struct()

    def _struct(self) -> type[msgspec.Struct]:
        required: list[Any] = []
        others: list[Any] = []
        for name, kind in self._kinds.items():
            field = f"f{len(required) + len(others)}"
            if name in self._clocks and name not in self._stamped:
                required.append((field, kind, msgspec.field(name=name)))
            elif name in self._keys and name not in self._clocks:
                required.append((field, _not_null(kind), msgspec.field(name=name)))
            else:
                optional = kind if kind is Any else kind | None
                others.append((field, optional, msgspec.field(name=name, default=None)))
        found = msgspec.defstruct("Row", [*required, *others], kw_only=True)
        self._fields = {field.encode_name: field.name for field in msgspec.structs.fields(found)}
        return found

    def _wrong(self, row: msgspec.Struct, stamp: int | None, latest: int | None) -> str:
        for name in self._stamped if stamp is None else ():
            if getattr(row, self._fields[name]) is None:
                return f"it lacks `{name}`"
        for name in self._known if latest is not None else ():
            value = getattr(row, self._fields[name])
            if value is not None and _us(value) > latest:  # type: ignore[operator]  # not None here
                return f"`{name}` is in the future: {value}"
        return ""

    def _series(self, name: str, rows: Sequence[msgspec.Struct], stamps: Sequence[int | None]) -> pl.Series:
        field, kind = self._fields[name], self._kinds[name]
        values = [getattr(row, field) for row in rows]
        if kind is _TIME:
            times = [
                _us(value) if value is not None else stamp
                for value, stamp in zip(values, stamps, strict=True)
            ]
            return pl.Series(name, times, dtype=pl.Int64).cast(_UTC_US)
        if kind is Any:
            return pl.Series(name, values, strict=False)
        return pl.Series(name, values, dtype=_DTYPES.get(kind, pl.Float64))


def _both(one: Any, other: Any, name: str, view: View) -> Any:
    """The kind of a column to two views: what one does not say the other does, and whole numbers are numbers."""
    if Any in (one, other) or one == other:
        return other if one is Any else one
    if {one, other} == {float | None, int | None}:
        return float | None
    raise Invalid(
        f"{name!r} of source {view.source!r} is of one kind to view {view.name!r} and of another to the views before",
        "give it one type in all of them",
        column=name,
    )


def _not_null(kind: Any) -> Any:
    return str | int if kind is Any else {str | None: str, int | None: int}.get(kind, kind)


def _us(value: datetime | float) -> int:
    """Microseconds since 1970 of a time as a message has it."""
    if isinstance(value, datetime):
        return to_us(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    size = abs(value)
    if size < 1e11:
        return round(value * 1e6)
    if size < 1e14:
        return round(value * 1e3)
    return round(value) if size < 1e17 else round(value) // 1000


def _extras(messages: Sequence[Mapping[str, Any]], known: Iterable[str]) -> list[pl.Series]:
    """Columns for what no view needs; what is neither number, truth nor text is kept as JSON."""
    names = dict.fromkeys(name for message in messages for name in message if name not in known)
    found = []
    for name in names:
        values = [message.get(name) for message in messages]
        kinds = {type(value) for value in values} - {type(None)}
        if kinds == {bool}:
            found.append(pl.Series(name, values, dtype=pl.Boolean))
        elif kinds <= {int, float}:
            found.append(pl.Series(name, values, dtype=pl.Float64, strict=False))
        else:
            texts = [
                value
                if value is None or isinstance(value, str)
                else msgspec.json.encode(value, enc_hook=str).decode()
                for value in values
            ]
            found.append(pl.Series(name, texts, dtype=pl.String))
    return found
