"""What a feature is, declared once: windows, views and services. Importable in a serving worker: no dataframe here.

A view reads one source. Each of its rows has two clocks, when it *happened* and when it became *known*; as of time t
only rows with ``happened <= t`` and ``known <= t`` exist. Training and serving read the same definition.

>>> delays = View("carrier_delays", ("carrier",), "landed", happened="landed_at", known="landed_at",
...               windows=(Window("late_3h", "arr_delay", "mean", 3 * 3600),))
>>> delays.features
('carrier_delays:late_3h',)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec

from flyball.core.hashing import digest_of
from flyball.errors import Invalid, NotFound, nearest

Function = Literal["count", "sum", "mean", "std", "min", "max", "last"]
Datatype = Literal["FP64", "FP32", "INT64", "INT32", "BOOL", "BYTES"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
DATATYPES: tuple[str, ...] = get_args(Datatype)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Window(msgspec.Struct, frozen=True):
    """One aggregate over the rows that happened in ``(t - window_s, t]``.

    ``count`` without a column counts rows; every function with a column skips nulls. Of nothing, ``count`` is 0 and
    all others are null; ``std`` is the sample's (n - 1), null below two values.
    """

    name: str
    column: str | None
    function: Function
    window_s: int

    def __post_init__(self) -> None:
        _named("window", self.name)
        if self.function not in FUNCTIONS:
            raise Invalid(
                f"window {self.name!r} has an unknown function {self.function!r}",
                nearest(str(self.function), list(FUNCTIONS)),
                window=self.name,
            )
        if type(self.window_s) is not int or self.window_s <= 0:
            raise Invalid(
                f"window {self.name!r} has window_s {self.window_s!r}",
                "a window is a whole number of seconds above 0",
                window=self.name,
            )
        if self.column is None and self.function != "count":
            raise Invalid(
                f"window {self.name!r} needs a column to take the {self.function} of",
                "only count works without one",
                window=self.name,
            )


class View(msgspec.Struct, frozen=True, dict=True):
    """Features of one source by one entity: latest ``columns`` (null when older than ``ttl_s``) and ``windows``.

    ``row_id`` names columns that tell one row from another. Rows equal in key, clocks, values *and* ``row_id`` are
    the same row, however often they arrive; without it two flights that land in one minute with one delay count once.
    """

    name: str
    entity: tuple[str, ...]
    source: str
    happened: str
    known: str
    columns: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    ttl_s: int | None = None
    row_id: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _named("view", self.name)
        _as_tuples(self, f"view {self.name!r}", "entity", "columns", "windows", "row_id")
        if not self.entity or len(set(self.entity)) != len(self.entity):
            raise Invalid(
                f"view {self.name!r} has entity {self.entity!r}", "name each key column once, at least one"
            )
        names = [*self.columns, *(window.name for window in self.windows)]
        if not names:
            raise Invalid(f"view {self.name!r} has no feature", "give it columns, windows or both")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Invalid(
                f"view {self.name!r} has two features named {twice[0]!r}", "rename one", view=self.name
            )
        if self.ttl_s is not None and self.ttl_s < 0:
            raise Invalid(f"view {self.name!r} has ttl_s {self.ttl_s}", "a ttl is 0 s or more, or None")
        for column in self.columns:
            _named(f"column of view {self.name!r}", column)

    @property
    def features(self) -> tuple[str, ...]:
        """``view:feature``, latest columns first."""
        return tuple(f"{self.name}:{name}" for name in (*self.columns, *(w.name for w in self.windows)))

    @cached_property
    def digest(self) -> str:
        """The version of the definition."""
        return digest_of(self)

    @cached_property
    def stored_columns(self) -> tuple[str, ...]:
        """Columns whose values a store must hold: each once, in order of first use."""
        return tuple(
            dict.fromkeys((*self.columns, *(w.column for w in self.windows if w.column is not None)))
        )

    @cached_property
    def stored_as(self) -> str:
        """The name of this view's rows in an online store; changes only when the stored rows would."""
        stored = (
            self.name,
            self.entity,
            self.source,
            self.happened,
            self.known,
            self.stored_columns,
            self.row_id,
        )
        return f"{self.name}@{digest_of(stored)[3:15]}"

    @property
    def longest_s(self) -> int:
        """The longest window, 0 without windows."""
        return max((window.window_s for window in self.windows), default=0)


class RequestField(msgspec.Struct, frozen=True):
    """A value that the request itself brings; ``datatype`` is one of the Open Inference Protocol's names."""

    name: str
    datatype: Datatype = "FP64"
    nullable: bool = False

    def __post_init__(self) -> None:
        _named("request field", self.name)
        if self.datatype not in DATATYPES:
            raise Invalid(
                f"request field {self.name!r} has an unknown datatype {self.datatype!r}",
                nearest(str(self.datatype), list(DATATYPES)),
                field=self.name,
            )


class Service(msgspec.Struct, frozen=True, dict=True):
    """The ordered vector of a model: each of ``features`` is a request field's name or ``view:feature``."""

    name: str
    features: tuple[str, ...]
    request: tuple[RequestField, ...] = ()

    def __post_init__(self) -> None:
        _named("service", self.name)
        _as_tuples(self, f"service {self.name!r}", "features", "request")
        if not self.features:
            raise Invalid(f"service {self.name!r} has no feature", "name at least one")
        twice = sorted({name for name in self.features if self.features.count(name) > 1})
        if twice:
            raise Invalid(f"service {self.name!r} names {twice[0]!r} twice", "name each feature once")
        known = [field.name for field in self.request]
        if len(set(known)) != len(known):
            raise Invalid(f"service {self.name!r} has two request fields of one name", "rename one")
        for name in self.features:
            if ":" not in name and name not in known:
                raise Invalid(
                    f"service {self.name!r} names {name!r}, which is no request field",
                    nearest(name, known) + "; features of a view are written view:feature",
                    feature=name,
                )

    @cached_property
    def digest(self) -> str:
        """The version of the definition."""
        return digest_of(self)

    def uses(self, views: Iterable[View] | Mapping[str, View]) -> tuple[View, ...]:
        """The views whose features it names, in order of first use; an unknown one names the nearest."""
        known = by_name(views)
        used: dict[str, View] = {}
        for feature in self.features:
            view_name, colon, _ = feature.partition(":")
            if not colon:
                continue
            if view_name not in known:
                raise NotFound(
                    f"service {self.name!r} names {feature!r}, but there is no view {view_name!r}",
                    nearest(view_name, list(known)),
                    feature=feature,
                )
            if feature not in known[view_name].features:
                raise NotFound(
                    f"service {self.name!r} names {feature!r}, which view {view_name!r} does not have",
                    nearest(feature, list(known[view_name].features)),
                    feature=feature,
                )
            used[view_name] = known[view_name]
        return tuple(used.values())

    def entities(self, views: Iterable[View] | Mapping[str, View]) -> tuple[str, ...]:
        """Key fields a request must bring, in order of first use."""
        return tuple(dict.fromkeys(name for view in self.uses(views) for name in view.entity))


def by_name(views: Iterable[View] | Mapping[str, View]) -> dict[str, View]:
    """Views by their name; two different ones of one name are refused."""
    found: dict[str, View] = {}
    for view in views.values() if isinstance(views, Mapping) else views:
        if found.setdefault(view.name, view) != view:
            raise Invalid(f"two views are named {view.name!r}", "rename one", view=view.name)
    return found


def seconds(text: str | int) -> int:
    """A duration in seconds.

    >>> seconds("90s"), seconds("3h"), seconds("30d"), seconds(60)
    (90, 10800, 2592000, 60)
    """
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    found = re.fullmatch(r"\s*(\d+)\s*([smhdw])\s*", str(text))
    if found is None:
        raise Invalid(f"{text!r} is not a duration", "like '90s', '15m', '3h', '7d' or '2w'")
    return int(found[1]) * _SECONDS[found[2]]


def _named(noun: str, name: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{name!r} can't name a {noun}",
            "a letter or '_', then letters, digits, '_', '-' or '.'; ':' divides view and feature",
        )


def _as_tuples(record: msgspec.Struct, noun: str, *fields: str) -> None:
    """Lists become tuples, so that equal definitions are equal; a bare text is the usual slip, and named."""
    for field in fields:
        value = getattr(record, field)
        if isinstance(value, str):
            raise Invalid(f"{noun}: {field} is a text, not a tuple", f"write {field}=({value!r},)")
        msgspec.structs.force_setattr(record, field, tuple(value))
