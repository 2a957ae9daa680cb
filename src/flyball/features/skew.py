"""What was served against what should have been: logged feature values, recomputed from the offline tables.

On a healthy pipeline there is no mismatch. Where there is one, likely causes are tried out: the value is computed
as the fault would have computed it, and the fault that explains the logged values is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import msgspec
import numpy as np
import polars as pl

from flyball.core.clock import from_us
from flyball.errors import Invalid, nearest
from flyball.features.definitions import View
from flyball.features.events import Frame, events_of, keys_of, source_of, times_us
from flyball.features.offline import point_in_time
from flyball.features.services import Known, Service, Vector, resolve

LEAK = "leak"
STALE = "stale store / late event"
TIME_ZONE = "time zone"
CHANGED = "changed definition"
_SAMPLE = 1000  # mismatching rows on which causes are tried
_EXPLAINED = 0.9  # of those rows, for a cause to be named
_DELAYS_S = (60, 300, 600, 900, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 86400)


class Mismatch(msgspec.Struct, frozen=True):
    """One feature whose logged values are not the recomputed ones."""

    feature: str
    rows_compared: int
    mismatched: int
    first_at: datetime
    example_logged: float | None
    example_recomputed: float | None
    likely_cause: str  # one of LEAK, STALE, TIME_ZONE, CHANGED
    detail: str = ""  # what was tried that explains it
    first_id: str = ""  # the prediction that ``first_at`` belongs to, when ids were given


def skew(
    predictions: pl.DataFrame,
    service: Service,
    views: Known,
    sources: Mapping[str, Frame],
    *,
    at: str = "at",
    tolerance: float = 1e-6,
    others: Mapping[str, Sequence[View]] = MappingProxyType({}),
) -> list[Mismatch]:
    """Compare logged values (columns ``view:feature``) with their point-in-time recomputation, by feature.

    ``predictions`` holds the entity columns and ``at`` as well. Equal means both null, or within ``tolerance`` of the
    larger one. A feature that was not logged is not compared; request fields have nothing to be compared with. On-demand
    features are computed again from what was logged of the request. ``others`` holds, by view, other versions of its
    definition, with which a store may have been filled or read.
    """
    vector = resolve(service, views)
    features = [name for name in service.features if ":" in name]
    logged = [name for name in features if name in predictions.columns]
    if not logged:
        raise Invalid(
            f"the predictions log no feature of service {service.name!r}",
            "columns are named view:feature; "
            + nearest(features[0] if features else "", predictions.columns),
        )
    entities = list(vector.entities)
    recomputed = point_in_time(predictions.select(at, *entities), at, vector.views, sources)
    look = _Look(predictions, recomputed, times_us(predictions[at], "the predictions"), tolerance)
    found = []
    for view in vector.views:
        for feature in view.features:
            wrong = look.wrong(feature) if feature in logged else np.zeros(0, dtype=np.int64)
            if len(wrong):
                asked = predictions.select(at, *entities)[wrong]
                cause, detail = _cause(
                    view, feature, asked, at=at, logged=look.logged(feature)[wrong], sources=sources,
                    tolerance=tolerance, others=others.get(view.name, ()),
                )  # fmt: skip
                found.append(look.mismatch(feature, wrong, cause, detail))
    found += _computed(vector, look, found)
    return sorted(found, key=lambda mismatch: -mismatch.mismatched)


class _Look:
    """What was logged beside what it should have been."""

    def __init__(
        self, predictions: pl.DataFrame, recomputed: pl.DataFrame, times: np.ndarray, tolerance: float
    ) -> None:
        self.predictions, self.recomputed = predictions, recomputed
        self._times, self._tolerance = times, tolerance

    def logged(self, feature: str) -> np.ndarray:
        return _floats(self.predictions[feature])

    def wrong(self, feature: str) -> np.ndarray:
        """Rows whose logged value is not the recomputed one."""
        return np.flatnonzero(
            ~_equal(self.logged(feature), _floats(self.recomputed[feature]), self._tolerance)
        )

    def mismatch(self, feature: str, wrong: np.ndarray, cause: str, detail: str) -> Mismatch:
        first = int(wrong[np.argmin(self._times[wrong])])
        ids = self.predictions["id"] if "id" in self.predictions.columns else None
        return Mismatch(
            feature,
            len(self.predictions),
            len(wrong),
            from_us(int(self._times[first])),
            _plain(self.logged(feature)[first]),
            _plain(_floats(self.recomputed[feature])[first]),
            cause,
            detail,
            "" if ids is None else str(ids[first]),
        )


def _computed(vector: Vector, look: _Look, found: list[Mismatch]) -> list[Mismatch]:
    """On-demand features, computed again where the request's part of them was logged."""
    fields = [field.name for field in vector.service.request]
    wanted = [
        name
        for one in vector.computed
        for name in one.features
        if name in look.predictions.columns and name in vector.service.features
    ]
    if not wanted or any(name not in look.predictions.columns for name in fields):
        return []
    from flyball.features.on_demand import compute_frame

    frame = look.recomputed.with_columns(look.predictions.select(fields))
    look.recomputed = compute_frame(vector, frame)
    differing = {one.feature: one for one in found}
    answers = []
    for name in wanted:
        wrong = look.wrong(name)
        if len(wrong):
            owner = next(one for one in vector.computed if name in one.features)
            read = next((differing[need] for need in owner.needs if need in differing), None)
            cause = read.likely_cause if read else CHANGED
            detail = f"it reads {read.feature}, which differs" if read else "its inputs are as they should be"
            answers.append(look.mismatch(name, wrong, cause, detail))
    return answers


def _cause(
    view: View,
    feature: str,
    asked: pl.DataFrame,
    *,
    at: str,
    logged: np.ndarray,
    sources: Mapping[str, Frame],
    tolerance: float,
    others: Sequence[View],
) -> tuple[str, str]:
    """The first fault that explains the logged values; of equals, the one tried first."""
    if len(asked) > _SAMPLE:
        some = np.unique(np.linspace(0, len(asked) - 1, _SAMPLE).astype(np.int64))
        asked, logged = asked[some], logged[some]
    source = _of_these_keys(view, asked, source_of(view, sources))
    best: tuple[float, str, str] = (0.0, CHANGED, "")
    stale = np.zeros(len(asked), dtype=bool)
    for cause, detail, changed_view, rows, events in _faults(
        view, asked, at, source, _with(feature, view, others)
    ):
        value = point_in_time(rows, at, [changed_view], {view.source: events})[feature]
        explains = _equal(logged, _floats(value), tolerance)
        if cause == STALE:  # how far behind a store is varies from row to row
            stale |= explains
            explains = stale
        share = float(explains.mean())
        if share > best[0]:
            best = (share, cause, detail)
    if best[0] < _EXPLAINED:
        return CHANGED, "no leak, delay, time zone or version of the definition explains the values"
    return best[1], f"{best[2]}: explains {best[0]:.0%} of {len(asked)} rows"


def _faults(
    view: View, asked: pl.DataFrame, at: str, source: pl.DataFrame, others: Sequence[tuple[str, View]]
) -> Iterator[tuple[str, str, View, pl.DataFrame, pl.DataFrame]]:
    """Faults as (cause, words, view, entity rows, source): computing with these gives what the fault would serve."""
    replace = msgspec.structs.replace
    yield LEAK, f"{view.known!r} was ignored", replace(view, known=view.happened), asked, source
    for ref, other in others:
        yield CHANGED, f"as {ref} defines it", other, asked, source
    for clock, dtype in source.schema.items():
        if clock not in (view.happened, view.known) and (dtype == pl.Date or isinstance(dtype, pl.Datetime)):
            earlier = _known_before(source, clock, view.known)
            cause = LEAK if earlier else STALE if view.windows == () else CHANGED
            yield (
                cause,
                f"keyed on {clock!r} instead of {view.known!r}",
                replace(view, happened=clock, known=clock),
                asked,
                source,
            )
            yield cause, f"{clock!r} instead of {view.known!r}", replace(view, known=clock), asked, source
    for hours in (h for hour in range(1, 15) for h in (hour, -hour)):
        shifted = asked.with_columns(pl.col(at) + pl.duration(hours=hours))
        yield TIME_ZONE, f"as of {hours:+d} h", view, shifted, source
    late = "__known_late"
    for delay in _DELAYS_S:
        behind = source.with_columns(_time(source, view.known).dt.offset_by(f"{delay}s").alias(late))
        yield STALE, f"rows up to {delay} s late", replace(view, known=late), asked, behind
        earlier_rows = asked.with_columns(pl.col(at) - pl.duration(seconds=delay))
        yield STALE, f"up to {delay} s old", view, earlier_rows, source


def _with(feature: str, view: View, others: Sequence[View]) -> list[tuple[str, View]]:
    """Other versions that have this feature of these keys and rows, under the view's own name."""
    own = feature.partition(":")[2]
    return [
        (other.name, msgspec.structs.replace(other, name=view.name))
        for other in others
        if own in other.output_types and (other.entity, other.source) == (view.entity, view.source)
    ]


def _known_before(source: pl.DataFrame, clock: str, known: str) -> bool:
    """Whether this clock shows rows, as a rule, before they are known."""
    share = source.select((_time(source, clock) < _time(source, known)).mean()).item()
    return share is not None and share > 0.1


def _time(source: pl.DataFrame, name: str) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype := source.schema[name], pl.Datetime):
        return column.dt.convert_time_zone("UTC") if dtype.time_zone else column.dt.replace_time_zone("UTC")
    return column.cast(pl.Datetime("us", "UTC"))


def _of_these_keys(view: View, asked: pl.DataFrame, source: Frame) -> pl.DataFrame:
    """Rows of the keys asked for only: trying forty faults on all would take minutes."""
    events_of(view, source.lazy().limit(0).collect())  # names a column that is missing or of a wrong type
    keys = keys_of(asked, view.entity, "the predictions").unique()
    frame = source.lazy().drop_nulls([*view.entity, view.happened, view.known])
    cast = keys_of(frame.limit(0).collect(), view.entity, "the source").schema
    return frame.with_columns(pl.col(name).cast(cast[name]) for name in view.entity).join(
        keys.lazy(), on=list(view.entity), how="semi", maintain_order="left"
    ).collect()  # fmt: skip


def _equal(one: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
    missing_one, missing_other = np.isnan(one), np.isnan(other)
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= tolerance * np.maximum(np.abs(one), np.abs(other))
    equal: np.ndarray = np.where(missing_one | missing_other, missing_one & missing_other, near)
    return equal


def _floats(series: pl.Series) -> np.ndarray:
    return series.cast(pl.Float64).to_numpy()


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
