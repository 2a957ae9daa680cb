"""What a feature is, declared once: entities, sources, views and windows.

Importable in a serving worker: no dataframe here. A view reads one source. Each of its rows has two clocks, when it
*happened* and when it became *known*; as of time t only rows with ``happened <= t`` and ``known <= t`` exist. Training
and serving read the same definition, and its digest is its version.

>>> delays = View("carrier_delays", ("carrier",), "landed", happened="landed_at", known="landed_at",
...               windows=(Window("late_3h", "arr_delay", "mean", 3 * 3600),))
>>> delays.features
('carrier_delays:late_3h',)
"""

from __future__ import annotations

import re
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec

from flyball.core.hashing import digest_of
from flyball.errors import Invalid, nearest
from flyball.features.expressions import Expr, columns_of
from flyball.features.expressions.kinds import check_derived
from flyball.features.naming import Datatype, as_tuples, named, typed

Function = Literal[
    "count", "sum", "mean", "std", "min", "max", "last", "first", "distinct", "approx_distinct", "percentile"
]
FUNCTIONS: tuple[str, ...] = get_args(Function)
OF_TEXT = ("count", "last", "first", "distinct", "approx_distinct")  # what can be taken of a column of texts


class Entity(msgspec.Struct, frozen=True, omit_defaults=True):
    """What features are of: an airport, a customer, a customer at a shop. ``keys`` are the columns that name one.

    >>> Entity("route", keys=("origin", "dest")).keys, Entity("carrier").keys
    (('origin', 'dest'), ('carrier',))
    """

    name: str
    keys: tuple[str, ...] = ()
    types: dict[str, Datatype] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        named("entity", self.name)
        as_tuples(self, f"entity {self.name!r}", "keys")
        if not self.keys:
            msgspec.structs.force_setattr(self, "keys", (self.name,))
        typed(f"entity {self.name!r}", self.types, self.keys)

    def __hash__(self) -> int:
        return hash(self.name)


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a view's rows come from. The URL says how: moving a table to S3 changes it, and no view's version.

    ``parquet:``, ``csv:``, ``json:``, ``delta:``, ``iceberg:``, ``s3://``, ``duckdb:``, ``sqlite:///``,
    ``postgresql://`` (with ``query``: a table or a SELECT), ``kafka://``, ``nats://``, ``amqp://``, ``redis://``
    (streams), ``data:NAME[@N]`` and ``pipeline:NAME`` (snapshots), ``push:`` or nothing (rows are pushed).

    >>> Source("landings", "parquet:landings/*.parquet", happened="landed_at").known
    'landed_at'
    """

    name: str
    url: str = ""
    query: str = ""
    format: str = ""
    happened: str = ""
    known: str = ""
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        named("source", self.name)
        if not self.known:
            msgspec.structs.force_setattr(self, "known", self.happened)

    def __hash__(self) -> int:
        return hash((self.name, self.url))


class Window(msgspec.Struct, frozen=True, omit_defaults=True):
    """One aggregate over the rows that happened in ``(t - window_s, t]``.

    ``count`` without a column counts rows; every function with a column skips nulls. Of nothing, ``count``,
    ``distinct`` and ``approx_distinct`` are 0 and all others are null; ``std`` is the sample's (n - 1), null below two
    values; ``percentile`` takes ``share`` in [0, 1] and interpolates linearly.

    With ``hop_s`` the window begins at a multiple of it (since 1970), at or before ``t - window_s``: it then holds
    between ``window_s`` and ``window_s + hop_s``, and a store may keep one tile per hop.
    """

    name: str
    column: str | None
    function: Function
    window_s: int
    hop_s: int = 0
    share: float = 0.0

    def __post_init__(self) -> None:
        named("window", self.name)
        said = f"window {self.name!r}"
        if self.function not in FUNCTIONS:
            raise Invalid(
                f"{said} has an unknown function {self.function!r}",
                nearest(str(self.function), list(FUNCTIONS)),
                window=self.name,
            )
        if type(self.window_s) is not int or self.window_s <= 0:
            raise Invalid(
                f"{said} has window_s {self.window_s!r}",
                "a window is a whole number of seconds above 0",
                window=self.name,
            )
        if type(self.hop_s) is not int or self.hop_s < 0 or (self.hop_s and self.window_s % self.hop_s):
            raise Invalid(
                f"{said} of {self.window_s} s has a hop of {self.hop_s!r} s, which does not divide it",
                f"take a divisor of {self.window_s}, or leave the hop out: windows are exact without one",
                window=self.name,
            )
        if self.column is None and self.function != "count":
            raise Invalid(
                f"{said} needs a column to take the {self.function} of",
                "only count works without one",
                window=self.name,
            )
        if not 0.0 <= self.share <= 1.0 or (self.share and self.function != "percentile"):
            raise Invalid(
                f"{said} has share {self.share!r}", "percentile takes one, within [0, 1]", window=self.name
            )


class View(msgspec.Struct, frozen=True, dict=True, omit_defaults=True, eq=False):
    """Features of one source by one entity: latest ``columns`` (null when older than ``ttl_s``) and ``windows``.

    ``row_id`` names columns that tell one row from another. Rows equal in key, clocks, values *and* ``row_id`` are
    the same row, however often they arrive; without it two flights that land in one minute with one delay count once.

    ``types`` names what is not FP64: texts are BYTES. ``derived`` are columns computed from each source row first,
    ``where`` keeps the rows for which it is true. ``defaults`` are served when the online store does not answer at
    all; an incident is opened when the newest row is older than ``fresh_s`` (without it, than the ttl). ``entity`` and
    ``source`` also take :class:`Entity` and :class:`Source` objects.

    A view of an older version is named ``name@2``; its rows are stored under the name alone.
    """

    name: str
    entity: tuple[str, ...]
    source: str
    happened: str = ""
    known: str = ""
    columns: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    ttl_s: int | None = None
    row_id: tuple[str, ...] = ()
    types: dict[str, Datatype] = {}
    derived: dict[str, Expr] = {}
    where: Expr | None = None
    defaults: dict[str, float | str | None] = {}
    fresh_s: int | None = None
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        named("view", re.sub(r"(?<=.)@[1-9][0-9]*$", "", str(self.name)))
        said = f"view {self.name!r}"
        self._take_objects()
        as_tuples(self, said, "entity", "columns", "row_id")
        as_tuples(self, said, "windows", of=Window)
        if not isinstance(self.source, str):
            raise Invalid(f"{said} has source {self.source!r}", "a Source, or the name of one")
        if not self.entity or len(set(self.entity)) != len(self.entity):
            raise Invalid(f"{said} has entity {self.entity!r}", "name each key column once, at least one")
        if not self.happened:
            raise Invalid(
                f"{said} does not say when its rows happened",
                f"name the column: View({self.name!r}, ..., happened='event_time')",
            )
        if not self.known:
            msgspec.structs.force_setattr(self, "known", self.happened)
        names = [*self.columns, *(window.name for window in self.windows)]
        if not names:
            raise Invalid(f"{said} has no feature", "give it columns, windows or both")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Invalid(f"{said} has two features named {twice[0]!r}", "rename one", view=self.name)
        for field, value in (("ttl_s", self.ttl_s), ("fresh_s", self.fresh_s)):
            if value is not None and (type(value) is not int or value < 0):
                raise Invalid(
                    f"{said} has {field} {value!r}", "a whole number of seconds, 0 or more, or None"
                )
        for column in self.columns:
            named(f"column of {said}", column)
        self._check_columns(said, names)

    def __eq__(self, other: object) -> bool:
        # By content: an expression's own == makes an expression.
        return self is other or (
            isinstance(other, View) and msgspec.to_builtins(self) == msgspec.to_builtins(other)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.entity, self.source))

    def _take_objects(self) -> None:
        """Entity and Source objects become their keys and their name; a source also brings its clocks."""
        given: Any = self.entity
        entities = [given] if isinstance(given, Entity) else given
        if isinstance(entities, list | tuple) and any(isinstance(one, Entity) for one in entities):
            keys = [key for one in entities for key in (one.keys if isinstance(one, Entity) else (one,))]
            msgspec.structs.force_setattr(self, "entity", tuple(keys))
        source: Any = self.source
        if isinstance(source, Source):
            self.__dict__["given_source"] = source
            for field, value in (
                ("source", source.name),
                ("happened", self.happened or source.happened),
                ("known", self.known or ("" if self.happened else source.known)),
            ):
                msgspec.structs.force_setattr(self, field, value)

    def _check_columns(self, said: str, names: list[str]) -> None:
        for column in self.derived:
            if column in (*self.entity, self.happened, self.known, *self.row_id):
                raise Invalid(
                    f"{said} derives {column!r}, which is a key, clock or row id",
                    "derive it under another name",
                    view=self.name,
                )
        typed(said, self.types, (*self.stored_columns, *self.derived))
        check_derived(
            self.derived, self.where, {**self.types, **dict.fromkeys((self.happened, self.known), "TIME")}
        )
        for window in self.windows:
            if window.column in self.text_columns and window.function not in OF_TEXT:
                raise Invalid(
                    f"{said}: window {window.name!r} takes the {window.function} of texts",
                    f"of texts there are {', '.join(OF_TEXT)}",
                    window=window.name,
                )
        for name in self.defaults:
            if name not in names:
                raise Invalid(f"{said} has a default for {name!r}", nearest(name, names), view=self.name)

    @property
    def features(self) -> tuple[str, ...]:
        """``view:feature``, latest columns first."""
        return tuple(f"{self.name}:{name}" for name in (*self.columns, *(w.name for w in self.windows)))

    @cached_property
    def digest(self) -> str:
        """The version of the definition; what it says about itself to people is not part of it."""
        bare: dict[str, Any] = {
            "name": self.base_name,
            "description": "",
            "owner": "",
            "tags": {},
            "defaults": {},
            "fresh_s": None,
        }
        return digest_of(msgspec.structs.replace(self, **bare))

    @property
    def base_name(self) -> str:
        """Its name without a version."""
        return self.name.partition("@")[0]

    @cached_property
    def stored_columns(self) -> tuple[str, ...]:
        """Columns whose values a store must hold: each once, in order of first use."""
        return tuple(
            dict.fromkeys((*self.columns, *(w.column for w in self.windows if w.column is not None)))
        )

    @cached_property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the source must have, those that derived ones read among them."""
        plain = [name for name in (*self.row_id, *self.stored_columns) if name not in self.derived]
        read = [name for expr in self.derived.values() for name in columns_of(expr)]
        if self.where is not None:
            read += columns_of(self.where)
        read = [name for name in read if name not in self.derived]
        return tuple(dict.fromkeys((*self.entity, self.happened, self.known, *plain, *read)))

    @cached_property
    def text_columns(self) -> frozenset[str]:
        """Stored columns of texts."""
        return frozenset(name for name, kind in self.types.items() if kind == "BYTES")

    @cached_property
    def output_types(self) -> dict[str, Datatype]:
        """The type of each feature, by its own name: a latest, first or last value has its column's, others FP64."""
        found: dict[str, Datatype] = {name: self.types.get(name, "FP64") for name in self.columns}
        for window in self.windows:
            own = window.function in ("last", "first")
            found[window.name] = self.types.get(window.column or "", "FP64") if own else "FP64"
        return found

    @cached_property
    def stored_as(self) -> str:
        """The name of this view's rows in an online store; changes only when the stored rows would."""
        stored = (
            self.base_name, self.entity, self.source, self.happened, self.known, self.stored_columns, self.row_id,
            *(() if self.windows else ("without sums",)),
        )  # fmt: skip
        plain = not self.derived and self.where is None and not self.text_columns
        more = (self.derived, self.where, sorted(self.text_columns))
        return f"{self.base_name}@{digest_of(stored if plain else (stored, more))[3:15]}"

    @property
    def longest_s(self) -> int:
        """The longest window with its hop, 0 without windows."""
        return max((window.window_s + window.hop_s for window in self.windows), default=0)


def text_code(text: str) -> int:
    """The number that stands for a text wherever values are floats: 52 bits, the same in every process and version."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 12
