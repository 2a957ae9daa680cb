"""A Feast repository as Flyball's definitions, and a note for each thing that could not be carried over.

Nothing is dropped in silence: what has no counterpart here is a :class:`Note` that says what and why.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from flyball.errors import Invalid
from flyball.features.definitions import Entity, Function, Source, View, Window
from flyball.features.expressions import Expr, col
from flyball.features.naming import Datatype
from flyball.features.services import OnDemand, RequestField, Service
from flyball.service.feast import facts
from flyball.service.feast.carried import Note, PlainFunction, Translated
from flyball.service.feast.created import written_at_once
from flyball.service.feast.locations import url_of
from flyball.service.feast.transforming import NotArithmetic, read

Created = Literal["known", "ignore", "auto"]
_TYPES: dict[str, Datatype] = {
    "Float32": "FP64", "Float64": "FP64", "FLOAT": "FP64", "DOUBLE": "FP64", "Int32": "INT32", "INT32": "INT32",
    "Int64": "INT64", "INT64": "INT64", "Bool": "BOOL", "BOOL": "BOOL", "String": "BYTES", "STRING": "BYTES",
    "Uuid": "BYTES", "TimeUuid": "BYTES", "UUID": "BYTES", "TIME_UUID": "BYTES",
}  # fmt: skip
_FUNCTIONS: dict[str, Function] = {
    "sum": "sum", "mean": "mean", "avg": "mean", "count": "count", "min": "min", "max": "max", "std": "std",
    "stddev": "std", "stddev_samp": "std", "last": "last", "first": "first", "latest": "last", "count_distinct": "distinct",
    "nunique": "distinct", "approx_count_distinct": "approx_distinct",
}  # fmt: skip


def translate(found: facts.Repository, *, created: Created = "auto") -> Translated:
    """``created`` says what Feast's created timestamps become: when a row became known, or nothing.

    ``auto`` leaves them out where all rows of a file have one and the same, after the last of them happened: that is
    when the table was written.
    """
    return _Translation(found, created).all()


class _Translation:
    def __init__(self, found: facts.Repository, created: Created) -> None:
        self.found = found
        self.created = created
        self.out = Translated(project=found.project)
        self.aliases: dict[str, facts.Projection] = {}

    def all(self) -> Translated:
        for package in self.found.missing:
            self._note(
                package, "is imported but not installed here; functions that use it won't run until it is"
            )
        for entity in self.found.entities.values():
            self._entity(entity)
        for source in self.found.sources.values():
            if source.kind != "RequestSource":
                self._source(source)
        for view in self.found.views.values():
            self._view(view)
        for projection in self._projections():
            self._alias(projection)
        for one in self.found.on_demand.values():
            self._on_demand(one)
        for service in self.found.services.values():
            self._service(service)
        for name, kind in self.found.left.items():
            self._note(name, f"is a {kind}, for which there is no counterpart here", left_out=True)
        self._stores()
        return self.out

    def _known(self, name: str, *, views: bool = True) -> View | OnDemand | PlainFunction | None:
        """By its name in Feast, or by its name here."""
        tables: list[dict[str, Any]] = [self.out.on_demand, self.out.functions]
        for table in [self.out.views, *tables] if views else tables:
            found = table.get(name) or next((one for one in table.values() if one.name == name), None)
            if found is not None:
                return cast("View | OnDemand | PlainFunction", found)
        return None

    def _note(self, about: str, says: str, *, left_out: bool = False) -> None:
        note = Note(about, says, left_out)
        if note not in self.out.notes:
            self.out.notes.append(note)

    def _entity(self, one: facts.Entity) -> None:
        kind = _TYPES.get(one.dtype)
        types: dict[str, Datatype] = (
            {one.keys[0]: kind} if kind and kind != "FP64" and len(one.keys) == 1 else {}
        )
        self.out.entities[one.name] = Entity(_named(one.name), one.keys, types, **_about(one))

    def _source(self, one: facts.Source) -> None:
        batch = self.found.sources.get(one.batch)
        timed = one if one.happened else batch or one
        url, query, why = url_of(one, batch, self.found.settings, Path(self.found.root))
        if why:
            self._note(one.name, why, left_out=not url)
        back = {feature: column for column, feature in timed.renamed.items()}
        happened = back.get(timed.happened, timed.happened)
        known = back.get(timed.created, timed.created)
        if known and not self._takes_created(one.name, url, happened, known):
            known = ""
        if known:
            self._note(
                one.name,
                f"{known} becomes `known`: rows are invisible before it. Feast only breaks ties by it, unless asked "
                "with filter_by_created_timestamp=True",
            )
        said = Source(_named(one.name), url, query, "", happened, known, **_about(one))
        self.out.sources[one.name] = said

    def _takes_created(self, name: str, url: str, happened: str, known: str) -> bool:
        if self.created != "auto":
            return self.created == "known"
        written = written_at_once(url, happened, known)
        if written:
            self._note(
                name,
                f"{known} is {written} in every row, after all of them happened: when the table was written, not when "
                f"a row became known. It is left out (known = {happened}); --created known keeps it",
            )
        return not written

    def _view(self, one: facts.View) -> None:
        keys = self._keys(one)
        source = self.out.sources.get(one.source)
        if keys is None or source is None:
            if keys is not None:
                reads = "reads another view" if "source" in one.others else "has no source"
                self._note(one.name, f"{reads}: let it read that view's source", left_out=True)
            return
        happened = one.others.pop("timestamp_field", "") or source.happened
        if not happened:
            self._note(one.name, "does not say when its rows happened (no timestamp_field)", left_out=True)
            return
        windows = tuple(window for each in one.aggregations if (window := self._window(one, each)))
        taken = {window.name for window in windows}
        fields = [
            field
            for field in one.fields
            if field.name not in {*keys, *taken} and self._carries(one.name, field)
        ]
        types = {field.name: _TYPES[field.dtype] for field in fields if _TYPES[field.dtype] != "FP64"}
        for name in ("sink_source", "batch_engine", "stream_engine", "enabled", *one.others):
            if name in one.others:
                self._note(one.name, f"{name} has no counterpart here ({_short(one.others[name])})")
        if one.code:
            self.out.transformations[one.name] = one.code
            self._note(
                one.name, "its transformation is kept as a comment: the source must hold the transformed rows"
            )
        if not fields and not windows:
            self._note(one.name, "has no feature that could be carried over", left_out=True)
            return
        ttl = one.ttl_s
        view = View(
            _named(one.name), keys, source.name, happened, source.known if source.happened == happened else "",
            tuple(field.name for field in fields), windows, int(ttl) if ttl else None, types=types,
            derived=self._renamed(one, [field.name for field in fields]), description=self._described(one, fields),
            owner=one.owner, tags=one.tags,
        )  # fmt: skip
        view.__dict__["given_source"] = source
        self.out.views[one.name] = view

    def _keys(self, one: facts.View) -> tuple[str, ...] | None:
        """The columns that name an entity; ``None``, noted, when there is none."""
        entities = [self.out.entities.get(name) for name in one.entities]
        keys = tuple(key for entity in entities if entity for key in entity.keys)
        if not keys or None in entities:
            self._note(
                one.name, "has no entity: add one, over a column that is the same in every row", left_out=True
            )
            return None
        renamed = self.found.sources[one.source].renamed if one.source in self.found.sources else {}
        for column, key in renamed.items():
            if key in keys:
                self._note(
                    one.name,
                    f"its key {key!r} is called {column!r} in the source: rename it there",
                    left_out=True,
                )
                return None
        return keys

    def _renamed(self, one: facts.View, features: list[str]) -> dict[str, Expr]:
        """Features whose column has another name in the source."""
        source = self.found.sources[one.source]
        batch = self.found.sources.get(source.batch)
        renamed = {**(batch.renamed if batch else {}), **source.renamed}
        return {feature: col(column) for column, feature in renamed.items() if feature in features}

    def _described(self, one: facts.View, fields: Iterable[facts.Field]) -> str:
        lines = [
            one.description,
            *(f"{each.name}: {each.description}" for each in fields if each.description),
        ]
        for each in fields:
            if each.tags:
                self._note(one.name, f"tags of field {each.name!r} are not kept: {each.tags}")
        return "\n".join(filter(None, lines))

    def _carries(self, owner: str, field: facts.Field) -> bool:
        if field.dtype in _TYPES:
            if field.dtype.lower().replace("_", "") in ("uuid", "timeuuid"):
                self._note(owner, f"{field.name} ({field.dtype}) is kept as text")
            return True
        advice = "derive a number from it: `derived={'since': col('...').dt.epoch()}`" if "imestamp" in field.dtype else (
            "features are numbers, booleans and texts; take what a model needs of it as columns of their own"
        )  # fmt: skip
        self._note(f"{owner}:{field.name}", f"is a {field.dtype}: {advice}", left_out=True)
        return False

    def _window(self, view: facts.View, one: facts.Aggregation) -> Window | None:
        function = _FUNCTIONS.get(one.function)
        about = f"{view.name}:{one.name}"
        if function is None or one.window_s <= 0 or one.window_s != int(one.window_s):
            why = (
                f"there is no function {one.function!r} here"
                if function is None
                else "it has no window of whole seconds"
            )
            self._note(about, f"is left out: {why}", left_out=True)
            return None
        if one.slide_s and one.slide_s != one.window_s:
            self._note(
                about,
                f"its slide_interval of {one.slide_s:.0f} s is not needed: windows end at the time asked for",
            )
        kind = next((_TYPES.get(field.dtype) for field in view.fields if field.name == one.column), None)
        if kind == "BYTES" and function in ("sum", "mean", "min", "max", "std"):
            self._note(about, f"takes the {function} of texts", left_out=True)
            return None
        return Window(_named(one.name), one.column or None, function, int(one.window_s))

    def _projections(self) -> list[facts.Projection]:
        parts: list[facts.OnDemand | facts.Service] = [
            *self.found.on_demand.values(),
            *self.found.services.values(),
        ]
        return [
            projection
            for part in parts
            for projection in (part.views if isinstance(part, facts.OnDemand) else part.projections)
            if projection.alias or projection.keys
        ]

    def _alias(self, one: facts.Projection) -> None:
        """A view under another name is a view of its own over the same source."""
        name = one.alias or one.view
        view = self.out.views.get(one.view)
        if one.keys:
            pairs = ", ".join(f"{key} by {other}" for key, other in one.keys.items())
            self._note(
                name,
                f"looks up {one.view} by other columns ({pairs}): give it a source with those column names",
                left_out=True,
            )
        elif view is not None and name not in self.out.views:
            self.out.views[name] = msgspec.structs.replace(view, name=_named(name))
            self.out.views[name].__dict__["given_source"] = view.__dict__["given_source"]
            self._note(name, f"is {one.view} under another name: a view of its own here, filled by itself")

    def _on_demand(self, one: facts.OnDemand) -> None:
        names, fields = self._inputs(one)
        outputs = [field for field in one.fields if self._carries(one.name, field)]
        for name, value in one.others.items():
            self._note(one.name, f"{name} has no counterpart here ({_short(value)})")
        kinds = {**{field.name: _TYPES.get(field.dtype, "FP64") for field in (*fields, *outputs)}}
        types: dict[str, Datatype] = {name: kind for name, kind in kinds.items() if kind != "FP64"}
        if not outputs:
            self._note(one.name, "has no feature that could be carried over", left_out=True)
            return
        try:
            said = read(one.code, names)
            missing = [field.name for field in outputs if field.name not in said]
            if missing:
                raise NotArithmetic(f"it does not say {missing[0]!r}")
            expressions = {field.name: said[field.name] for field in outputs}
            needs = {need for expr in expressions.values() for need in OnDemand("x", {"y": expr}).needs}
            types = {name: kind for name, kind in types.items() if name in needs or name in expressions}
            self.out.on_demand[one.name] = OnDemand(_named(one.name), expressions, types=types, **_about(one))
        except (NotArithmetic, Invalid) as why:
            self._plain_function(
                one, names, [field.name for field in outputs], types, str(why).partition("\n")[0]
            )

    def _plain_function(
        self,
        one: facts.OnDemand,
        names: dict[str, str],
        outputs: list[str],
        types: dict[str, Datatype],
        why: str,
    ) -> None:
        if not one.code or one.mode not in ("pandas", "python"):
            reason = why if one.code else "its function's source is not to be had"
            self._note(one.name, f"can't be carried over (mode {one.mode}): {reason}", left_out=True)
            return
        mode = "row" if one.singleton else one.mode
        used = [name for name in names if re.search(rf"[\"']{re.escape(name)}[\"']", one.code)] or list(names)
        reads = tuple(names[name] for name in used)
        types = {name: kind for name, kind in types.items() if name in (*reads, *outputs)}
        self._note(one.name, f"stays a Python function: {why}")
        self.out.functions[one.name] = PlainFunction(
            _named(one.name),
            one.function,
            one.code,
            mode,
            tuple(used),
            reads,
            tuple(outputs),
            types,
            **_about(one),
        )

    def _inputs(self, one: facts.OnDemand) -> tuple[dict[str, str], list[facts.Field]]:
        """What the function calls each of its inputs -> what it is called here; and the request's fields."""
        names: dict[str, str] = {}
        for projection in one.views:
            known = self._known(projection.alias or projection.view)
            for feature in known.features if known is not None else ():
                view, _, short = feature.partition(":")
                if projection.features is None or short in projection.features:
                    names[f"{view}__{short}"] = feature
                    names.setdefault(short, feature)
        fields = [field for source in one.requests for field in self.found.sources[source].fields]
        names.update({field.name: field.name for field in fields})
        return names, fields

    def _service(self, one: facts.Service) -> None:
        features: list[str] = []
        for projection in one.projections:
            name = projection.alias or projection.view
            known = self._known(name)
            if known is None or projection.keys:
                self._note(one.name, f"lacks {name}, which was left out")
                continue
            has = known.features
            prefix = has[0].partition(":")[0]
            wanted = (
                has
                if projection.features is None
                else tuple(f"{prefix}:{each}" for each in projection.features)
            )
            for feature in wanted:
                if feature not in has:
                    self._note(one.name, f"lacks {feature}, which was left out")
            features += [feature for feature in wanted if feature in has and feature not in features]
        for name, value in one.others.items():
            self._note(one.name, f"{name} has no counterpart here ({_short(value)})")
        if not features:
            self._note(one.name, "has no feature that could be carried over", left_out=True)
            return
        self.out.services[one.name] = Service(
            _named(one.name), tuple(features), self._request(features), **_about(one)
        )

    def _request(self, features: list[str]) -> tuple[RequestField, ...]:
        """What the request must bring for the on-demand features among these."""
        wanted: dict[str, RequestField] = {}
        waiting = [feature.partition(":")[0] for feature in features]
        while waiting:
            one = self._known(waiting.pop(0), views=False)
            needs = () if one is None or isinstance(one, View) else one.needs
            for need in needs:
                if ":" in need:
                    waiting.append(need.partition(":")[0])
                elif one is not None and not isinstance(one, View):
                    wanted.setdefault(need, RequestField(need, one.types.get(need, "FP64"), nullable=True))
        return tuple(wanted.values())

    def _stores(self) -> None:
        online = self.found.settings.get("online_store")
        online = {"type": online} if isinstance(online, str) else online or {}
        kind = str(online.get("type", "sqlite"))
        if kind == "redis":
            place = str(online.get("connection_string", "localhost:6379")).partition(",")[0]
            self._note("online_store", f'is Redis: [stores] online = "redis://{place}/0" in flyball.toml')
        elif kind not in ("sqlite", "remote"):
            self._note("online_store", f"is {kind}; here it is LMDB (in the project) or Redis")


def _named(name: str) -> str:
    """A name that Flyball takes: a letter or ``_``, then letters, digits, ``_``, ``-``, ``.``."""
    found = re.sub(r"[^A-Za-z0-9_.\-]+", "_", name).strip("_") or "_"
    return found if re.match(r"[A-Za-z_]", found) else f"_{found}"


def _about(one: Any) -> dict[str, Any]:
    return {"description": one.description, "owner": one.owner, "tags": cast("dict[str, str]", one.tags)}


def _short(text: str) -> str:
    return text if len(text) < 60 else text[:57] + "..."
