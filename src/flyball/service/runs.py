"""Verbs on runs: find them, look at them, compare them, say more about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.clock import from_us
from flyball.core.records import Experiment, Run
from flyball.errors import Invalid, NotFound, Refused, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.stores.artifacts import ArtifactStore
    from flyball.stores.runs import Found, RunQuery, RunStore


@verb("runs ls", reads=True)
def ls(
    where: str = "",
    order: str = "",
    experiment: str = "",
    pipeline: str = "",
    limit: int = 20,
    deleted: bool = False,
    *,
    ws: Workspace = CURRENT,
) -> list[dict[str, Any]]:
    """List runs, newest first: --where "metrics.auc > 0.7 and params.trees >= 100" --order "metrics.auc desc".

    A run whose process is gone is marked as failed first.
    """
    _recover(ws)
    query = _query(ws, where, order, experiment, pipeline, limit or None, "deleted" if deleted else "active")
    found = _store(ws).search(query).runs
    names = _experiments(ws)
    return [_line(ws, one, names) for one in found]


@verb("runs show", reads=True)
def show(run: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Show one run: params, metrics, tags, note, artifacts, children, steps, code, environment, inputs and outputs."""
    _recover(ws)
    found, record = _one(ws, run)
    facts = found.facts
    shown = msgspec.to_builtins(record)
    shown["experiment"] = _experiments(ws).get(record.experiment, record.experiment)
    shown["params"] = {**facts.params, **{k: v for k, v in record.params.items() if k in facts.params}}
    shown["metrics"] = {name: one.value for name, one in facts.metrics.items()}
    shown["tags"] = dict(facts.tags)
    shown["artifacts"] = [one.path for one in _artifacts(ws).ls(run)]
    shown["children"] = _store(ws).children(run)
    return {name: value for name, value in shown.items() if value not in (None, "", [], {}, ())}


@verb("runs compare", reads=True)
def compare(runs: list[str], *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show only what differs between runs, two or more."""
    from flyball.track.frames import differences

    if len(runs) < 2:
        raise Invalid("one run differs from nothing", "flyball runs compare RUN RUN …")
    return differences([_one(ws, run) for run in runs])


@verb("runs curves", reads=True)
def curves(
    run: str, metric: str = "", points: int = 2000, svg: bool = False, *, ws: Workspace = CURRENT
) -> Any:
    """Show the course of a run's metrics (or of --metric), thinned to 2,000 points; --svg draws it, --json gives the points."""
    from flyball.track.curves import Curves, curve

    found, _ = _one(ws, run)
    names = sorted(found.facts.metrics)
    if metric and metric not in names:
        raise NotFound(f"{run} has no metric {metric!r}", nearest(metric, names), run=run, metric=metric)
    store = _store(ws)
    return Curves(
        [curve(run, name, store.history(run, name), points) for name in ([metric] if metric else names)], svg
    )


@verb("runs artifacts", reads=True)
def artifacts(run: str, path: str = "", *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List the files of a run (or those below --path)."""
    _store(ws).head(run)
    return [
        {"path": one.path, "bytes": one.size_bytes, "digest": one.digest, "at": from_us(one.at_us)}
        for one in _artifacts(ws).ls(run, path)
    ]


@verb("runs download")
def download(run: str, path: str = "", *, into: Path, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Write the files of a run (or those below --path) into a folder; each is checked against its digest."""
    _store(ws).head(run)
    files = _artifacts(ws).ls(run, path)
    if not files:
        names = [one.path for one in _artifacts(ws).ls(run)]
        raise NotFound(f"{run} has no artifact {path!r}", nearest(path, names), run=run, path=path)
    for one in files:
        target = into / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(ws.blobs.get(one.digest))
    return [{"path": str(into / one.path), "bytes": one.size_bytes} for one in files]


@verb("runs tag")
def tag(
    run: str, name: str, value: str = "", remove: bool = False, *, ws: Workspace = CURRENT
) -> dict[str, str]:
    """Tag a run: NAME with --value; --remove takes the tag away. Returns the tags it has then."""
    store = _store(ws)
    if remove:
        if not store.untag(run, [name], actor=ws.actor):
            known = list(store.facts([run])[run].tags)
            raise NotFound(f"{run} has no tag {name!r}", nearest(name, known), run=run, tag=name)
    else:
        store.write(run, tags={name: value}, actor=ws.actor)
    return dict(store.facts([run])[run].tags)


@verb("runs note")
def note(run: str, markdown: str, *, ws: Workspace = CURRENT) -> None:
    """Say in words (Markdown) what a run is about; the last note counts."""
    from flyball.track.runs import NOTE

    _store(ws).write(run, tags={NOTE: markdown}, actor=ws.actor)


@verb("runs delete")
def delete(runs: list[str], *, ws: Workspace = CURRENT) -> list[dict[str, str]]:
    """Take runs out of sight; nothing is lost, and restore brings them back."""
    store = _store(ws)
    return [{"id": store.delete(run, actor=ws.actor).id, "state": "deleted"} for run in runs]


@verb("runs restore")
def restore(runs: list[str], *, ws: Workspace = CURRENT) -> list[dict[str, str]]:
    """Bring deleted runs back."""
    store = _store(ws)
    return [{"id": store.restore(run, actor=ws.actor).id, "state": "restored"} for run in runs]


@verb("runs export")
def export(
    where: str = "",
    order: str = "",
    experiment: str = "",
    pipeline: str = "",
    *,
    to: Path,
    ws: Workspace = CURRENT,
) -> dict[str, Any]:
    """Write runs as a table, a row each: --to runs.parquet, .csv, .json or .ndjson."""
    frame = search(where, order, experiment=experiment, pipeline=pipeline, ws=ws)
    writers = {
        ".parquet": frame.write_parquet,
        ".csv": frame.write_csv,
        ".json": frame.write_json,
        ".ndjson": frame.write_ndjson,
    }
    write = writers.get(to.suffix.lower())
    if write is None:
        raise Invalid(f"{to.suffix or to} is no format of tables", f"one of {', '.join(writers)}")
    write(to)
    return {"path": str(to), "rows": frame.height, "columns": frame.width}


@verb("runs verify", reads=True)
def verify(run: str, *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Recompute every digest of a run's params, metrics, histories, tags and artifacts; exit 1 names what has changed."""
    store = _store(ws)
    store.head(run)
    broken = store.verify(run)
    broken += [one for one in [ws.ledger.verify("run", run)] if one]
    files = _artifacts(ws).ls(run)
    for one in files:
        try:
            ws.blobs.get(one.digest)
        except (Refused, NotFound) as error:
            broken.append(f"{one.path}: {error.what}")
    if broken:
        raise Refused(
            f"{run} is not what it was: {'; '.join(broken)}", "flyball restore BACKUP", broken=broken
        )
    facts = store.facts([run])[run]
    points = sum(one.points for one in facts.metrics.values())
    return {
        "run": run,
        "params": len(facts.params),
        "points": points,
        "artifacts": len(files),
        "verified": True,
    }


@verb("runs experiments", reads=True)
def experiments(deleted: bool = False, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List experiments, with how many runs each has."""
    from flyball.track import experiments as known
    from flyball.track.query import run_query

    store = _store(ws)
    view: Literal["active", "deleted"] = "deleted" if deleted else "active"
    return [
        {
            "name": one.name,
            "id": one.id,
            "runs": store.count(run_query(experiments=[one.id], view=view)),
            "created": one.created,
            "tags": one.tags,
        }
        for one in known.ls(ws.ledger, view)
    ]


@verb("runs sweep", reads=True)
def sweep(run: str, *, ws: Workspace = CURRENT) -> Any:
    """Show a sweep: the best trial, and how the others did."""
    from flyball.track.sweeps import found

    _recover(ws)
    return found(ws.ledger, run)


def search(
    where: str = "",
    order: str | Sequence[str] = "",
    *,
    experiment: str = "",
    pipeline: str = "",
    limit: int | None = None,
    deleted: bool = False,
    ws: Workspace | None = None,
) -> Any:
    """Runs as a Polars frame, a row each: ``params.…``, ``metrics.…`` and ``tags.…`` are columns."""
    from flyball.track.frames import frame

    ws = ws or Workspace.current()
    query = _query(ws, where, order, experiment, pipeline, limit, "deleted" if deleted else "active")
    return frame(_store(ws), query, _experiments(ws))


def _store(ws: Workspace) -> RunStore:
    from flyball.stores.runs import RunStore

    return RunStore(ws.ledger)


def _artifacts(ws: Workspace) -> ArtifactStore:
    from flyball.stores.artifacts import ArtifactStore

    return ArtifactStore(ws.ledger, ws.blobs)


def _recover(ws: Workspace) -> None:
    from flyball.track.liveness import recover

    recover(ws.ledger)


def _experiments(ws: Workspace) -> dict[str, str]:
    from flyball.track import experiments as known

    return {one.id: one.name for one in known.ls(ws.ledger, "all")}


def _query(
    ws: Workspace,
    where: str,
    order: str | Sequence[str],
    experiment: str,
    pipeline: str,
    limit: int | None,
    view: Literal["active", "deleted"],
) -> RunQuery:
    from flyball.stores.run_tables import RUNS
    from flyball.track import experiments as known
    from flyball.track.query import run_query

    ids: list[str] | None = None
    if experiment:
        found = known.by_name(ws.ledger, experiment) or ws.ledger.find("experiment", experiment, Experiment)
        if found is None:
            names = [one.name for one in known.ls(ws.ledger)]
            raise NotFound(f"no experiment {experiment!r}", nearest(experiment, names), experiment=experiment)
        ids = [found.id]
    orders = [one for one in order.split(",") if one.strip()] if isinstance(order, str) else list(order)
    query = run_query(where, orders, experiments=ids, view=view, limit=limit)
    if pipeline:
        from flyball.stores.engine import starts_with

        query = msgspec.structs.replace(query, where=(*query.where, starts_with(RUNS.c.pipeline, pipeline)))
    return query


def _one(ws: Workspace, run: str) -> tuple[Found, Run]:
    from flyball.stores.runs import Found

    store = _store(ws)
    return Found(store.head(run), store.facts([run])[run]), ws.ledger.get("run", run, Run)


def _line(ws: Workspace, found: Found, experiments: dict[str, str]) -> dict[str, Any]:
    head = found.head
    record = ws.ledger.find("run", head.id, Run)
    return {
        "id": head.id,
        "name": head.name,
        "experiment": experiments.get(head.experiment, head.experiment),
        "pipeline": head.pipeline,
        "status": head.status,
        "started": from_us(head.started_us),
        "seconds": None if head.ended_us is None else (head.ended_us - head.started_us) / 1e6,
        "because": "" if record is None else record.because,
        "metrics": " ".join(f"{name}={one.value:.4g}" for name, one in list(found.facts.metrics.items())[:8]),
    }
