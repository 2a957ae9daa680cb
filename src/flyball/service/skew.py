"""``flyball skew``: recompute what a sample of predictions was fed, point-in-time, offline; any difference is a finding."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import Invalid
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.features.definitions import View
    from flyball.features.services import Vector
    from flyball.features.skew import Mismatch


class Skew(msgspec.Struct, frozen=True):
    """How many predictions were recomputed, and which features differ."""

    rows: int
    mismatches: list[Mismatch]
    service: str = ""  # the version that the endpoint's champion reads
    left_out: int = 0  # predictions of the sample that were fed another vector, by another version

    @property
    def exit_code(self) -> int:
        return 1 if self.mismatches else 0

    def as_text(self) -> str:
        """For people."""
        note = f" ({self.left_out} more were fed by another service)" if self.left_out else ""
        if not self.rows:
            return f"no skew to be found: no prediction in that time{note}"
        if not self.mismatches:
            return f"no skew: every feature of {self.rows} predictions is what its offline recomputation gives{note}"
        lines = [
            f"{one.feature}: {one.mismatched} of {one.rows_compared} differ, first {one.first_at} ({one.first_id}): "
            f"{one.example_logged} online, {one.example_recomputed} offline\n"
            f"  likely cause: {one.likely_cause} ({one.detail})"
            for one in self.mismatches
        ]
        return "\n".join(lines) + note


@verb("skew", reads=True)
def skew(
    endpoint: str, since: str = "", until: str = "", sample: int = 2000, *, ws: Workspace = CURRENT
) -> Skew:
    """Compare the features that predictions were given with their offline recomputation; exit 1 when any differ.

    --since 24h (or a time) and --until bound the predictions; --sample of them are recomputed, spread evenly.
    """
    if sample < 1:
        raise Invalid(f"--sample {sample}", "recompute at least one prediction")
    rows = ws.predictions.scan(endpoint, moment(ws, since), moment(ws, until))
    return compared(ws, endpoint, rows, sample)


def compared(ws: Workspace, endpoint: str, rows: pl.DataFrame, sample: int) -> Skew:
    """These predictions of an endpoint, or an even sample of them, against what their features should have been."""
    from flyball.features.skew import skew as compare

    ref, vector = serving_of(ws, endpoint)
    fitting = rows.filter(rows["features"].list.len() == len(vector.service.features))
    left_out = rows.height - fitting.height
    if fitting.height > sample:
        fitting = fitting.gather_every(-(-fitting.height // sample))
    if not fitting.height:
        return Skew(0, [], ref, left_out)
    found = compare(
        flat(fitting, vector.service.features, vector.entities),
        vector.service,
        [*vector.views, *vector.computed],
        sources_of(ws, vector.views),
        others={view.name: _others(ws, view) for view in vector.views},
    )
    return Skew(fitting.height, found, ref, left_out)


def serving_of(ws: Workspace, endpoint: str) -> tuple[str, Vector]:
    """The applied feature service that an endpoint's champion reads, as it was when that was trained."""
    from flyball.features.definitions import View
    from flyball.features.services import OnDemand, Service, resolve
    from flyball.features.shipping import take
    from flyball.heal import traffic
    from flyball.models import registry

    version = registry.resolve(ws.ledger, traffic.route_of(ws.ledger, endpoint).champion)
    if not version.feature_service:
        raise Invalid(
            f"{endpoint!r} has no feature service: its requests bring every feature",
            "skew compares values that were looked up; register models with service=NAME",
            endpoint=endpoint,
        )
    service, views, computed = traffic.features_of(ws.ledger, version)
    known: dict[str, View | OnDemand] = {name: msgspec.convert(one, View) for name, one in views.items()}
    known |= {name: msgspec.convert(one, OnDemand) for name, one in computed.items()}
    take(computed, ws.blobs.get)  # plain functions run as they were, not as the project has them now
    return version.feature_service, resolve(msgspec.convert(service, Service), known)


def sources_of(ws: Workspace, views: Sequence[View]) -> dict[str, Any]:
    """The offline rows that views read, by source."""
    from flyball.service.sources import offline

    return {name: offline(ws, name) for name in dict.fromkeys(view.source for view in views)}


def _others(ws: Workspace, view: View) -> list[View]:
    """The other applied versions of a view, newest first, and what the project says now."""
    from flyball.service.features import version_named, views

    refs = [key for key in ws.ledger.keys("view") if key.rpartition("@")[0] == view.base_name]
    found = [version_named(ws, ref) for ref in reversed(refs)]
    now = views(ws).get(view.base_name)
    found += [] if now is None else [now]
    return [one for one in found if one.digest != view.digest]


def moment(ws: Workspace, text: str) -> datetime | None:
    """``24h`` ago, or a time; nothing when nothing was said."""
    from flyball.features.naming import seconds
    from flyball.service.serving import parse_when

    if not text:
        return None
    if text.strip()[-1:] in "smhdw" and text.strip()[:1].isdigit():
        return ws.clock.now() - timedelta(seconds=seconds(text))
    return parse_when(text)


def flat(rows: pl.DataFrame, features: Sequence[str], entities: Sequence[str]) -> pl.DataFrame:
    """Entities and logged features as columns, with the time of the request as ``at``."""
    import polars as pl

    decoded = [msgspec.json.decode(text) for text in rows["entities"]]
    return rows.select(
        pl.from_epoch("at_us", "us").dt.replace_time_zone("UTC").alias("at"), "id"
    ).with_columns(
        *(pl.Series(name, [one.get(name) for one in decoded]) for name in entities),
        *(rows["features"].list.get(i).alias(name) for i, name in enumerate(features)),
    )
