"""Versions that MLflow's client registers: where the folder it names lies here, and what its bytes become.

The folder's files are blobs already (the client uploaded them), so a version costs one manifest. Nothing is loaded and
nothing unpickled. A source that is not here (``s3://…``), or that holds no MLmodel, is kept as a pointer, as MLflow does:
format ``elsewhere``, which can't be deployed.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from flyball.compat.mlflow import artifacts, logged_models
from flyball.compat.mlflow.wire import does_not_exist, invalid
from flyball.core.clock import EPOCH
from flyball.core.records import Field, LoggedModel, ModelVersion, RegisteredModel, Run, Signature
from flyball.errors import FlyballError, NotFound
from flyball.models import catalogue, refs, registry

if TYPE_CHECKING:
    from flyball.compat.mlflow.registry import CreateVersion
    from flyball.service import Workspace

_VERSIONS = "mlflow.modelVersions"
_PROXY = re.compile(r"^https?://[^/]+/(?:ajax-)?api/2\.0/mlflow-artifacts/artifacts/(?P<path>.+)$")
_VERSION = re.compile(r"^models:/+(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/]+))$")
_LOGGED = re.compile(r"^models:/+(?P<id>m-[0-9A-Za-z-]+)$")


class _Place(NamedTuple):
    """Where a source lies: whose files, under which folder; ``owner`` is "" for what is not here."""

    owner: str
    folder: str = ""


def create(ws: Workspace, model: RegisteredModel, asked: CreateVersion, tags: dict[str, str]) -> ModelVersion:
    """Register what a client names by its source."""
    source = asked.source
    _absolute(source)
    fields: dict[str, Any] = {
        "tags": tags,
        "run_link": asked.run_link,
        "description": asked.description,
        "source": source,
    }
    if source.startswith("models:") and not _LOGGED.match(source):
        return _copied(ws, model, asked, fields)
    place = _place(ws, asked)
    run, location = asked.run_id, source
    if asked.model_id:
        logged = _logged(ws, asked)
        run, location = run or logged.run, logged_models.root_of(ws, logged)
        fields |= {"logged_model": logged.id, "params": dict(logged.params)}
    fields["run"] = run or None
    made = registry.add(ws.ledger, _drafted(ws, model, place, location, fields), actor=ws.actor)
    if asked.model_id:
        _note(ws, asked.model_id, model.name, made.number)
    return made


def _note(ws: Workspace, logged: str, name: str, number: int) -> None:
    """Tell the logged model which versions were made of it, where MLflow's client looks for them."""
    with ws.ledger.transaction() as tx:
        found = tx.find("logged_model", logged, LoggedModel)
        if found is None:
            return
        known = json.loads(found.tags.get(_VERSIONS, "[]"))
        here = {"name": name, "version": number}
        if here in known:
            return
        tags = {**found.tags, _VERSIONS: json.dumps([*known, here])}
        record = msgspec.structs.replace(found, tags=tags)
        tx.append("logged_model.registered", logged, actor=ws.actor, sets=[("logged_model", logged, record)])


def download_uri(version: ModelVersion) -> str:
    """From where the client loads a version: its own files, which no one changes; a pointer points where it did."""
    if version.format == "elsewhere":
        return str(version.export["location"])
    return artifacts.version_root(version.name, version.number)


def _drafted(
    ws: Workspace, model: RegisteredModel, place: _Place, location: str, fields: dict[str, Any]
) -> ModelVersion:
    from flyball.models.mlmodel import importing

    files = _files(ws, place)
    if "MLmodel" in files:
        try:
            return importing.draft_of(ws.blobs, model.name, files, **fields)
        except FlyballError as error:
            reason = error.what
    else:
        reason = f"{fields['source']} holds no MLmodel"
    pointer = json.dumps({"location": location, "because": reason}, sort_keys=True).encode()
    return ModelVersion(
        name=model.name,
        number=0,
        artifact=ws.blobs.put(pointer),
        format="elsewhere",
        signature=Signature((), (Field("prediction", "FP32", nullable=False),)),
        created=EPOCH,
        export={"reason": reason, "location": location},
        **fields,
    )


def _files(ws: Workspace, place: _Place) -> dict[str, bytes | str]:
    """The files of a folder by their paths inside it, each by the digest of its blob."""
    if not place.owner:
        return {}
    start = f"{place.folder}/" if place.folder else ""
    return {
        one.path[len(start) :]: one.digest
        for one in artifacts.store(ws).ls(place.owner, place.folder)
        if one.path.startswith(start)
    }


def _copied(
    ws: Workspace, model: RegisteredModel, asked: CreateVersion, fields: dict[str, Any]
) -> ModelVersion:
    """``models:/name/3`` or ``models:/name@champion``: the same bytes under another name, with where they came from."""
    found = _registered(ws, asked.source)
    if (asked.run_id and asked.run_id != (found.run or "")) or (
        asked.model_id and asked.model_id != found.logged_model
    ):
        raise invalid(
            f"Invalid model version source: '{asked.source}'. The run_id and model_id request parameters must match the "
            "referenced model version."
        )
    now = refs.find_model(ws.ledger, found.kin)
    called = now.name if now is not None else found.name
    draft = ModelVersion(
        name=model.name,
        number=0,
        artifact=found.artifact,
        format=found.format,
        signature=found.signature,
        created=EPOCH,
        run=found.run,
        native=found.native,
        native_format=found.native_format,
        training=found.training,
        feature_service=found.feature_service,
        gate=found.gate,
        metrics=found.metrics,
        export=found.export,
        example=found.example,
        logged_model=found.logged_model,
        **{**fields, "source": f"models:/{called}/{found.number}"},
    )
    return registry.add(ws.ledger, draft, actor=ws.actor, copied_from=refs.lineage_name(found.ref))


def _registered(ws: Workspace, source: str) -> ModelVersion:
    match = _VERSION.match(source)
    if match is None:
        raise _not_identified(source, "model_id")
    name = unquote(match["name"])
    try:
        model = catalogue.named(ws.ledger, name)
    except NotFound as error:
        raise does_not_exist(f"Registered Model with name={name} not found") from error
    if match["alias"]:
        pointing = refs.aliases_of(ws.ledger, model.family)
        if match["alias"] not in pointing:
            raise invalid(f"Registered model alias {match['alias']} not found.")
        return catalogue.version_of(ws.ledger, model, pointing[match["alias"]])
    wanted = match["version"]
    try:
        return refs.resolve(ws.ledger, f"{model.family}@{wanted}")
    except NotFound as error:
        raise does_not_exist(f"Model Version (name={name}, version={wanted}) not found") from error


def _place(ws: Workspace, asked: CreateVersion) -> _Place:
    """Whose files a source names; refused unless the run or the logged model that is named has them."""
    source = asked.source
    logged = _LOGGED.match(source)
    if logged is not None:
        if logged["id"] != asked.model_id:
            raise _not_identified(source, "model_id")
        return _Place(logged["id"])
    if source.startswith("runs:"):
        run, _, folder = source.removeprefix("runs:").lstrip("/").partition("/")
        if asked.model_id or run != asked.run_id:
            raise _not_identified(source, "model_id" if asked.model_id else "run_id")
        return _Place(run, folder.strip("/"))
    proxied = _PROXY.match(source)
    found = artifacts.at(f"mlflow-artifacts:/{proxied['path']}" if proxied else source)
    if found is None:
        if _is_local(source):
            raise _local(source)
        return _Place("")
    owner, folder = found
    if asked.model_id and owner == asked.model_id:
        return _Place(owner, folder.strip("/"))
    if not asked.model_id and owner == asked.run_id and ws.ledger.find("run", owner, Run) is not None:
        return _Place(owner, folder.strip("/"))
    raise _not_identified(source, "model_id" if asked.model_id else "run_id")


def _logged(ws: Workspace, asked: CreateVersion) -> LoggedModel:
    """The logged model that is named as the source's."""
    found = ws.ledger.find("logged_model", asked.model_id, LoggedModel)
    if found is None or found.deleted is not None:
        raise _not_identified(asked.source, "model_id")
    return found


def _is_local(source: str) -> bool:
    scheme = urlsplit(source).scheme
    return scheme in ("", "file") or len(scheme) == 1


def _absolute(source: str) -> None:
    """No way out of a folder, however often it was encoded."""
    decoded = source
    while (once := unquote(decoded)) != decoded:
        decoded = once
    if "\0" in decoded or ".." in decoded.split("/"):
        raise invalid(
            f"Invalid model version source: '{source}'. If supplying a source as an http, https, local file path, ftp, "
            "objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references "
            "present. Please provide an absolute path."
        )


def _local(source: str) -> Exception:
    return invalid(
        f"Invalid model version source: '{source}'. To use a local path as a model version source, the run_id request "
        "parameter has to be specified and the local path has to be contained within the artifact directory of the run "
        "specified by the run_id."
    )


def _not_identified(source: str, parameter: str) -> Exception:
    return invalid(
        f"Invalid model version source: '{source}'. The {parameter} request parameter must identify the resource that "
        "contains the source."
    )
