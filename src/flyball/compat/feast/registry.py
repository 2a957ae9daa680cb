"""What a workspace defines, in Feast's words; and what ``apply([…])`` was given beyond the project's own files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from flyball.errors import Conflict, Invalid, NotFound, nearest
from flyball.features.definitions import Entity, Source, View
from flyball.features.services import OnDemand, Service
from flyball.service import Workspace, features
from flyball.service.feast import words
from flyball.service.feast.carried import Translated
from flyball.service.feast.facts import facts_of
from flyball.service.feast.translating import translate
from flyball.service.feast.writing import code_for, put
from flyball.service.workspace import APPLIED

_FEAST = {
    "FP64": words.Float64, "FP32": words.Float32, "INT64": words.Int64, "INT32": words.Int32, "BOOL": words.Bool,
    "BYTES": words.String,
}  # fmt: skip
_TABLES: dict[type, str] = {
    Entity: "entities", Source: "sources", View: "views", OnDemand: "on_demand", Service: "services",
}  # fmt: skip


def given(ws: Workspace) -> Translated:
    """What was applied as objects."""
    file = ws.state / "applied.json"
    if not file.is_file():
        return Translated(project=ws.config.project.name)
    return msgspec.json.decode(file.read_bytes(), type=Translated)


def give(ws: Workspace, objects: Iterable[Any]) -> None:
    """Take Feast's objects and Flyball's: those that the project's files do not define are kept in a file beside them."""
    found = given(ws)
    for table, name, one in _definitions(ws, objects):
        own = _own(ws, table).get(name)
        if own is not None and name not in getattr(found, table):
            if bool(own == one):
                continue
            raise Conflict(
                f"{name!r} is defined otherwise by the project's own files",
                f"change it there; {', '.join(ws.config.project.definitions)}",
                name=name,
            )
        getattr(found, table)[name] = one
    _keep(ws, found)


def take_back(ws: Workspace, table: str, name: str) -> None:
    """Forget what was given; what the project's files define is theirs."""
    found = given(ws)
    tables = ("on_demand", "functions") if table == "on_demand" else (table,)
    holding = [one for one in tables if name in getattr(found, one)]
    if not holding:
        own = _own(ws, table)
        if name in own:
            raise Invalid(f"{name!r} is defined by the project's own files", "take it out there", name=name)
        raise NotFound(f"there is no {name!r}", nearest(name, list(own)), name=name)
    del getattr(found, holding[0])[name]
    _keep(ws, found)


def _definitions(ws: Workspace, objects: Iterable[Any]) -> Iterable[tuple[str, str, Any]]:
    feast = []
    for one in objects:
        if type(one) in _TABLES:
            if isinstance(one, View) and "given_source" in one.__dict__:
                yield "sources", one.source, one.__dict__["given_source"]
            yield _TABLES[type(one)], one.name, one
        elif isinstance(one, words.Word):
            feast.append(one)
        else:
            raise Invalid(
                f"{one!r} can't be applied",
                "give definitions of flyball.features, or words of flyball.compat.feast",
            )
    if feast:
        said = facts_of(feast)
        said.root = str(ws.root)
        made = translate(said)
        for table in ("entities", "sources", "views", "on_demand", "functions", "services"):
            for one in getattr(made, table).values():
                yield table, one.name, one


def _own(ws: Workspace, table: str) -> Mapping[str, Any]:
    tables: dict[str, Any] = {
        "entities": features.entities, "sources": features.sources, "views": features.views,
        "on_demand": features.known, "functions": features.known, "services": features.services,
    }  # fmt: skip
    try:
        found: Mapping[str, Any] = tables[table](ws)
    except NotFound:  # a project without a file of definitions yet
        return {}
    return found


def _keep(ws: Workspace, found: Translated) -> None:
    """Both files renamed into place; the workspace reads its definitions anew."""
    put(ws.state / "applied.json", msgspec.json.encode(found))
    put(ws.root / APPLIED, code_for(found, ws.root))
    ws.__dict__.pop("definitions", None)


def entity_words(one: Entity) -> words.Entity:
    """An entity as Feast has it."""
    types = {key: _FEAST[kind] for key, kind in one.types.items()}
    return words.Entity(
        name=one.name,
        join_keys=list(one.keys),
        join_key=one.keys[0],
        value_type=types.get(one.keys[0]),
        **_about(one),
    )


def source_words(one: Source) -> words.Source:
    """A source as Feast has it: pushed, or a file."""
    if one.url in ("", "push:"):
        return words.PushSource(name=one.name, **_about(one))
    return words.FileSource(
        name=one.name, path=one.url.partition(":")[2], timestamp_field=one.happened,
        created_timestamp_column="" if one.known == one.happened else one.known, **_about(one),
    )  # fmt: skip


def view_words(one: View, entities: Mapping[str, Entity], sources: Mapping[str, Source]) -> words.FeatureView:
    """A view as Feast has it."""
    fields = _fields(one.output_types)
    named = [each.name for each in entities.values() if set(each.keys) <= set(one.entity)]
    source = sources.get(one.source)
    return words.FeatureView(
        name=one.name, entities=named or list(one.entity), join_keys=list(one.entity), schema=fields, features=fields,
        ttl=timedelta(seconds=one.ttl_s or 0), online=True, offline=True,
        source=words.PushSource(name=one.source) if source is None else source_words(source), **_about(one),
    )  # fmt: skip


def on_demand_words(one: OnDemand) -> words.OnDemandFeatureView:
    """An on-demand view as Feast has it; ``sources`` are the names that it reads."""
    fields = _fields(one.output_types)
    return words.OnDemandFeatureView(
        name=one.name, schema=fields, features=fields, sources=list(one.needs), mode="python", **_about(one)
    )


def service_words(one: Service) -> words.FeatureService:
    """A service as Feast has it; ``features`` are ``view:feature``."""
    return words.FeatureService(name=one.name, features=list(one.features), **_about(one))


def _fields(types: Mapping[str, str]) -> list[words.Field]:
    return [words.Field(name=name, dtype=_FEAST[kind]) for name, kind in types.items()]


def _about(one: Any) -> dict[str, Any]:
    return {"description": one.description, "owner": one.owner, "tags": dict(one.tags)}
