"""MLflow's ``metrics/…``: histories, whole, in pages, or thinned over several runs.

A run that is not there has none, as with MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from flyball.compat.mlflow.runs import OfRun
from flyball.compat.mlflow.wire import Asked, Call, invalid, number, offset_of, token_of
from flyball.stores.points import Series
from flyball.stores.runs import RunStore

if TYPE_CHECKING:
    from flyball.service import Workspace

MOST_RUNS = 100  # of one bulk request
MOST_POINTS = 2500  # of one run in it
MOST_IN_BULK = 25_000


class _History(OfRun, kw_only=True):
    metric_key: str
    page_token: str = ""
    max_results: int | None = None


class _Bulk(Asked):
    metric_key: str
    run_id: tuple[str, ...] = ()
    max_results: int = MOST_IN_BULK


class _Interval(Asked):
    metric_key: str = ""
    run_ids: tuple[str, ...] = ()
    start_step: int | None = None
    end_step: int | None = None
    max_results: int = MOST_POINTS


class Measured(msgspec.Struct, omit_defaults=True, gc=False):
    """One point; ``run_id`` is said when there are several runs."""

    key: str
    value: float | str
    timestamp: int
    step: int
    run_id: str = ""


def _history(ws: Workspace, asked: _History) -> dict[str, Any]:
    if asked.max_results is not None and asked.max_results <= 0:
        raise invalid(
            f"Invalid value {asked.max_results} for parameter 'max_results' supplied. It must be a positive integer."
        )
    start = offset_of(asked.page_token)
    series = by_time(RunStore(ws.ledger).history(asked.run, asked.metric_key))
    end = len(series) if asked.max_results is None else start + asked.max_results
    token = token_of(end) if end < len(series) else None
    points = _points(asked.metric_key, series[start:end])
    return {"metrics": points, **({"next_page_token": token} if token else {})}


def _bulk(ws: Workspace, asked: _Bulk) -> dict[str, Any]:
    if not asked.run_id:
        raise invalid("GetMetricHistoryBulk request must specify at least one run_id.")
    if len(asked.run_id) > MOST_RUNS:
        raise invalid(
            f"GetMetricHistoryBulk request cannot specify more than {MOST_RUNS} run_ids. Received "
            f"{len(asked.run_id)} run_ids."
        )
    store = RunStore(ws.ledger)
    found: list[Measured] = []
    for run in sorted(asked.run_id):
        found += _points(asked.metric_key, by_time(store.history(run, asked.metric_key)), run)
    return {"metrics": found[: min(asked.max_results, MOST_IN_BULK)]}


def _interval(ws: Workspace, asked: _Interval) -> dict[str, Any]:
    _check(asked)
    store = RunStore(ws.ledger)
    found: list[Measured] = []
    for run in asked.run_ids:
        series = by_step(store.history(run, asked.metric_key))
        if asked.start_step is not None and asked.end_step is not None:
            inside = (series.steps >= asked.start_step) & (series.steps <= asked.end_step)
            series = series[inside]
        found += _points(asked.metric_key, series[spread(len(series), asked.max_results)], run)
    return {"metrics": found}


def _check(asked: _Interval) -> None:
    see = " See the API docs for more information about request parameters."
    for name in ("run_ids", "metric_key"):
        if not getattr(asked, name):
            raise invalid(f"Missing value for required parameter '{name}'.{see}")
    if len(asked.run_ids) > MOST_RUNS:
        raise invalid(
            f"GetMetricHistoryBulkInterval request must specify at most {MOST_RUNS} run_ids. Received "
            f"{len(asked.run_ids)} run_ids.{see}"
        )
    if not 1 <= asked.max_results <= MOST_POINTS:
        raise invalid(f"max_results must be between 1 and {MOST_POINTS}.{see}")
    if (asked.start_step is None) != (asked.end_step is None):
        raise invalid("If either start step or end step are specified, both must be specified.")
    if asked.start_step is not None and asked.end_step is not None and asked.start_step > asked.end_step:
        raise invalid(
            f"end_step must be greater than start_step. Found start_step={asked.start_step} and "
            f"end_step={asked.end_step}."
        )


def by_time(series: Series) -> Series:
    """In the order MLflow lists a history: by time, step, value."""
    return series[np.lexsort((series.values, series.steps, series.times_us))]


def by_step(series: Series) -> Series:
    """In the order it thins one: by step, time, value."""
    return series[np.lexsort((series.values, series.times_us, series.steps))]


def spread(n: int, to: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The places of ``to`` points among ``n``: the first of equal stretches, and the last one.

    >>> spread(10, 4).tolist(), spread(3, 4).tolist(), spread(5, 1).tolist()
    ([0, 3, 6, 9], [0, 1, 2], [4])
    """
    if n <= to:
        return np.arange(n, dtype=np.int64)
    size, longer = divmod(n, to)
    places = np.arange(to, dtype=np.int64)
    starts = places * size + np.minimum(places, longer)
    starts[-1] = n - 1
    return starts


def _points(key: str, series: Series, run: str = "") -> list[Measured]:
    values: list[Any] = series.values.tolist()
    if not np.isfinite(series.values).all():
        values = [number(one) for one in values]
    times, steps = (series.times_us // 1000).tolist(), series.steps.tolist()
    return [
        Measured(key, value, time, step, run) for value, time, step in zip(values, times, steps, strict=True)
    ]


CALLS = [
    Call("GET", "metrics/get-history", _History, _history),
    Call("GET", "metrics/get-history-bulk", _Bulk, _bulk),
    Call("GET", "metrics/get-history-bulk-interval", _Interval, _interval),
]
