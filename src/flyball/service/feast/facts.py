"""What a Feast repository says, as plain records: one look at its objects, nothing of Feast left in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec

from flyball.service.feast import words
from flyball.service.feast.sourcing import code_of


class Field(msgspec.Struct, frozen=True):
    """One feature; ``dtype`` is Feast's own word for it."""

    name: str
    dtype: str
    description: str = ""
    tags: dict[str, str] = {}


class Entity(msgspec.Struct, frozen=True):
    """What features are of, and the columns that tell one from another."""

    name: str
    keys: tuple[str, ...]
    dtype: str = ""
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Source(msgspec.Struct, frozen=True):
    """Where rows come from. ``said`` is what only this kind of source says: path, table, query, servers."""

    kind: str
    name: str
    happened: str = ""
    created: str = ""
    renamed: dict[str, str] = {}  # column of the source -> its name as a feature
    batch: str = ""  # the source that holds the history of a pushed or streamed one
    fields: tuple[Field, ...] = ()  # of a request
    said: dict[str, str] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Aggregation(msgspec.Struct, frozen=True):
    """One aggregate over a window."""

    column: str
    function: str
    window_s: float
    slide_s: float
    name: str


class View(msgspec.Struct, frozen=True):
    """A feature view of any kind; ``others`` is what was said beyond this."""

    kind: str
    name: str
    entities: tuple[str, ...]
    source: str
    fields: tuple[Field, ...]
    ttl_s: float | None = None
    aggregations: tuple[Aggregation, ...] = ()
    code: str = ""
    others: dict[str, str] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Projection(msgspec.Struct, frozen=True):
    """Some features of a view, maybe under another name or by another column."""

    view: str
    features: tuple[str, ...] | None = None
    alias: str = ""
    keys: dict[str, str] = {}


class OnDemand(msgspec.Struct, frozen=True):
    """Features computed by a function, of which ``code`` is the source with all that it uses."""

    name: str
    mode: str
    function: str
    code: str
    views: tuple[Projection, ...]
    requests: tuple[str, ...]
    fields: tuple[Field, ...]
    singleton: bool = False
    others: dict[str, str] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Service(msgspec.Struct, frozen=True):
    """The features of a model, in order."""

    name: str
    projections: tuple[Projection, ...]
    others: dict[str, str] = {}
    description: str = ""
    owner: str = ""
    tags: dict[str, str] = {}


class Repository(msgspec.Struct):
    """All of it; ``left`` are objects of kinds that are not features (permissions, label views, ...)."""

    project: str = ""
    root: str = ""
    entities: dict[str, Entity] = {}
    sources: dict[str, Source] = {}
    views: dict[str, View] = {}
    on_demand: dict[str, OnDemand] = {}
    services: dict[str, Service] = {}
    left: dict[str, str] = {}
    missing: list[str] = []  # packages that its files import and that are not installed here
    settings: dict[str, Any] = {}  # feature_store.yaml


_ABOUT = ("name", "description", "owner", "tags")
_OF_SOURCES = {
    "timestamp_field",
    "event_timestamp_column",
    "created_timestamp_column",
    "field_mapping",
    "batch_source",
}
_OF_VIEWS = {"entities", "source", "schema", "features", "ttl", "aggregations", "udf", "mode"}
_OF_ON_DEMAND = {"sources", "schema", "features", "udf", "mode", "singleton", "input_schema"}
# What has no bearing on the values: kept out of the notes. `online` and `offline` only say where Feast puts rows.
_OF_NO_BEARING = {"online", "offline", "version", "udf_string", "enable_validation", "track_metrics", "org"}


def facts_of(objects: Iterable[Any], into: Repository | None = None) -> Repository:
    """Records of Feast's objects, and of what they name."""
    found = into if into is not None else Repository()
    for one in objects:
        _enter(found, one)
    return found


def _enter(found: Repository, one: Any) -> None:
    match one:
        case words.Project():
            found.project = found.project or str(one.name)
        case words.Entity():
            found.entities.setdefault(str(one.name), _entity(one))
        case words.Source():
            _source(found, one)
        case words.OnDemandFeatureView():
            found.on_demand.setdefault(str(one.name), _on_demand(found, one))
        case words.View():
            found.views.setdefault(str(one.name), _view(found, one))
        case words.FeatureService():
            projections = tuple(_projection(found, part) for part in one.features or ())
            others = _others(one, {"features"})
            found.services.setdefault(
                str(one.name), Service(str(one.name), projections, others, **_about(one))
            )
        case words.Field() | words.Feature() | words.Aggregation():
            pass  # parts, which the whole names
        case words.Word() if one.name:
            found.left[str(one.name)] = type(one).__name__


def _entity(one: Any) -> Entity:
    keys = tuple(map(str, one.join_keys or [one.join_key or one.name]))
    return Entity(str(one.name), keys, repr(one.value_type) if one.value_type else "", **_about(one))


def _source(found: Repository, one: Any) -> str:
    """Enter a source (and the one that holds its history); the name it goes by."""
    batch = _source(found, one.batch_source) if one.batch_source is not None else ""
    said = {
        name: _plain(value)
        for name, value in one.said.items()
        if name not in {*_ABOUT, *_OF_SOURCES} and value not in (None, "") and name != "schema"
    }
    fields = one.schema if isinstance(one.schema, list) else ()
    if isinstance(one.schema, str):
        said["schema"] = one.schema
    name = str(one.name or one.path or one.table or one.table_ref or type(one).__name__)
    found.sources.setdefault(
        name,
        Source(
            type(one).__name__,
            name,
            str(one.timestamp_field or one.event_timestamp_column or ""),
            str(one.created_timestamp_column or ""),
            dict(one.field_mapping or {}),
            batch,
            tuple(map(_field, fields)),
            said,
            **_about(one),
        ),
    )
    return name


def _view(found: Repository, one: Any) -> View:
    for entity in one.entities or ():
        if isinstance(entity, words.Entity):
            _enter(found, entity)
    source = one.source
    name = ""
    if isinstance(source, words.Source):
        name = _source(found, source)
    elif source is not None:
        name = str(getattr(source, "name", source))
    ttl = one.ttl
    others = _others(one, _OF_VIEWS)
    if source is not None and not isinstance(source, words.Source):
        others["source"] = "another view"
    return View(
        type(one).__name__,
        str(one.name),
        tuple(str(getattr(entity, "name", entity)) for entity in one.entities or ()),
        name,
        tuple(map(_field, one.schema or one.features or ())),
        ttl.total_seconds() if isinstance(ttl, timedelta) and ttl > timedelta(0) else None,
        tuple(_aggregation(each) for each in one.aggregations or ()),
        (code_of(one.udf)[1] or "(its source is not to be had)") if one.udf is not None else "",
        others,
        **_about(one),
    )


def _aggregation(one: Any) -> Aggregation:
    window = one.time_window.total_seconds() if one.time_window else 0.0
    slide = one.slide_interval.total_seconds() if one.slide_interval else window
    name = str(one.name or f"{one.function}_{one.column}" + (f"_{window:.0f}s" if window else ""))
    return Aggregation(str(one.column), str(one.function), window, slide, name)


def _on_demand(found: Repository, one: Any) -> OnDemand:
    projections, requests = [], []
    for source in one.sources or ():
        if isinstance(source, words.RequestSource):
            requests.append(_source(found, source))
        else:
            projections.append(_projection(found, source))
    if one.input_schema:
        asked = words.RequestSource(name=f"{one.name}_inputs", schema=one.input_schema)
        requests.append(_source(found, asked))
    function, code = code_of(one.udf)
    return OnDemand(
        str(one.name),
        str(one.mode or "pandas").lower(),
        function,
        code,
        tuple(projections),
        tuple(requests),
        tuple(map(_field, one.schema or one.features or ())),
        bool(one.singleton),
        _others(one, _OF_ON_DEMAND),
        **_about(one),
    )


def _projection(found: Repository, one: Any) -> Projection:
    """What a service or an on-demand view takes of a view; the view itself is entered too."""
    if not isinstance(one, words.View):
        view, _, feature = str(one).partition(":")
        return Projection(view, (feature,) if feature else None)
    plain = one._copied(projected=None, alias=None, join_keys_by=None)
    _enter(found, plain)
    projected = None if one.projected is None else tuple(one.projected)
    return Projection(str(one.name), projected, one.alias or "", one.join_keys_by or {})


def _field(one: Any) -> Field:
    tags = {str(key): str(value) for key, value in (one.tags or {}).items()}
    return Field(str(one.name), repr(one.dtype), str(one.description or ""), tags)


def _about(one: Any) -> dict[str, Any]:
    tags = {str(key): str(value) for key, value in (one.tags or {}).items()}
    return {"description": str(one.description or ""), "owner": str(one.owner or ""), "tags": tags}


def _others(one: Any, known: set[str]) -> dict[str, str]:
    return {
        name: _plain(value)
        for name, value in one.said.items()
        if name not in {*_ABOUT, *known, *_OF_NO_BEARING} and value not in (None, False, "", [], {})
    }


def _plain(value: Any) -> str:
    if isinstance(value, words.Word):
        inside = ", ".join(f"{name}={_plain(part)}" for name, part in value.said.items())
        return f"{type(value).__name__}({inside})"
    return value if isinstance(value, str) else repr(value)
