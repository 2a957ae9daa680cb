"""What each noun of the ledger says of itself and refers to: read from its record as it lies there.

Records are taken as plain JSON, so that one of another version, or with a flipped byte, still says what it can. A thing
has one name (key) everywhere: ``run_…``, ``b3:…`` or ``noun:name``, as in the ledger's edges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from flyball.core.hashing import is_digest
from flyball.core.lineage import is_part

IDS = {"run_": "run", "rep_": "report", "dec_": "decision", "inc_": "incident", "m-": "logged_model"}
BY_DIGEST = ("code", "environment", "configuration", "hardware", "dataset")  # records whose key is a digest
SHOWN_ONE_BY_ONE = (
    40  # files of a snapshot, sources of a code: beyond, they are counted, and rechecked all the same
)
_decode = msgspec.json.Decoder().decode
_USUAL = (("deleted", False), ("forgotten", False), ("stage", "None"), ("lifecycle", "active"))
_ID = re.compile(r"(?:run|rep|dec|inc)_[0-9a-z]{26}")
_ANY_ID = re.compile(r"(?:run|rep|dec|inc)_[0-9A-Za-z]+")  # where only an id can stand
_REF = re.compile(r"[^\s@:/#]+@[0-9]+")


class Ref(NamedTuple):
    """One thing that a record names as what it was made from. ``aside``: shown, but its own past is not ours.

    Bytes that a thing consists of always stand aside: that others made the same bytes is not its past.
    """

    of: str
    role: str
    aside: bool = False


class Noun(NamedTuple):
    """What people call it, which fields are its facts, what it refers to, which blobs are its own."""

    what: str
    shown: tuple[str, ...] = ()
    refs: Callable[[dict[str, Any]], Iterable[Ref]] = lambda record: ()
    digests: Callable[[dict[str, Any]], Iterable[str]] = lambda record: ()


def key_of(noun: str, key: str) -> str:
    """The name in the graph of the record ``(noun, key)``.

    >>> key_of("model", "delays@3"), key_of("run", "run_1"), key_of("code", "b3:ab")
    ('model:delays@3', 'run_1', 'b3:ab')
    """
    return key if noun in IDS.values() or noun in BY_DIGEST else f"{noun}:{key}"


def noun_of(key: str) -> tuple[str, str]:
    """The noun and the record's key behind a name in the graph; of a digest, the noun is for the ledger to say.

    >>> noun_of("model:delays@3"), noun_of("delays#4")
    (('model', 'delays@3'), ('route', 'delays#4'))
    """
    for prefix, noun in IDS.items():
        if key.startswith(prefix):
            return noun, key
    if is_digest(key):
        return "artifact", key
    noun, colon, name = key.partition(":")
    if colon:
        return noun, name
    return ("route", key) if "#" in key else ("unknown", key)


def decoded(content: bytes) -> Any:
    """A record's content; :class:`ValueError` when it is no JSON any more."""
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def table_of(content: bytes) -> dict[str, Any]:
    """A record as a table; an empty one when it is none, or can't be read (``--verify`` names it)."""
    try:
        found = decoded(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def refs_of(noun: str, record: dict[str, Any]) -> list[Ref]:
    """What a record says that it was made from."""
    kind = NOUNS.get(noun)
    found = kind.refs(record) if kind else _mentions(record)
    return [ref._replace(aside=True) if is_part(ref.role) else ref for ref in found if ref.of]


def facts_of(noun: str, record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of itself, for people."""
    kind = NOUNS.get(noun)
    if kind is None or not kind.shown:
        return {
            name: value for name, value in record.items() if isinstance(value, str | int | float) and value
        }
    found: dict[str, Any] = {}
    for shown in kind.shown:
        field, _, name = shown.partition("=")
        value = record.get(field)
        if value not in (None, "", [], {}) and (field, value) not in _USUAL:
            found[name or field] = value
    return found


def source(value: Any) -> str:
    """The name of what a run or model read: a snapshot's ref, a digest, or a name with its noun already.

    >>> source("flights@3"), source("snapshot:flights@3"), source("b3:" + "0" * 64)[:5], source(7)
    ('snapshot:flights@3', 'snapshot:flights@3', 'b3:00', '')
    """
    if not isinstance(value, str) or not value:
        return ""
    if is_digest(value) or _ID.fullmatch(value) or value.startswith(("snapshot:", "model:", "view:", "m-")):
        return value
    if len(value) == 64 and is_digest(f"b3:{value}"):  # a pipeline's journal cuts the digest's own prefix off
        return f"b3:{value}"
    return f"snapshot:{value}" if _REF.fullmatch(value) else ""


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    return value if isinstance(value, str) else ""


def _table(record: dict[str, Any], field: str) -> dict[str, Any]:
    value = record.get(field)
    return value if isinstance(value, dict) else {}


def _rows(record: dict[str, Any], field: str) -> list[dict[str, Any]]:
    value = record.get(field)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _id(value: Any) -> str:
    return value if isinstance(value, str) and _ANY_ID.fullmatch(value) else ""


def _digest(value: Any) -> str:
    return value if isinstance(value, str) and is_digest(value) else ""


def _named(noun: str, name: Any) -> str:
    return f"{noun}:{name}" if isinstance(name, str) and name else ""


def _mentions(record: Any, role: str = "") -> Iterator[Ref]:
    """Ids and digests anywhere inside, by the field they stand in; for nouns that have no rule of their own."""
    if isinstance(record, dict):
        for name, value in record.items():
            yield from _mentions(value, role or str(name))
    elif isinstance(record, list):
        for value in record:
            yield from _mentions(value, role)
    elif isinstance(record, str) and (_ID.fullmatch(record) or is_digest(record)):
        yield Ref(record, role or "mentions")


def _run(record: dict[str, Any]) -> Iterator[Ref]:
    for role in BY_DIGEST:
        yield Ref(_digest(record.get(role)), role)
    for role, value in _table(record, "inputs").items():
        yield Ref(source(value), f"input:{role}")
    yield Ref(_id(record.get("because")), "because")
    yield Ref(_id(record.get("parent")), "parent run", True)
    yield Ref(_named("experiment", record.get("experiment")), "experiment", True)


def _run_digests(record: dict[str, Any]) -> Iterator[str]:
    yield from filter(None, map(_digest, _table(record, "outputs").values()))
    for line in _rows(record, "steps"):
        outputs = line.get("outputs")
        yield from filter(None, map(_digest, outputs if isinstance(outputs, list) else []))


def _snapshot(record: dict[str, Any]) -> Iterator[Ref]:
    for file in _rows(record, "files"):
        yield Ref(_digest(file.get("digest")), f"file:{_text(file, 'path')}")
    parents = record.get("parents")
    named = [one for one in parents if isinstance(one, str)] if isinstance(parents, list) else []
    for parent in dict.fromkeys([_text(record, "parent"), *named]):
        same = parent.rpartition("@")[0] == _text(
            record, "name"
        )  # the version before it: no source of this one
        yield Ref(_named("snapshot", parent), "parent", same)
    for key in _text(_table(record, "source"), "made_from").split():  # a training set: its views and sources
        yield Ref(key, key.partition(":")[0].replace("_", " "))
    yield Ref(_id(record.get("made_by")), "made by")


def _model(record: dict[str, Any]) -> Iterator[Ref]:
    artifact, native = _digest(record.get("artifact")), _digest(record.get("native"))
    yield Ref(artifact, "artifact")
    if native != artifact:
        yield Ref(native, "native")
    for path, digest in _table(_table(record, "export"), "files").items():  # of an MLmodel folder
        yield Ref(_digest(digest), f"file:{path}")
    yield Ref(_id(record.get("gate")), "gate")
    yield Ref(_text(record, "run"), "run")
    for role, value in _table(record, "training").items():
        yield Ref(source(value), f"training:{role}")
    yield Ref(_named("service", record.get("feature_service")), "features")
    yield Ref(_text(record, "logged_model"), "logged model")


def _judged(record: dict[str, Any]) -> Iterator[Ref]:
    """A report, decision or incident: the run it is about, and, aside, what it compares, accuses or cites."""
    for field in ("evidence", "arguments"):
        inside = _table(record, field)
        for name, value in inside.items():
            if name == "run":
                yield Ref(_id(value), "run")
            elif (
                name in ("champion", "model", "candidate", "to")
                and isinstance(value, str)
                and _REF.fullmatch(value)
            ):
                yield Ref(_named("model", value), "compared with" if name == "champion" else name, True)
            elif name == "batch":
                yield Ref(_digest(value), "batch")
            else:
                yield from (
                    ref._replace(aside=True) for ref in _mentions(value, name) if not is_digest(ref.of)
                )


def _logged_model(record: dict[str, Any]) -> Iterator[Ref]:
    yield Ref(_text(record, "run"), "run")
    yield Ref(_named("experiment", record.get("experiment")), "experiment", True)


def _code(record: dict[str, Any]) -> Iterator[Ref]:
    yield Ref(_named("commit", record.get("commit")), "commit")
    yield Ref(_digest(record.get("patch")), "patch")
    for field, role in (("sources", "source"), ("outside", "source outside the project")):
        for file in _rows(record, field):
            yield Ref(_digest(file.get("digest")), f"{role}:{_text(file, 'path')}")
    inside = [
        *_rows(record, "nested"),
        *(one for one in _table(record, "editable").values() if isinstance(one, dict)),
    ]
    for one in inside:
        yield Ref(_named("commit", one.get("commit")), f"commit of {_text(one, 'path')}")
        yield Ref(_digest(one.get("patch")), f"patch:{_text(one, 'path')}")


def _service(record: dict[str, Any]) -> Iterator[Ref]:
    views = record.get("views")
    for view in views if isinstance(views, list) else []:
        yield Ref(_named("view", view), "view")
    computed = record.get("on_demand")
    for one in computed if isinstance(computed, list) else []:
        yield Ref(_named("on_demand", one), "on-demand view")


def _route(record: dict[str, Any]) -> Iterator[Ref]:
    for arm in _rows(record, "arms"):
        yield Ref(_named("model", arm.get("model")), _text(arm, "role") or "arm")
    shadows = record.get("shadows")
    for shadow in shadows if isinstance(shadows, list) else []:
        yield Ref(_named("model", shadow), "shadow")
    yield Ref(_id(record.get("because")), "decided by")


def _tag(record: dict[str, Any]) -> Iterator[Ref]:
    yield Ref(_named("snapshot", f"{record.get('name')}@{record.get('number')}"), "points at")


def _prediction(record: dict[str, Any]) -> Iterator[Ref]:
    yield Ref(_named("model", record.get("model")), "answered by")
    yield Ref(_named("model", record.get("assigned")), "assigned")
    yield Ref(_named("features", record.get("features")), "features")
    yield Ref(_text(record, "route"), "routed by")


def _alias(record: dict[str, Any]) -> Iterator[Ref]:
    yield Ref(_named("model", f"{record.get('model')}@{record.get('number')}"), "points at")
    yield Ref(_id(record.get("because")), "because")


NOUNS: dict[str, Noun] = {
    "run": Noun(
        "run",
        (
            "pipeline",
            "name",
            "status",
            "started",
            "ended",
            "params",
            "metrics",
            "seeds",
            "actor=by",
            "because",
            "error",
        ),
        _run,
        _run_digests,
    ),
    "snapshot": Noun(
        "data",
        (
            "rows",
            "file_count=files",
            "size_bytes=bytes",
            "digest",
            "created",
            "made_by=by",
            "source",
            "forgotten",
        ),
        _snapshot,
    ),
    "model": Noun(
        "model",
        (
            "format",
            "created=registered",
            "feature_service",
            "metrics",
            "export",
            "note",
            "by",
            "stage",
            "deleted",
        ),
        _model,
    ),
    "report": Noun("report", ("kind", "subject", "passed", "summary", "at"), _judged),
    "decision": Noun("decision", ("action", "subject", "state", "because", "evidence", "at"), _judged),
    "incident": Noun(
        "incident", ("cause", "subject", "because", "opened", "closed", "closed_because"), _judged
    ),
    "code": Noun("code", ("commit", "branch", "place", "left_out"), _code),
    "commit": Noun("commit", ("size_bytes=bytes", "left_out"), lambda record: ()),
    "environment": Noun("environment", ("python", "implementation", "platform")),
    "configuration": Noun("configuration", ("profile", "values")),
    "hardware": Noun("hardware", ("cpu", "cores", "memory_bytes", "gpus")),
    "service": Noun("service", ("digest",), _service),
    "view": Noun(
        "view",
        ("source", "entity", "happened", "known", "ttl_s"),
        lambda record: [Ref(_named("source", record.get("source")), "source", True)],
    ),
    "on_demand": Noun(
        "on-demand view",
        ("python", "owner", "description"),
        digests=lambda record: [_digest(record.get("code"))],
    ),
    "endpoint": Noun("endpoint", ("generation", "set_at=since", "because"), _route),
    "route": Noun("route", ("set_at=at", "because"), _route),
    "alias": Noun("alias", ("number", "set_at=since", "because"), _alias),
    "tag": Noun("tag", ("number", "set_at=since", "because"), _tag),
    "experiment": Noun("experiment", ("name", "lifecycle", "tags", "created")),
    "logged_model": Noun(
        "logged model", ("name", "status", "model_type", "params", "tags", "deleted"), _logged_model
    ),
    "dataset": Noun(
        "dataset",
        ("name", "digest", "source_type", "first"),
        digests=lambda record: [_digest(record.get("content"))],
    ),
    "artifact": Noun("artifact"),
    "prediction": Noun("prediction", (), _prediction),
    "features": Noun(
        "features", (), lambda record: [Ref(_named("service", record.get("service")), "values of")]
    ),
    "source": Noun("source of data"),
}
