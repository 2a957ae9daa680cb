"""``fb.data`` and ``flyball data``: snapshots of data, by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.core.records import Snapshot
from flyball.errors import Refused
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl


@verb("data add")
def add(name: str, source: str, *, ws: Workspace = CURRENT) -> Snapshot:
    """Take a snapshot of a file, folder or pattern; the same bytes again give the same snapshot."""
    from flyball.versions import data

    return data.add(ws.ledger, ws.blobs, name, _located(ws, source), actor=ws.actor)


def add_frame(name: str, frame: pl.DataFrame, *, ws: Workspace | None = None) -> Snapshot:
    """Take a snapshot of a Polars frame."""
    from flyball.versions import data

    ws = ws or Workspace.current()
    return data.add(ws.ledger, ws.blobs, name, frame, actor=ws.actor)


def use(name: str) -> Any:
    """Use a snapshot: in a pipeline a step (its digest is part of what is cached), elsewhere the data at once."""
    from flyball.service.steps import use_data

    return use_data(name)


@verb("data ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List snapshots, oldest first."""
    return [
        {
            "ref": one.ref,
            "rows": one.rows,
            "files": len(one.files),
            "bytes": sum(file.size_bytes for file in one.files),
            "created": one.created,
            "digest": one.digest,
        }
        for one in ws.ledger.ls("snapshot", Snapshot)
    ]


@verb("data show", reads=True)
def show(ref: str, *, ws: Workspace = CURRENT) -> Snapshot:
    """Show one snapshot: its files, schema, rows and statistics."""
    from flyball.versions import data

    return data.use(ws.ledger, ws.blobs, ref).snapshot


@verb("data verify", reads=True)
def verify(ref: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Hash every file of a snapshot again; exit 1 names what has changed."""
    from flyball.versions import data

    broken = data.verify(ws.ledger, ws.blobs, ref)
    if broken:
        raise Refused(
            f"{ref} is not what it was: {', '.join(broken)}", "flyball restore BACKUP", broken=broken
        )
    return {"ref": ref, "verified": True}


def _located(ws: Workspace, source: str | Path | Sequence[str]) -> str:
    """Relative paths start where you stand, as in any shell; failing that, at the project's folder."""
    path = Path(str(source))
    first = Path(str(source).split("*")[0].rstrip("/") or ".")
    if path.is_absolute() or first.exists() or (first.parent.exists() and first.parent != Path()):
        return str(source)
    return str(ws.root / path)
