"""``flyball skew``: recompute what a sample of predictions was fed, point-in-time, offline; any difference is a finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.skew import Mismatch


class Skew(msgspec.Struct, frozen=True):
    """How many predictions were recomputed, and which features differ."""

    rows: int
    mismatches: list[Mismatch]

    @property
    def exit_code(self) -> int:
        return 1 if self.mismatches else 0

    def as_text(self) -> str:
        """For people."""
        if not self.mismatches:
            return (
                f"no skew: every feature of {self.rows} predictions is what its offline recomputation gives"
            )
        return "\n".join(
            f"{one.feature}: {one.mismatched} of {one.rows_compared} differ, first {one.first_at}: "
            f"{one.example_logged} online, {one.example_recomputed} offline; likely cause: {one.likely_cause}"
            for one in self.mismatches
        )


@verb("skew", reads=True)
def skew(endpoint: str, sample: int = 2000, *, ws: Workspace = CURRENT) -> Skew:
    """Compare the features that predictions were given with their offline recomputation; exit 1 when any differ."""
    from flyball.features.skew import skew as compare
    from flyball.service.features import service_named, views
    from flyball.service.feeds import Feed

    rows = ws.predictions.scan(endpoint)
    service = service_named(ws, _service_of(ws, endpoint))
    if rows.height > sample:
        rows = rows.gather_every(max(1, rows.height // sample))
    known = views(ws)
    sources = {view.source: Feed(ws, view.source).history() for view in service.uses(known)}
    return Skew(rows.height, compare(_flat(rows, service.features), service, known, sources))


def _service_of(ws: Workspace, endpoint: str) -> str:
    from flyball.heal import traffic
    from flyball.models import registry

    version = registry.resolve(ws.ledger, traffic.route_of(ws.ledger, endpoint).champion)
    return (version.feature_service or "").rpartition("@")[0]


def _flat(rows: Any, features: tuple[str, ...]) -> Any:
    """Entities and logged features as columns, with the time of the request as ``at``."""
    import polars as pl

    entities = rows["entities"].str.json_decode(pl.Struct(dict.fromkeys(_entity_names(rows), pl.String)))
    return (
        rows.select(pl.from_epoch("at_us", "us").dt.replace_time_zone("UTC").alias("at"), "id")
        .with_columns(entities.struct.unnest())
        .with_columns(rows["features"].list.get(i).alias(name) for i, name in enumerate(features))
    )


def _entity_names(rows: Any) -> list[str]:
    import msgspec

    first = msgspec.json.decode(rows["entities"][0]) if rows.height else {}
    return list(first)
