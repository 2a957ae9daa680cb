"""Verbs on features: what is defined, what is applied, what a change would touch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import Invalid, NotFound, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.definitions import Entity, Source, View
    from flyball.features.services import OnDemand, Service, Vector

_WORDS = ("description", "owner", "tags")  # what a definition says to people: no part of its version


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """What applying one definition does, and whom it touches."""

    name: str
    kind: str  # view, on_demand or service
    version: str
    change: str  # new, changed, none, or removed: applied before, and not defined any more
    differs: tuple[str, ...] = ()  # fields of the definition
    affects: tuple[str, ...] = ()  # services, models and endpoints that use the version before
    next: str = ""  # what to do after applying


@verb("features apply")
def apply(plan: bool = False, *, ws: Workspace = CURRENT) -> list[Change]:
    """Record the project's definitions; a changed one is a new version beside the old. --plan only shows what would change.

    What uses the version before goes on using it: a model keeps the features that it was trained with.
    """
    from flyball.service.serving import publish_plan

    changes: list[Change] = []
    refs: dict[str, str] = {}
    vectors = {name: resolved(ws, service) for name, service in services(ws).items()}  # all right, or nothing
    for one in known(ws).values():
        if kind_of(one) == "on_demand":
            resolved(ws, service_of(ws, one.features))
    for name, one in known(ws).items():
        kind = kind_of(one)
        if not plan:
            _keep_code(ws, one)
        found = _change(ws, kind, name, one.digest, msgspec.to_builtins(one), plan)
        refs[name] = found.version
        changes.append(found)
    for name, vector in vectors.items():
        service = vector.service
        views = [refs.get(view.name, view.name) for view in vector.views]
        computed = [refs[one.name] for one in vector.computed]
        content = {"definition": msgspec.to_builtins(service), "views": views, "digest": service.digest}
        if computed:
            content["on_demand"] = computed
        digest = service.digest + "".join((*views, *computed))
        changes.append(_change(ws, "service", name, digest, content, plan))
    gone = _removed(ws, changes)
    if not plan:
        _keep_names(ws, changes)
        publish_plan(ws)  # workers answer for features by themselves
    return [*changes, *gone]


def _removed(ws: Workspace, changes: Iterable[Change]) -> list[Change]:
    """What the last apply knew and the project defines no more: its newest versions, and who uses them."""
    before = ws.ledger.find("feature_set", "defined", dict[str, list[str]]) or {}
    defined = {(one.kind, one.name) for one in changes}
    found = []
    for noun, names in before.items():
        for name in names:
            refs = [key for key in ws.ledger.keys(noun) if key.rpartition("@")[0] == name]
            if (noun, name) not in defined and refs:
                ref = max(refs, key=lambda key: int(key.rpartition("@")[2]))
                found.append(Change(name, noun, ref, "removed", affects=tuple(users_of(ws, noun, ref))))
    return found


def _keep_names(ws: Workspace, changes: list[Change]) -> None:
    """What is defined now, so that workers stop answering for what no longer is."""
    names: dict[str, list[str]] = {"service": [], "view": [], "on_demand": []}
    for one in changes:
        names[one.kind].append(one.name)
    with ws.ledger.transaction() as tx:
        if tx.find("feature_set", "defined", dict[str, Any]) != names:
            tx.append("features.defined", "defined", actor=ws.actor, sets=[("feature_set", "defined", names)])


def _keep_code(ws: Workspace, one: View | OnDemand) -> None:
    """The sources of a plain function, where workers find them."""
    from flyball.features.services import OnDemand

    if isinstance(one, OnDemand) and one.python:
        from flyball.features.shipping import packed

        ws.blobs.put(packed(one)[1])


def _change(ws: Workspace, noun: str, name: str, digest: str, content: dict[str, Any], plan: bool) -> Change:
    """The newest version when it is the same, else the next number, with what differs from the one before."""
    content = msgspec.json.decode(
        msgspec.json.encode(content)
    )  # as the ledger gives it back: lists, no tuples
    with ws.ledger.transaction() as tx:
        number = tx.next_number(noun, name)
        before = f"{name}@{number - 1}" if number > 1 else None
        if before is not None and tx.find(f"{noun}_digest", before, str) == digest:
            _keep_words(ws, tx, noun, before, content, plan)
            return Change(name, noun, before, "none")
        old = tx.find(noun, before, dict[str, Any]) or {} if before else {}
        if not plan:
            ref = f"{name}@{number}"
            sets = [(noun, ref, content), (f"{noun}_digest", ref, digest)]
            tx.append(f"{noun}.applied", ref, actor=ws.actor, sets=sets)
    differs = _differing(old, content) if before else ()
    affects = tuple(users_of(ws, noun, before)) if before else ()
    return Change(
        name,
        noun,
        f"{name}@{number}",
        "changed" if before else "new",
        differs,
        affects,
        _next(noun, name, differs),
    )


def _keep_words(ws: Workspace, tx: Any, noun: str, ref: str, content: dict[str, Any], plan: bool) -> None:
    """A new description or owner is no new version; it is kept all the same."""
    if not plan and tx.find(noun, ref, dict[str, Any]) != content:
        tx.append(f"{noun}.described", ref, actor=ws.actor, sets=[(noun, ref, content)])


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    inner_old, inner_new = old.get("definition", old), new.get("definition", new)
    names = [name for name in {**inner_old, **inner_new} if name not in _WORDS]
    found = [name for name in names if inner_old.get(name) != inner_new.get(name)]
    return tuple(found or ["views"])


_STORED = frozenset(
    ("source", "entity", "happened", "known", "columns", "windows", "row_id", "types", "derived", "where")
)


def _next(noun: str, name: str, differs: tuple[str, ...]) -> str:
    if noun == "view" and (not differs or _STORED.intersection(differs)):
        return f"flyball features materialize {name}"
    return ""


def users_of(ws: Workspace, noun: str, ref: str) -> Iterator[str]:
    """Who would break: services that name this version, models trained with those, endpoints that serve them."""
    from flyball.core.records import ModelVersion, Route

    if noun == "service":
        using = [ref]
    else:
        field = "views" if noun == "view" else "on_demand"
        using = [
            key
            for key in ws.ledger.keys("service")
            if ref in ws.ledger.get("service", key, dict[str, Any]).get(field, ())
        ]
        yield from (f"service:{key}" for key in using)
    models = [
        version.ref
        for version in ws.ledger.ls("model", ModelVersion)
        if version.feature_service in using and not version.deleted
    ]
    yield from (f"model:{key}" for key in models)
    for route in ws.ledger.ls("route", Route):
        if any(arm.model in models for arm in route.arms):
            yield f"endpoint:{route.endpoint}"


def kind_of(one: View | OnDemand) -> str:
    """The noun of the ledger under which its versions lie."""
    from flyball.features.definitions import View

    return "view" if isinstance(one, View) else "on_demand"


def known(ws: Workspace, names: Iterable[str] = ()) -> dict[str, View | OnDemand]:
    """The project's views and on-demand views by name, and those versions that feature names ask for (``view@2:f``)."""
    from flyball.features.definitions import View
    from flyball.features.services import OnDemand

    found: dict[str, View | OnDemand] = {}
    defined: list[View | OnDemand] = [
        *ws.definitions.of(View).values(),
        *ws.definitions.of(OnDemand).values(),
    ]
    for one in defined:
        if "@" in one.name:
            raise Invalid(f"{one.name!r} can't name a view", "'@' divides a name and its version")
        if found.setdefault(one.name, one) is not one:
            raise Invalid(f"two views are named {one.name!r}", "rename one", view=one.name)
        if isinstance(one, OnDemand) and one.python and not one.code:
            found[one.name] = _with_code(one)
    waiting = [*names, *(name for one in found.values() if isinstance(one, OnDemand) for name in one.needs)]
    for name in waiting:
        ref = name.partition(":")[0]
        if "@" in ref and ref not in found:
            found[ref] = version_named(ws, ref)
    return found


def _with_code(one: OnDemand) -> OnDemand:
    """With the digest of its sources, so that another function is another version; as it is where it can't be shipped."""
    from flyball.features.shipping import packed

    try:
        return packed(one)[0]
    except Invalid:  # works in this process; applying it says why it can't leave
        return one


def version_named(ws: Workspace, ref: str) -> View:
    """An applied version of a view, ``carrier@2``, under that very name; its rows are those of its definition."""
    from flyball.features.definitions import View

    record = ws.ledger.find("view", ref, dict[str, Any])
    if record is None:
        raise NotFound(f"no view {ref!r} was applied", nearest(ref, ws.ledger.keys("view")))
    return msgspec.convert({**record, "name": ref}, View)


def resolved(ws: Workspace, service: Service) -> Vector:
    """A service with the views and on-demand views it needs."""
    from flyball.features.services import resolve

    return resolve(service, known(ws, service.features))


def service_of(ws: Workspace, features: str | Iterable[str] | Service) -> Service:
    """A service by its name, as it is, or made of feature names."""
    from flyball.features.services import Service, service_for

    if isinstance(features, Service):
        return features
    if isinstance(features, str) and ":" not in features:
        return service_named(ws, features)
    names = (features,) if isinstance(features, str) else tuple(features or ())
    for name in names:
        if not isinstance(name, str):
            raise Invalid(f"a feature is named by a text, not {name!r}", "like 'view:feature'")
        if name in services(ws):
            raise Invalid(f"{name!r} is a service, and no feature", "ask for it alone, by its name")
    if not names:
        raise Invalid("no feature is asked for", "flyball features ls shows what there is")
    return service_for(names, known(ws, names))


def live_views(ws: Workspace, source: str | None = None) -> list[View]:
    """Views whose rows must be kept online: those defined now, and the older ones that something still serves."""
    from flyball.features.definitions import View

    served = [
        msgspec.convert(record, View)
        for views_of in (ws.plan.features.views, *(one.views for one in ws.plan.endpoints.values()))
        for record in views_of.values()
    ]
    found = {view.stored_as: view for view in (*served, *views(ws).values())}  # the newest definition stands
    return [view for view in found.values() if source is None or view.source == source]


def views(ws: Workspace) -> dict[str, View]:
    """The views that the project defines."""
    from flyball.features.definitions import View

    return {name: one for name, one in known(ws).items() if isinstance(one, View)}


def services(ws: Workspace) -> dict[str, Service]:
    """The services that the project defines."""
    from flyball.features.services import Service

    return {service.name: service for service in ws.definitions.of(Service).values()}


def entities(ws: Workspace) -> dict[str, Entity]:
    """The entities that the project defines."""
    from flyball.features.definitions import Entity

    return dict(ws.definitions.of(Entity))


def sources(ws: Workspace) -> dict[str, Source]:
    """The sources that the project defines, by themselves or inside a view."""
    from flyball.features.definitions import Source

    found = dict(ws.definitions.of(Source))
    for view in views(ws).values():
        given = view.__dict__.get("given_source")
        if given is not None and found.setdefault(given.name, given) != given:
            raise Invalid(f"two sources are named {given.name!r}", "rename one", source=given.name)
    return found


def service_named(ws: Workspace, name: str) -> Service:
    """One service; :class:`NotFound` names those there are."""
    found = services(ws)
    if name not in found:
        one = known(ws).get(name)
        hint = f"{name!r} is a view; its features are {', '.join(one.features)}" if one else ""
        raise NotFound(f"no feature service {name!r}", hint or nearest(name, list(found)))
    return found[name]


def applied(ws: Workspace, name: str) -> str:
    """The ref of a service's newest applied version; applies the definitions when they were never."""
    service_named(ws, name)
    for row in apply(ws=ws):
        if row.kind == "service" and row.name == name:
            return row.version
    raise NotFound(f"no feature service {name!r}", "flyball features apply")


@verb("features ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List the features that the project defines, by view."""
    from flyball.features.definitions import View

    return [
        {
            "feature": feature,
            "type": one.output_types[feature.partition(":")[2]],
            "entity": ", ".join(one.entity) if isinstance(one, View) else "",
            "source": one.source if isinstance(one, View) else "on demand",
            "owner": one.owner,
        }
        for one in known(ws).values()
        for feature in one.features
    ]


@verb("features show", reads=True)
def show(name: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Show a view, on-demand view, service, source or entity as it is defined now, its versions, and who uses it.

    ``name@2`` shows an applied version.
    """
    if "@" in name:
        return {"version": name, **_applied_version(ws, name)}
    defined: list[Mapping[str, Any]] = [entities(ws), sources(ws), known(ws), services(ws)]
    found = [_shown(ws, names[name]) for names in defined if name in names]
    if not found:
        raise NotFound(
            f"no view, service, source or entity {name!r}",
            nearest(name, list({one: None for names in defined for one in names})) + "; flyball features ls",
        )
    if len(found) == 1:
        return found[0][1]
    return dict(found)  # a view is often called as its entity or its source is


def _shown(ws: Workspace, one: Entity | Source | View | OnDemand | Service) -> tuple[str, dict[str, Any]]:
    """What kind of definition it is, and what it says."""
    kind = type(one).__name__
    shown = _in_words(one)
    noun = {"Service": "service", "View": "view", "OnDemand": "on_demand"}.get(kind)
    if noun is not None:
        versions = [key for key in ws.ledger.keys(noun) if key.rpartition("@")[0] == one.name]
        used = {user: None for ref in versions for user in users_of(ws, noun, ref)}
        digest = getattr(one, "digest", "")
        shown = {"digest": digest, "versions": versions, "used_by": list(used), **shown}
    return noun or kind.lower(), shown


@verb("features search", reads=True)
def search(words: str, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Find features by words: of their names, sources, entities, descriptions, owners and tags; all words must occur."""
    asked = words.lower().split()
    found = []
    for kind, defined in (
        ("entity", entities(ws)), ("source", sources(ws)), ("view", known(ws)), ("service", services(ws)),
    ):  # fmt: skip
        for name, one in defined.items():
            text = _text_of(one)
            for feature in getattr(one, "features", ()) if kind == "view" else (name,):
                if all(word in f"{feature} {text}".lower() for word in asked):
                    found.append(
                        {"kind": kind, "name": feature, "description": one.description, "owner": one.owner}
                    )
    return found


def _in_words(one: Any) -> dict[str, Any]:
    """A definition as plain values, its expressions as one writes them."""
    shown: dict[str, Any] = msgspec.to_builtins(one)
    for field in ("expressions", "derived"):
        if field in shown:
            shown[field] = {name: repr(expression) for name, expression in getattr(one, field).items()}
    if "where" in shown:
        shown["where"] = repr(one.where)
    return shown


def _applied_version(ws: Workspace, ref: str) -> dict[str, Any]:
    from flyball.features.definitions import View
    from flyball.features.services import OnDemand

    refs: list[str] = []
    kinds = {"view": View, "on_demand": OnDemand}
    for noun in ("view", "on_demand", "service"):
        record = ws.ledger.find(noun, ref, dict[str, Any])
        if record is not None:
            return _in_words(msgspec.convert(record, kinds[noun])) if noun in kinds else record
        refs += ws.ledger.keys(noun)
    raise NotFound(f"no version {ref!r} was applied", nearest(ref, refs))


def _text_of(one: Any) -> str:
    entity = " ".join(getattr(one, "entity", getattr(one, "keys", ())))
    tags = " ".join(f"{key} {value} {key}={value}" for key, value in one.tags.items())
    return f"{one.name} {getattr(one, 'source', '')} {entity} {one.description} {one.owner} {tags}"
