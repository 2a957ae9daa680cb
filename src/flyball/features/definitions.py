"""What a feature is, declared once: sources, views, windows, on-demand features and services.

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
from collections.abc import Iterable, Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec

from flyball.core.hashing import digest_of
from flyball.errors import Invalid, NotFound, nearest
from flyball.features.expressions import Expr, columns_of
from flyball.features.expressions.kinds import check, check_derived

Function = Literal[
    "count", "sum", "mean", "std", "min", "max", "last", "first", "distinct", "approx_distinct", "percentile"
]
Datatype = Literal["FP64", "FP32", "INT64", "INT32", "BOOL", "BYTES"]
FUNCTIONS: tuple[str, ...] = get_args(Function)
OF_TEXT = ("count", "last", "first", "distinct", "approx_distinct")  # what can be taken of a column of texts
DATATYPES: tuple[str, ...] = get_args(Datatype)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]*")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


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
        _named("entity", self.name)
        _as_tuples(self, f"entity {self.name!r}", "keys")
        if not self.keys:
            msgspec.structs.force_setattr(self, "keys", (self.name,))
        _typed(f"entity {self.name!r}", self.types, self.keys)

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
        _named("source", self.name)
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
        _named("window", self.name)
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
        _named("view", re.sub(r"(?<=.)@[1-9][0-9]*$", "", str(self.name)))
        said = f"view {self.name!r}"
        self._take_objects()
        _as_tuples(self, said, "entity", "columns", "windows", "row_id")
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
        if self.ttl_s is not None and self.ttl_s < 0:
            raise Invalid(f"{said} has ttl_s {self.ttl_s}", "a ttl is 0 s or more, or None")
        for column in self.columns:
            _named(f"column of {said}", column)
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
        if not isinstance(entities, str) and any(isinstance(one, Entity) for one in entities):
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
        _typed(said, self.types, (*self.stored_columns, *self.derived))
        check_derived(self.derived, self.where, {**self.types, **dict.fromkeys((self.happened, self.known), "TIME")})
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


class OnDemand(msgspec.Struct, frozen=True, dict=True, omit_defaults=True, eq=False):
    """Features computed when they are asked for, from request fields and other features, row by row and in batch.

    Either ``expressions`` (name -> expression over request fields and ``view:feature`` names), or a plain function
    ``python="module:function"`` with its ``inputs`` and ``outputs``; ``code`` is the digest of its sources.
    ``types`` names what is not FP64, outputs and request fields alike.
    """

    name: str
    expressions: dict[str, Expr] = {}
    python: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    code: str = ""
    types: dict[str, Datatype] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        _named("on-demand view", self.name)
        said = f"on-demand view {self.name!r}"
        _as_tuples(self, said, "inputs", "outputs")
        if bool(self.expressions) == bool(self.python):
            raise Invalid(f"{said} has no feature" if not self.python else f"{said} is defined twice",
                          "give it expressions, or one Python function")  # fmt: skip
        if self.python and not self.outputs:
            raise Invalid(f"{said} has no outputs", "name what its function returns")
        for name in (*self.expressions, *self.outputs):
            _named(f"feature of {said}", name)
        _typed(said, self.types, (*self.expressions, *self.outputs, *self.needs))
        for name, expression in self.expressions.items():
            gives = check(expression, {name: kind for name, kind in self.types.items() if name in self.needs})
            as_declared = expression.op == "col" or (gives == "BYTES") == (self.types.get(name) == "BYTES")
            if not as_declared or gives == "TIME":
                raise Invalid(f"{said}: {name!r} is {gives}, but declared {self.types.get(name, 'FP64')}",
                              f"types={{{name!r}: 'BYTES'}} for a text; .dt.epoch() makes a number of a time")  # fmt: skip

    def __eq__(self, other: object) -> bool:
        # By content: an expression's own == makes an expression.
        return self is other or (
            isinstance(other, OnDemand) and msgspec.to_builtins(self) == msgspec.to_builtins(other)
        )

    def __hash__(self) -> int:
        return hash((self.name, self.python, *self.expressions))

    @property
    def features(self) -> tuple[str, ...]:
        """``name:feature``."""
        return tuple(f"{self.name}:{name}" for name in (self.expressions or self.outputs))

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """What it reads, each once: request fields by name, features as ``view:feature``."""
        if self.python:
            return self.inputs
        return tuple(dict.fromkeys(name for expr in self.expressions.values() for name in columns_of(expr)))

    @cached_property
    def digest(self) -> str:
        """The version of the definition."""
        return digest_of(msgspec.structs.replace(self, description="", owner="", tags={}))

    @cached_property
    def output_types(self) -> dict[str, Datatype]:
        """The type of each feature, by its own name."""
        return {name: self.types.get(name, "FP64") for name in (self.expressions or self.outputs)}


class Service(msgspec.Struct, frozen=True, dict=True, omit_defaults=True):
    """The ordered vector of a model: each of ``features`` is a request field's name or ``view:feature``.

    The view may be an on-demand view; ``view@2:feature`` names an older version.
    """

    name: str
    features: tuple[str, ...]
    request: tuple[RequestField, ...] = ()
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}

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

    def __hash__(self) -> int:
        return hash((self.name, self.features))

    @cached_property
    def digest(self) -> str:
        """The version of the definition."""
        return digest_of(msgspec.structs.replace(self, description="", owner="", tags={}))

    def uses(self, known: Known) -> tuple[View, ...]:
        """The views it needs, in order of first use; an unknown feature names the nearest."""
        return resolve(self, known).views

    def entities(self, known: Known) -> tuple[str, ...]:
        """Key fields a request must bring, in order of first use."""
        return resolve(self, known).entities


Known = (
    Iterable[View | OnDemand] | Mapping[str, View] | Mapping[str, OnDemand] | Mapping[str, View | OnDemand]
)


class Vector(msgspec.Struct, frozen=True):
    """A service with all that it needs: what is looked up, then what is computed, then the vector."""

    service: Service
    views: tuple[View, ...]  # in order of first use
    looked_up: tuple[str, ...]  # ``view:feature``, those that only on-demand features read among them
    computed: tuple[OnDemand, ...]  # each after those it reads

    @property
    def entities(self) -> tuple[str, ...]:
        """Key fields a request must bring, in order of first use."""
        return tuple(dict.fromkeys(name for view in self.views for name in view.entity))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the on-demand features may read: request fields, then what is looked up."""
        return (*(field.name for field in self.service.request), *self.looked_up)

    def type_of(self, feature: str) -> Datatype:
        """The type of one of the service's features, or of what it looks up."""
        prefix, colon, name = feature.partition(":")
        if not colon:
            return next(field.datatype for field in self.service.request if field.name == prefix)
        owners: tuple[View | OnDemand, ...] = (*self.views, *self.computed)
        return next(one.output_types[name] for one in owners if one.name == prefix)


def resolve(service: Service, known: Known) -> Vector:
    """What a service needs, from the definitions there are; what is unknown names the nearest.

    >>> from flyball.features import OnDemand, View, col
    >>> shop = View("shop", ("shop",), "sales", happened="at", columns=("price",))
    >>> rate = OnDemand("rate", {"share": col("amount") / col("shop:price")})
    >>> asked = Service("s", ("rate:share",), request=(RequestField("amount"),))
    >>> resolve(asked, [shop, rate]).looked_up
    ('shop:price',)
    """
    defined = by_name(known)
    fields = {field.name for field in service.request}
    views: dict[str, View] = {}
    computed: dict[str, OnDemand] = {}
    looked_up: dict[str, None] = {}

    def take(feature: str, readers: tuple[str, ...]) -> None:
        prefix, colon, _ = feature.partition(":")
        if not colon:
            if feature not in fields:
                raise Invalid(
                    f"on-demand view {readers[-1]!r} reads {feature!r}, which is no request field of "
                    f"service {service.name!r}",
                    nearest(feature, sorted(fields)) + f"; add RequestField({feature!r}) to its request",
                    feature=feature,
                )
            return
        found = defined.get(prefix)
        asker = f"on-demand view {readers[-1]!r}" if readers else f"service {service.name!r}"
        if found is None:
            raise NotFound(
                f"{asker} names {feature!r}, but there is no view {prefix!r}",
                nearest(prefix, list(defined)),
                feature=feature,
            )
        if feature not in found.features:
            raise NotFound(
                f"{asker} names {feature!r}, which view {prefix!r} does not have",
                nearest(feature, list(found.features)),
                feature=feature,
            )
        if isinstance(found, View):
            views[prefix] = found
            looked_up[feature] = None
            return
        if prefix in readers:
            raise Invalid(
                f"on-demand views read one another in a circle: {' -> '.join((*readers, prefix))}",
                "let one of them read the view's feature itself",
                view=prefix,
            )
        if prefix not in computed:
            for name in found.needs:
                take(name, (*readers, prefix))
            computed[prefix] = found

    for feature in service.features:
        if ":" in feature:
            take(feature, ())
    return Vector(service, tuple(views.values()), tuple(looked_up), tuple(computed.values()))


def service_for(features: Iterable[str], known: Known, *, name: str = "asked") -> Service:
    """A service of features named on the spot; what their on-demand views read of the request becomes its fields."""
    wanted, defined = tuple(features), by_name(known)
    fields: dict[str, RequestField] = {}
    waiting = [feature.partition(":")[0] for feature in wanted]
    seen: set[str] = set()
    while waiting:
        one = defined.get(waiting.pop())
        if not isinstance(one, OnDemand) or one.name in seen:
            continue
        seen.add(one.name)
        for need in one.needs:
            if ":" in need:
                waiting.append(need.partition(":")[0])
            else:
                fields[need] = RequestField(need, one.types.get(need, "FP64"), nullable=True)
    return Service(name, wanted, tuple(fields[need] for need in sorted(fields)))


def by_name(known: Known) -> dict[str, View | OnDemand]:
    """Definitions by their name; two different ones of one name are refused."""
    found: dict[str, View | OnDemand] = {}
    for one in known.values() if isinstance(known, Mapping) else known:
        if found.setdefault(one.name, one) != one:
            raise Invalid(f"two views are named {one.name!r}", "rename one", view=one.name)
    return found


def text_code(text: str) -> int:
    """The number that stands for a text wherever values are floats: 52 bits, the same in every process and version."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") >> 12


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


def _typed(said: str, types: Mapping[str, str], columns: Iterable[str]) -> None:
    known = list(columns)
    for name, kind in types.items():
        if name not in known:
            raise Invalid(f"{said} gives {name!r} a type", nearest(name, known), column=name)
        if kind not in DATATYPES:
            raise Invalid(
                f"{said}: {name!r} has an unknown type {kind!r}", nearest(kind, list(DATATYPES)), column=name
            )


def _as_tuples(record: msgspec.Struct, noun: str, *fields: str) -> None:
    """Lists become tuples, so that equal definitions are equal; a bare text is the usual slip, and named."""
    for field in fields:
        value = getattr(record, field)
        if isinstance(value, str):
            raise Invalid(f"{noun}: {field} is a text, not a tuple", f"write {field}=({value!r},)")
        msgspec.structs.force_setattr(record, field, tuple(value))
