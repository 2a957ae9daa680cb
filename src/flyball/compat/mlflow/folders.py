"""The MLmodel folder of a registered version, for a client that downloads it through the artifact proxy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.service import Workspace


def folder_of(ws: Workspace, ref: str) -> dict[str, bytes]:
    """Its files by path: the same bytes each time, whatever the version's own format is."""
    from flyball.core.records import ModelVersion

    version = ws.ledger.get("model", ref, ModelVersion)
    mlmodel: Any = import_module("flyball.models.mlmodel")
    files: dict[str, bytes] = mlmodel.files_of(version, ws.blobs)
    return files
