"""Training data: ``fb.features.get_historical_features`` and ``flyball features join``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.errors import Invalid, NotFound, Unavailable, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.core.records import Snapshot
    from flyball.features.definitions import View
    from flyball.features.events import Frame
    from flyball.features.historical import TrainingSet
    from flyball.features.services import Service, Vector

    Wanted = str | Sequence[str] | Service

_AT = "at"


def get_historical_features(
    entities: Any = None,
    features: Wanted = (),
    *,
    at: str | datetime | None = None,
    start: datetime | str | None = None,
    end: datetime | str | None = None,
    every: timedelta | str | None = None,
    sources: Mapping[str, Any] | None = None,
    full_feature_names: bool | None = None,
    memory_bytes: int | None = None,
    compute: str = "",
    ws: Workspace | None = None,
) -> TrainingSet:
    """Entity rows with every feature as it was known at the row's time: each row once, in order, with all its columns.

    ``entities`` are a Polars, pandas or Arrow frame, a DuckDB relation, rows as dicts, the path of a Parquet, CSV or
    JSON file, or an SQL query over the project's sources and snapshots (through DuckDB). Their time is column ``at`` (or
    ``event_timestamp``, or the only one of that type), or ``at`` is one moment for all. Times without a zone are read as
    UTC, with a warning (:class:`~flyball.features.entity_rows.NaiveTimes`).

    Without ``entities``, the rows come from the time ``start`` to ``end`` (now): one for each event that changed a
    key's features, or with ``every`` (``"1d"``) all keys seen so far at each step.

    ``features`` are a service or its name, or names: ``view:feature``, ``view@2:feature``, ``on_demand:feature``; what
    the request brings are columns of the entity rows. In the answer they are called just so, or with
    ``full_feature_names`` as Feast calls them: ``view__feature`` (True), ``feature`` (False). ``sources`` gives rows in
    place of the project's own, by source. As of t only rows with ``happened <= t`` and ``known <= t`` exist; a latest
    value is null when ``t - happened`` exceeds the view's ttl.

    ``compute="ray"`` (or ``"processes:4"``) splits the join by entity over a cluster (or processes of this machine).

    Nothing is read before ``.to_df()`` (pandas), ``.to_polars()``, ``.to_arrow()``, ``.to_parquet(path)`` or
    ``.save(name)``, which keeps it as a snapshot with its lineage.

    >>> asked = pl.DataFrame({"carrier": ["UA"], "at": [datetime(2013, 4, 1, tzinfo=UTC)]})    # doctest: +SKIP
    >>> get_historical_features(asked, ["carrier:late_3h"]).to_polars()                        # doctest: +SKIP
    """
    from flyball.features.entity_rows import is_query, moment_of
    from flyball.features.historical import TrainingSet, names_for
    from flyball.features.joining import MEMORY_BYTES
    from flyball.service.features import resolved, service_of

    ws = ws or Workspace.current()
    vector = resolved(ws, service_of(ws, features))
    source_for = _sources(ws, sources)
    at = at if at is None or isinstance(at, str) else moment_of(at)
    asked_for = str(entities) if isinstance(entities, str | Path) else ""  # a file or a query can be named
    if entities is None:
        asked_for = f"from {start} to {end or 'now'}" + (f" every {every}" if every else "")
        given = _range(ws, vector, source_for, at, start, end, every)
    elif start is not None or end is not None or every is not None:
        raise Invalid("entity rows and a range of time are both given", "leave one of them out")
    else:
        given = _given(ws, entities, sources)
    unread = set(sources or ()) - {view.source for view in vector.views}
    if unread and not is_query(entities):  # a query may name any
        raise NotFound(
            f"no view that is asked for reads source {min(unread)!r}",
            nearest(min(unread), [view.source for view in vector.views]),
        )
    return TrainingSet(
        vector,
        names_for(vector, full_feature_names),
        given,
        lambda rows: _timed(rows, at if entities is not None else at or _AT),
        source_for,
        memory_bytes=MEMORY_BYTES if memory_bytes is None else memory_bytes,
        compute=compute,
        keep=lambda name, path, made: _keep(ws, name, path, made, sources, asked_for),
    )


@verb("features join", local=("entities", "out"))
def join(
    entities: str = "",
    *,
    features: list[str],
    at: str = "",
    start: str = "",
    end: str = "",
    every: str = "",
    out: str = "",
    save: str = "",
    rows: int = 20,
    compute: str = "",
    ws: Workspace = CURRENT,
) -> Any:
    """Join features to entity rows as they were known at each row's time: training data.

    ENTITIES is a Parquet, CSV or JSON file or an SQL query; without it, --start, --end and --every say when. --features
    names a service, or features (again for each). --out FILE.parquet writes the set, --save NAME keeps it as a
    snapshot; without either, its first --rows are shown. --compute ray (or processes:4) splits it by entity.
    """
    names = [name.strip() for text in features for name in text.split(",") if name.strip()]
    wanted: Wanted = names[0] if len(names) == 1 and ":" not in names[0] else names
    made = get_historical_features(
        entities or None,
        wanted,
        at=at or None,
        start=start or None,
        end=end or None,
        every=every or None,
        compute=compute,
        ws=ws,
    )
    if out:
        path = made.to_parquet(out)
        if not save:
            import polars as pl

            count = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
            return {"path": str(path), "rows": count, "features": len(made.features)}
    return made.save(save) if save else made.to_polars().head(rows).to_dicts()


def _given(ws: Workspace, entities: Any, sources: Mapping[str, Any] | None) -> Callable[[], Frame]:
    from flyball.features.entity_rows import is_file, is_query, table_of

    if is_query(entities) and not is_file(ws.root / entities):
        return lambda: _query(ws, entities, sources)
    if isinstance(entities, str | Path) and not is_file(entities) and is_file(ws.root / entities):
        entities = ws.root / entities
    return lambda: table_of(entities)


def _timed(rows: Frame, at: str | datetime | None) -> tuple[pl.LazyFrame, str]:
    """Entity rows with a column of times, and its name."""
    import polars as pl

    from flyball.features.entity_rows import TIME, as_moment, parsed_moment, time_column

    lazy = rows.lazy()
    schema = lazy.collect_schema()
    if isinstance(at, str) and at not in schema:
        at = parsed_moment(at) or at
    if isinstance(at, datetime):
        if _AT in schema:
            raise Invalid(
                "the entity rows have a column 'at', and at= is a moment for all of them", "drop one"
            )
        return lazy.with_columns(pl.lit(as_moment(at)).cast(TIME).alias(_AT)), _AT
    return lazy, time_column(schema, at)


def _range(
    ws: Workspace,
    vector: Vector,
    source_for: Callable[[View], Frame],
    at: str | datetime | None,
    start: datetime | str | None,
    end: datetime | str | None,
    every: timedelta | str | None,
) -> Callable[[], Frame]:
    from flyball.features.entity_rows import as_moment, moment_of, parsed_moment
    from flyball.features.naming import seconds
    from flyball.features.timeline import rows_between

    if start is None:
        raise Invalid(
            "neither entity rows nor start= is given",
            "which entities, and when? give a frame, or a range of time",
        )
    if isinstance(at, datetime) or (at and parsed_moment(at)):
        raise Invalid("at= is a moment, and start= a range", "leave one of them out")
    if vector.service.request:
        names = ", ".join(field.name for field in vector.service.request)
        raise Invalid(f"a range of time brings no request fields: {names}", "give entity rows that have them")
    begin = as_moment(moment_of(start), "start")
    until = as_moment(moment_of(end), "end") if end is not None else ws.clock.now()
    step = every if every is None or isinstance(every, timedelta) else timedelta(seconds=seconds(every))
    if at in vector.entities:
        raise Invalid(f"at={at!r} is a key of the views", "the column of times needs another name, like 'at'")
    return lambda: rows_between(vector.views, source_for, start=begin, end=until, every=step, at=at or _AT)


def _sources(ws: Workspace, given: Mapping[str, Any] | None) -> Callable[[View], Frame]:
    """The rows of a view: those given for its source, else the project's."""

    def rows(view: View) -> Frame:
        if given is not None and view.source in given:
            from flyball.features.entity_rows import table_of

            return table_of(given[view.source], f"source {view.source!r}")
        from flyball.service.sources import offline

        return offline(ws, view)

    return rows


def _query(ws: Workspace, query: str, given: Mapping[str, Any] | None) -> pl.DataFrame:
    """The rows of a query over sources and snapshots: each table it names is one."""
    try:
        import duckdb

        import_module("pyarrow")  # by which Polars and DuckDB hand over
    except ImportError as error:
        raise Unavailable(
            "a query needs DuckDB and pyarrow", "pip install 'flyball[duckdb]' pyarrow"
        ) from error
    from flyball.features.entity_rows import table_of
    from flyball.service.sources import offline

    connection = duckdb.connect(config={"python_enable_replacements": False})
    registered: set[str] = set()
    try:
        while True:
            try:
                found: pl.DataFrame = connection.sql(query).pl()
            except (
                duckdb.CatalogException
            ) as error:  # it says which table it lacks; get_table_names trips over USING
                missing = re.search(r"Table with name (.+?) does not exist", str(error))
                name = missing[1].strip('"') if missing else ""
                if not name or name in registered:
                    raise
                rows = given[name] if given is not None and name in given else offline(ws, name)
                connection.register(name, table_of(rows).lazy().collect().to_arrow())
                registered.add(name)
            else:
                return found
    except duckdb.Error as error:
        raise Invalid(
            f"the query does not run: {error}", "its tables are the project's sources and snapshots"
        ) from error
    finally:
        connection.close()


def _keep(
    ws: Workspace,
    name: str,
    path: Path,
    made: TrainingSet,
    given: Mapping[str, Any] | None,
    entities: str,
) -> Snapshot:
    """A snapshot that names the versions of views and sources it was made from."""
    from flyball.core.events import Edge
    from flyball.service.features import apply
    from flyball.service.sources import used
    from flyball.versions import data

    versions = {(change.kind, change.name): change.version for change in apply(ws=ws)}
    made_from = [
        f"view:{view.name if '@' in view.name else versions.get(('view', view.name), view.name)}"
        for view in made.vector.views
    ]
    made_from += [
        f"on_demand:{versions.get(('on_demand', one.name), one.name)}" for one in made.vector.computed
    ]
    service = versions.get(("service", made.vector.service.name))
    if service is not None:
        made_from.append(f"service:{service}")
    parents = []
    for view in made.vector.views:
        if given is not None and view.source in given:
            continue
        seen = used(ws, view)
        if seen.kind in ("push", "snapshot") and "@" in seen.version:
            parents.append(seen.version)
        else:
            made_from.append(f"source:{seen.ref}")
    origin = {"features": ", ".join(made.features), "made_from": " ".join(dict.fromkeys(made_from))}
    if entities:
        origin["entities"] = entities
    snapshot = data.add(
        ws.ledger, ws.blobs, name, path, actor=ws.actor, parents=dict.fromkeys(parents), origin=origin
    )
    here = data.lineage_name(snapshot.ref)
    edges = [Edge(here, key, key.partition(":")[0]) for key in dict.fromkeys(made_from)]
    with ws.ledger.transaction() as tx:
        tx.append("data.joined", snapshot.ref, actor=ws.actor, edges=edges)
    return snapshot
