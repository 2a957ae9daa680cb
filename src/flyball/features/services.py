"""What a model asks for: request fields, on-demand features, and services, the ordered vectors of both and of views.

:func:`resolve` finds all that a service needs. Importable in a serving worker: no dataframe here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import msgspec

from flyball.core.hashing import digest_of
from flyball.errors import Invalid, NotFound, nearest
from flyball.features.definitions import View
from flyball.features.expressions import Expr, columns_of
from flyball.features.expressions.kinds import check
from flyball.features.naming import DATATYPES, Datatype, as_tuples, named, typed


class RequestField(msgspec.Struct, frozen=True):
    """A value that the request itself brings; ``datatype`` is one of the Open Inference Protocol's names."""

    name: str
    datatype: Datatype = "FP64"
    nullable: bool = False

    def __post_init__(self) -> None:
        named("request field", self.name)
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
        named("on-demand view", self.name)
        said = f"on-demand view {self.name!r}"
        as_tuples(self, said, "inputs", "outputs")
        if bool(self.expressions) == bool(self.python):
            raise Invalid(f"{said} has no feature" if not self.python else f"{said} is defined twice",
                          "give it expressions, or one Python function")  # fmt: skip
        if self.python and not self.outputs:
            raise Invalid(f"{said} has no outputs", "name what its function returns")
        for name in (*self.expressions, *self.outputs):
            named(f"feature of {said}", name)
        typed(said, self.types, (*self.expressions, *self.outputs, *self.needs))
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
        named("service", self.name)
        as_tuples(self, f"service {self.name!r}", "features")
        as_tuples(self, f"service {self.name!r}", "request", of=RequestField)
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
