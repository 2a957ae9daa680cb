"""Training data: the value of every feature as it was known at the time of every row.

>>> from datetime import datetime
>>> from flyball.features import View, mean
>>> at = [datetime(2013, 4, 1, 9), datetime(2013, 4, 1, 11)]
>>> landed = pl.DataFrame({"carrier": ["UA", "UA"], "at": at, "delay": [10, 30]})
>>> view = View("carrier", ("carrier",), "landed", happened="at", known="at", windows=(mean("delay", "3h"),))
>>> asked = pl.DataFrame({"carrier": ["UA", "UA"], "t": [datetime(2013, 4, 1, 11), datetime(2013, 4, 1, 12)]})
>>> point_in_time(asked, "t", [view], {"landed": landed})["carrier:delay_mean_3h"].to_list()
[20.0, 30.0]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from flyball.errors import Invalid, nearest
from flyball.features.definitions import View
from flyball.features.events import Frame, source_of
from flyball.features.joining import MEMORY_BYTES, Asked, join
from flyball.features.services import Known, Service, by_name, resolve


def point_in_time(
    entities: pl.DataFrame,
    at: str,
    views: Known,
    sources: Mapping[str, Frame],
    *,
    service: Service | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> pl.DataFrame:
    """Every row of ``entities`` once, in order, with a column per feature (``view:feature``) as of its ``at``.

    With a service: only its features, in its order, on-demand ones computed, and its request fields must be columns
    already. As of t only rows with ``happened <= t`` and ``known <= t`` exist; see :mod:`flyball.features.definitions`.
    A row whose ``at`` or key is null gets nothing (counts 0). A column of the same name is replaced. Columns are
    Float64, those of texts String.
    A source given as a LazyFrame is read in batches, and spilled to disk beyond ``memory_bytes``.
    """
    if service is None:
        used = [one for one in by_name(views).values() if isinstance(one, View)]
        wanted = [feature for view in used for feature in view.features]
        return entities.with_columns(joined(Asked.of(entities, at), wanted, used, sources, memory_bytes))
    vector = resolve(service, views)
    for field in service.request:
        if field.name not in entities.columns:
            raise Invalid(
                f"the entity rows lack request field {field.name!r}",
                nearest(field.name, entities.columns),
                field=field.name,
            )
    features = [feature for feature in service.features if ":" in feature]
    found = joined(Asked.of(entities, at), vector.looked_up, vector.views, sources, memory_bytes)
    frame = entities.with_columns(found)
    if vector.computed:
        from flyball.features.on_demand import compute_frame

        frame = compute_frame(vector, frame)
    return frame.select(*(name for name in entities.columns if name not in features), *features)


def joined(
    asked: Asked,
    wanted: Sequence[str],
    views: Iterable[View],
    sources: Mapping[str, Frame],
    memory_bytes: int = MEMORY_BYTES,
) -> list[pl.Series]:
    """One column per wanted ``view:feature``, in order: Float64, texts String."""
    columns: dict[str, pl.Series] = {}
    for view in views:
        names = [feature.partition(":")[2] for feature in view.features if feature in wanted]
        found = join(view, names, asked, source_of(view, sources), memory_bytes=memory_bytes)
        columns.update((f"{view.name}:{name}", series) for name, series in found.items())
    return [columns[name].alias(name) for name in wanted]
