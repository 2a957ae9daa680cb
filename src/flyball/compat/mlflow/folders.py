"""The MLmodel folder of a registered version, for a client that downloads it through the artifact proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flyball.compat.mlflow.wire import does_not_exist
from flyball.core.records import Environment, Run
from flyball.errors import NotFound
from flyball.models import refs

if TYPE_CHECKING:
    from flyball.service import Workspace


def folder_of(ws: Workspace, ref: str) -> dict[str, bytes | str]:
    """Its files by path, as bytes or as a blob's digest: the same each time, whatever the version's own format is."""
    from flyball.models.mlmodel.folder import Manifest
    from flyball.models.mlmodel.writing import files_of

    try:
        version = refs.resolve(ws.ledger, ref, deleted=True)
    except NotFound as error:
        raise does_not_exist(error.what) from error
    if version.format == "mlmodel":  # it came as a folder: its files are blobs already
        return dict(msgspec.json.decode(ws.blobs.get(version.artifact), type=Manifest).files)
    run = ws.ledger.find("run", version.run, Run) if version.run else None
    environment = (
        ws.ledger.find("environment", run.environment, Environment) if run and run.environment else None
    )
    return dict(files_of(version, ws.blobs, environment))
