"""The registry: numbered versions of a model, and aliases such as ``champion`` that point at one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import polars as pl

from flyball.core.clock import EPOCH
from flyball.core.events import Edge
from flyball.core.hashing import is_digest
from flyball.core.records import Alias, ModelVersion, RegisteredModel, Signature
from flyball.errors import Conflict, Invalid, NotFound, Refused
from flyball.models import approvals, catalogue
from flyball.models.export import export
from flyball.models.formats import FORMATS, RUNS_CODE, Wanted, decode, encode, trial
from flyball.models.predictor import Predictor, load
from flyball.models.refs import (
    aliases_of,
    family_of,
    find_model,
    history,
    lineage_name,
    models,
    resolve,
    versions,
)
from flyball.models.scoring import output_of, takes_nulls
from flyball.models.signature import PREDICTION, Sample, infer, names_of
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger, Transaction

__all__ = [
    "Predictor",
    "add",
    "aliases_of",
    "delete_alias",
    "find_model",
    "history",
    "lineage_name",
    "load",
    "models",
    "register",
    "resolve",
    "set_alias",
    "versions",
]
Format = Wanted
_MOST_SHOWN = 200  # columns of an example
_TITLES = {"onnx": "ONNX", "skops": "skops", "xgboost": "XGBoost", "lightgbm": "LightGBM", "torch": "PyTorch"}


class _Serving(msgspec.Struct):
    """What will be registered, once its bytes are stored."""

    artifact: str
    format: str
    native: str | None
    native_format: str
    facts: dict[str, Any]


def register(
    ledger: Ledger,
    blobs: Blobs,
    name: str,
    model: Any,
    *,
    actor: str,
    sample: Sample | None = None,
    signature: Signature | None = None,
    format: Format = "auto",
    aliases: Iterable[str] = (),
    run: str | None = None,
    node: str | None = None,
    training: Mapping[str, str] | None = None,
    feature_service: str | None = None,
    gate: str | None = None,
    metrics: Mapping[str, float] | None = None,
    tolerance: float = 1e-5,
    note: str = "",
    description: str = "",
    tags: Mapping[str, str] | None = None,
) -> ModelVersion:
    """Register a model under the next number, with its signature, proved export, lineage and aliases, in one commit.

    ``model`` is an estimator, booster or module, any object that predicts, or the bytes of a file in a format that runs no
    code (``format="onnx"``). ``format`` is what serves: with ``auto`` a proved ONNX export, else the model as it is; the
    model itself is kept beside it in its library's own format (see :mod:`flyball.models.formats`).
    The same node of the same run registering again gets the version it made before. ``training`` maps a role to a
    snapshot's ref or a digest.
    """
    aliases = tuple(aliases)
    check_names(name, aliases)
    once = f"{name}/{run}/{node or ''}" if run else None
    if once and (made := ledger.find("registration", once, str)):
        return ledger.get("model", made, ModelVersion)
    if signature is None:
        signature = _signature(model, sample, name)
    serving = _store(blobs, model, sample, format, tolerance)
    draft = ModelVersion(
        name=name,
        number=0,
        artifact=serving.artifact,
        format=serving.format,
        signature=signature,
        created=EPOCH,
        run=run,
        native=serving.native,
        native_format=serving.native_format,
        training=dict(training or {}),
        feature_service=feature_service,
        gate=gate,
        metrics=dict(metrics or {}),
        export=serving.facts,
        note=note,
        description=description,
        tags=dict(tags or {}),
        example=_example(sample),
    )
    return add(ledger, draft, actor=actor, aliases=aliases, once=once)


def add(
    ledger: Ledger,
    draft: ModelVersion,
    *,
    actor: str,
    aliases: Iterable[str] = (),
    once: str | None = None,
    copied_from: str = "",
) -> ModelVersion:
    """Enter a version whose bytes are stored already, under the next number of its model, in one commit.

    The draft's number and time are given here. ``once`` names the act: done again, it gives the version it made before.
    ``copied_from`` is the lineage name of another version with the same bytes.
    """
    catalogue.check_tags(draft.tags)
    catalogue.check_text(draft.description, "a description")
    with ledger.transaction() as tx:
        if once and (made := tx.find("registration", once, str)):
            return _found(tx, made)
        at = tx.now()
        model = _model_for(tx, draft.name)
        model = msgspec.structs.replace(model, last=model.last + 1, updated=at)
        version = msgspec.structs.replace(
            draft, name=model.name, number=model.last, family=model.family, created=at, by=draft.by or actor
        )
        sets: list[tuple[str, str, Any]] = [
            ("model", version.ref, version),
            ("registered_model", model.family, model),
        ]
        if once:
            sets.append(("registration", once, version.ref))
        here = lineage_name(version.ref)
        tx.append(
            "model.registered",
            version.ref,
            actor=actor,
            at=at,
            sets=sets,
            edges=[*_edges(version), *([Edge(here, copied_from, "copy")] if copied_from else [])],
        )
        for alias in aliases:
            _point(tx, version, alias, because=f"registered with {version.ref}", actor=actor)
    return version


def _model_for(tx: Transaction, name: str) -> RegisteredModel:
    """The model that a new version of this name belongs to: made when there is none, back when it was deleted."""
    before = find_model(tx, name)
    if before is not None and not before.deleted:
        return before
    return catalogue.fresh(tx, name, before)


def set_alias(ledger: Ledger, model: str, alias: str, number: int, *, because: str, actor: str) -> Alias:
    """Point an alias at a version; who did it and why stays in :func:`history`. The same again changes nothing.

    :class:`Refused` when the alias is protected and an approval is missing.
    """
    _check_alias(alias)
    with ledger.transaction() as tx:
        version = resolve(tx, f"{model}@{number}")
        now = tx.find("alias", f"{version.kin}@{alias}", Alias)
        if now is not None and now.number == number:
            return now
        return _point(tx, version, alias, because=because, actor=actor)


def delete_alias(ledger: Ledger, model: str, alias: str, *, because: str, actor: str) -> Alias:
    """Take an alias away; where it pointed stays in its history."""
    with ledger.transaction() as tx:
        key = f"{family_of(tx, model)}@{alias}"
        before = tx.find("alias", key, Alias)
        if before is None:
            known = ", ".join(sorted(aliases_of(tx, model))) or "none"
            raise NotFound(f"{model} has no alias {alias!r}", f"it has {known}", alias=alias)
        body = {"number": None, "before": before.number, "because": because}
        tx.append("alias.deleted", key, actor=actor, sets=[("alias", key, None)], body=body)
    return before


def _store(blobs: Blobs, model: Any, sample: Sample | None, wanted: Format, tolerance: float) -> _Serving:
    if isinstance(model, bytes | bytearray | memoryview):
        return _ready_made(blobs, bytes(model), wanted)
    kept = encode(model, wanted, sample)
    native, facts = blobs.put(kept.data), {"native": kept.facts}
    if wanted not in ("auto", "onnx"):
        return _Serving(native, kept.format, native, kept.format, {"reason": "asked for", **facts})
    exported = export(model, sample, tolerance=tolerance)
    if exported.onnx is not None:
        return _Serving(blobs.put(exported.onnx), "onnx", native, kept.format, {**exported.facts, **facts})
    if wanted == "onnx":
        raise Invalid(
            f"no ONNX export of {type(model).__name__}: {exported.facts['reason']}",
            'format="auto" keeps the model as it is',
        )
    return _Serving(native, kept.format, native, kept.format, {**exported.facts, **facts})


def _ready_made(blobs: Blobs, data: bytes, wanted: Format) -> _Serving:
    """Bytes that somebody else wrote, in a format that runs nothing; they are read once to see that they are what is said."""
    safe = [name for name in FORMATS if name not in RUNS_CODE]
    if wanted == "auto":
        raise Invalid("bytes alone don't say their format", f"pass format=, one of {', '.join(safe)}")
    if wanted in RUNS_CODE:
        raise Refused(
            "a pickle runs whatever it says, and this one was not made here",
            "pass the model itself; a folder of MLflow's: flyball models import FOLDER --name NAME --trust",
        )
    if wanted != "onnx":
        trial.survive(wanted, data)
        decode(wanted, data)
    return _Serving(blobs.put(data), wanted, None, wanted, {"reason": f"ready-made {_TITLES[wanted]}"})


def _signature(model: Any, sample: Sample | None, name: str) -> Signature:
    if sample is None:
        raise Invalid(f"{name} has no signature", "pass sample=FRAME (rows of its features) or signature=")
    names_of(sample)
    if isinstance(model, bytes | bytearray | memoryview):
        return infer(sample, PREDICTION, allows_nulls=True)
    return infer(sample, output_of(model), allows_nulls=takes_nulls(model, sample))


def _example(sample: Sample | None) -> dict[str, Any]:
    """The first row, for the card; of a very wide model none."""
    if sample is None or len(sample) == 0 or sample.shape[1] > _MOST_SHOWN:
        return {}
    names = names_of(sample)
    row = sample.row(0) if isinstance(sample, pl.DataFrame) else sample[0].tolist()
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in zip(names, row, strict=True)
    }


def _edges(version: ModelVersion) -> list[Edge]:
    here = lineage_name(version.ref)
    edges = [Edge(here, version.artifact, "artifact")]
    if version.native and version.native != version.artifact:
        edges.append(Edge(here, version.native, "native"))
    if version.format == "mlmodel":  # the artifact is a list of files; their bytes count as well
        edges += [Edge(here, digest, "file") for digest in dict.fromkeys(version.export["files"].values())]
    if version.run:
        edges.append(Edge(here, version.run, "run"))
    for role, source in version.training.items():
        of = source if is_digest(source) or ":" in source else f"snapshot:{source}"
        edges.append(Edge(here, of, f"training:{role}"))
    if version.gate:
        edges.append(Edge(here, version.gate, "gate"))
    if version.feature_service:
        edges.append(Edge(here, f"service:{version.feature_service}", "features"))
    return edges


def _point(tx: Transaction, version: ModelVersion, alias: str, *, because: str, actor: str) -> Alias:
    approvals.guard(tx, version, alias)
    key = f"{version.kin}@{alias}"
    before = tx.find("alias", key, Alias)
    at = tx.now()
    record = Alias(model=version.kin, alias=alias, number=version.number, set_at=at, because=because)
    body = {"number": version.number, "before": before.number if before else None, "because": because}
    tx.append("alias.set", key, actor=actor, at=at, sets=[("alias", key, record)], body=body)
    return record


def _found(tx: Transaction, ref: str) -> ModelVersion:
    version = tx.find("model", ref, ModelVersion)
    if version is None:
        raise Conflict(f"{ref} was registered and is gone", "was another ledger put in its place?")
    return version


def check_names(name: str, aliases: Iterable[str] = ()) -> None:
    """:class:`Invalid` for a name that no model, or an alias that no version, can have."""
    _check_name(name)
    for alias in aliases:
        _check_alias(alias)


def _check_name(name: str) -> None:
    if not name or any(letter in name for letter in "@:/ \n"):
        raise Invalid(f"{name!r} can't name a model", "use letters, digits, '-', '_' and '.'")


def _check_alias(alias: str) -> None:
    _check_name(alias)
    if alias.isdigit() or alias == "latest":
        raise Invalid(f"{alias!r} can't be an alias", "numbers and 'latest' mean versions already")
