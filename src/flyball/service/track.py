"""``fb.track``: runs of plain code on the same ledger as pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from flyball.service.workspace import Workspace
from flyball.track import runs
from flyball.track.runs import ActiveRun, current, log_metric, log_param

__all__ = ["current", "log_metric", "log_param", "start"]


def start(
    name: str = "script", params: Mapping[str, Any] | None = None, *, ws: Workspace | None = None
) -> AbstractContextManager[ActiveRun]:
    """Track what the ``with`` block does: code, environment, parameters, metrics, and how it ended.

    ``with fb.track.start("notebook", {"trees": 10}): fb.track.log_metric("auc", 0.77)``
    """
    from flyball.versions import capture, capture_late

    ws = ws or Workspace.current()
    return runs.start(
        ws.ledger,
        name,
        actor=ws.actor,
        params=dict(params or {}),
        late_code=lambda code: capture_late(code, ws.root, ws.blobs, ws.ledger),
        **msgspec.structs.asdict(
            capture(ws.root, ws.blobs, ws.ledger, settings=ws.settings, params=params or {}, script=True)
        ),
    )
