"""Models as files: MLmodel folders in and out, ONNX and native files out, and the word that a folder may be trusted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from flyball.core.records import Environment, ModelVersion, Run, Served
from flyball.errors import Conflict, Invalid, Unavailable
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


class Exported(msgspec.Struct, frozen=True):
    """What was written where."""

    ref: str
    folder: str
    files: tuple[str, ...]


@verb("models export")
def export(
    ref: str,
    *,
    to: str,
    as_: Literal["mlmodel", "onnx", "native"] = "mlmodel",
    ws: Workspace = CURRENT,
) -> Exported:
    """Write a version into a new folder: --as mlmodel (MLflow loads it), onnx, or native (its own library's file)."""
    from flyball.models import registry
    from flyball.models.mlmodel import writing

    version = registry.resolve(ws.ledger, ref)
    if as_ == "mlmodel":
        files = writing.files_of(version, ws.blobs, environment_of(ws, version))
    elif as_ == "onnx":
        served = ws.ledger.find("served", version.ref, Served)
        digest = served.artifact if served is not None and served.format == "onnx" else None
        files = writing.onnx_file(version, ws.blobs, digest)
    elif as_ == "native":
        files = writing.native_file(version, ws.blobs)
    else:
        raise Invalid(f"a model can't be written as {as_!r}", "--as mlmodel, onnx or native", field="as")
    folder = Path(to).expanduser()
    write_folder(folder, files)
    return Exported(version.ref, str(folder), tuple(files))


@verb("models import")
def import_folder(
    folder: str,
    *,
    name: str,
    trust: bool = False,
    alias: str = "",
    note: str = "",
    ws: Workspace = CURRENT,
) -> ModelVersion:
    """Register an MLmodel folder that MLflow wrote; --trust lets its pickles run when the version is loaded or deployed."""
    from flyball.models.mlmodel.importing import import_folder as register_folder

    said = f"{ws.actor}: imported with --trust" if trust else ""
    return register_folder(
        ws.ledger,
        ws.blobs,
        name,
        Path(folder).expanduser(),
        actor=ws.actor,
        trust=said,
        aliases=[alias] if alias else [],
        note=note,
    )


@verb("models trust")
def trust(ref: str, *, because: str = "", ws: Workspace = CURRENT) -> ModelVersion:
    """Vouch for a version that came from elsewhere: its pickles may run when it is loaded or deployed."""
    from flyball.models.mlmodel.importing import trust as vouch

    return vouch(ws.ledger, ref, because=because, actor=ws.actor)


def environment_of(ws: Workspace, version: ModelVersion) -> Environment | None:
    """The environment of the run that made a version; ``None`` when no run did."""
    run = ws.ledger.find("run", version.run, Run) if version.run else None
    return ws.ledger.find("environment", run.environment, Environment) if run is not None else None


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """All of the files or none: written beside and renamed. A folder that holds something is a :class:`Conflict`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already", "name a new folder with --to")
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            file = staged / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        if folder.exists():
            folder.rmdir()
        staged.rename(folder)
    except OSError as error:
        raise Unavailable(
            f"{folder} can't be written: {error.strerror or error}", "check its rights and space"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
