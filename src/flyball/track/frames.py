"""Runs as a frame: a row a run, a column for each param, metric and tag. And as what they differ in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from flyball.core.records import Run
from flyball.stores.runs import Found, RunQuery, RunStore

if TYPE_CHECKING:
    from flyball.stores.run_summaries import Group

_HEADS = (
    "id",
    "experiment",
    "name",
    "pipeline",
    "status",
    "started",
    "ended",
    "deleted",
    "actor",
    "parent",
)
_TIME = pl.Datetime("us", "UTC")


def frame(store: RunStore, query: RunQuery, experiments: Mapping[str, str]) -> pl.DataFrame:
    """Runs that match, in order: ``id``, ``name``…, then ``params.…``, ``metrics.…`` and ``tags.…`` by name.

    ``experiments`` says the names of ids. A param is a column of numbers or booleans when all its values are.
    """
    rows, groups = store.columns(query)
    heads: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [() for _ in _HEADS]
    columns: dict[str, pl.Series] = {}
    for name, values in zip(_HEADS, heads, strict=False):
        if name in ("started", "ended", "deleted"):
            columns[name] = pl.Series(name, values, pl.Int64).cast(_TIME)
        elif name == "experiment":
            columns[name] = pl.Series(name, [experiments.get(one, one) for one in values], pl.String)
        else:
            columns[name] = pl.Series(name, values, pl.String)
    seconds = (columns["ended"] - columns["started"]).dt.total_microseconds() / 1e6
    columns["seconds"] = seconds.alias("seconds")
    if query.view == "active":
        del columns["deleted"]
    for kind, dtype in (("params", pl.String), ("metrics", pl.Float64), ("tags", pl.String)):
        for name, values in _spread(groups, kind, len(rows)).items():
            series = pl.Series(f"{kind}.{name}", values, dtype)
            columns[series.name] = _narrowed(series) if kind == "params" else series
    return pl.DataFrame(columns)


def _spread(groups: Sequence[Group], kind: str, rows: int) -> dict[str, Sequence[Any]]:
    """Columns over all rows, by name; where a run lacks one, there is none."""
    if len(groups) == 1:
        return dict(getattr(groups[0], kind))
    found: dict[str, Any] = {}
    for group in groups:
        for name, values in getattr(group, kind).items():
            column = found.get(name)
            if column is None:
                column = found[name] = [None] * rows
            for place, value in zip(group.places, values, strict=True):
                column[place] = value
    return dict(sorted(found.items()))


def _narrowed(series: pl.Series) -> pl.Series:
    """A column of texts as what all of them are: whole numbers, numbers, booleans, or texts."""
    known = series.len() - series.null_count()
    if not known:
        return series
    sample = series.drop_nulls()[0]
    if sample in ("True", "False"):
        if series.drop_nulls().is_in(["True", "False"]).all():
            return series == "True"
        return series
    if not (sample[:1] in "+-.0123456789" or sample in ("nan", "inf", "-inf")):
        return series
    for dtype in (pl.Int64, pl.Float64):
        cast = series.cast(dtype, strict=False)
        if cast.len() - cast.null_count() == known:
            return cast
    return series


def differences(runs: Sequence[tuple[Found, Run]]) -> list[dict[str, Any]]:
    """What the runs differ in, a row each, a column a run: heads, params, metrics, tags, inputs, outputs, what made them."""
    rows: list[dict[str, Any]] = []
    seen = [_flat(found, record) for found, record in runs]
    names = [found.head.id for found, _ in runs]
    for what in dict.fromkeys(name for one in seen for name in one):
        values = [one.get(what) for one in seen]
        if any(repr(value) != repr(values[0]) for value in values):
            rows.append({"what": what, **dict(zip(names, values, strict=True))})
    return rows


def _flat(found: Found, record: Run) -> dict[str, Any]:
    facts = found.facts
    flat: dict[str, Any] = {
        "name": found.head.name,
        "experiment": found.head.experiment,
        "pipeline": found.head.pipeline,
        "status": found.head.status,
        "actor": found.head.actor,
    }
    typed = {**facts.params, **{name: value for name, value in record.params.items() if name in facts.params}}
    flat |= {f"params.{name}": typed[name] for name in sorted(typed)}
    flat |= {f"metrics.{name}": facts.metrics[name].value for name in sorted(facts.metrics)}
    flat |= {f"tags.{name}": facts.tags[name] for name in sorted(facts.tags)}
    for kind in ("inputs", "outputs", "seeds"):
        values = getattr(record, kind)
        flat |= {f"{kind}.{name}": values[name] for name in sorted(values)}
    for what in ("code", "environment", "configuration", "hardware"):
        flat[what] = getattr(record, what)
    return flat
