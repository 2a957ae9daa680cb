"""Register the folders that MLflow wrote; nothing of them is loaded, and nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.clock import EPOCH
from flyball.core.records import Field, ModelVersion, Signature
from flyball.models import registry
from flyball.models.formats import is_trusted
from flyball.models.mlmodel.folder import Folder, manifest_of
from flyball.models.mlmodel.reading import read
from flyball.models.mlmodel.signatures import PREDICTION
from flyball.models.refs import resolve
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

_NOTHING_SAID = Signature((), (Field(PREDICTION, "FP32", nullable=False),))


def import_folder(
    ledger: Ledger,
    blobs: Blobs,
    name: str,
    files: Path | Mapping[str, bytes | str],
    *,
    actor: str,
    trust: str = "",
    aliases: Iterable[str] = (),
    once: str | None = None,
    **fields: Any,
) -> ModelVersion:
    """Register an MLmodel folder as the next version of a model; the artifact is the manifest of its files.

    ``files`` is a folder of this machine, or paths with their bytes or digests. ``trust`` says why its pickles may run
    when the version is loaded (who vouches for them); without it they stay refused until :func:`trust` is called.
    ``fields`` are those of :class:`ModelVersion`, such as ``run``, ``note``, ``tags``, ``source``.
    """
    aliases = tuple(aliases)
    registry.check_names(name, aliases)
    draft = draft_of(blobs, name, files, trust=trust, **fields)
    return registry.add(ledger, draft, actor=actor, aliases=aliases, once=once)


def draft_of(
    blobs: Blobs, name: str, files: Path | Mapping[str, bytes | str], *, trust: str = "", **fields: Any
) -> ModelVersion:
    """The version that a folder makes, before it has a number; its bytes are stored."""
    folder = Folder.at(files) if isinstance(files, Path) else Folder(files, blobs)
    mlmodel = read(folder)
    kept = folder.keep(blobs)
    facts = {
        "flavor": mlmodel.flavor,
        "flavors": sorted(mlmodel.flavors),
        "files": kept,
        "foreign": list(mlmodel.runs_code),
        "trusted": trust,
        "schema": mlmodel.schema,
        "requires": list(mlmodel.requirements),
        "python": mlmodel.python,
        "uuid": mlmodel.uuid,
        "mlflow_version": mlmodel.mlflow_version,
    }
    return ModelVersion(
        name=name,
        number=0,
        artifact=blobs.put(manifest_of(kept)),
        format="mlmodel",
        signature=mlmodel.signature or _NOTHING_SAID,
        created=EPOCH,
        export=facts,
        **fields,
    )


def trust(ledger: Ledger, ref: str, *, because: str, actor: str) -> ModelVersion:
    """Vouch for a version whose files run code when they are loaded; who did it, and why, stays in the ledger."""
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        if is_trusted(version.export):
            return version
        said = f"{actor}: {because}" if because else actor
        version = msgspec.structs.replace(version, export={**version.export, "trusted": said})
        tx.append(
            "model.trusted",
            version.ref,
            actor=actor,
            sets=[("model", version.ref, version)],
            body={"because": because, "files": version.export["foreign"]},
        )
    return version
