"""The steps that meet the ledger: data, contracts, the gate, registration. In a pipeline nodes, elsewhere plain calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from flyball.checks.gate import GatePolicy, Verdict, evaluate
from flyball.core.events import Edge
from flyball.core.ids import new_id
from flyball.core.records import ModelVersion, Report
from flyball.errors import NotFound, nearest
from flyball.heal.policy import load_policy
from flyball.models import registry, scoring
from flyball.models.predictor import load
from flyball.monitor.drift import Baseline, learn
from flyball.monitor.windows import DayStats, DayTable
from flyball.pipelines import current, step
from flyball.service.serving import trust_in
from flyball.service.workspace import Workspace
from flyball.track.runs import current as tracked_run
from flyball.track.runs import log_metric

if TYPE_CHECKING:
    from flyball.stores.metadata import Ledger


def _digest_of_data(name: str) -> str:
    from flyball.versions import data

    return data.resolve(Workspace.current().ledger, name).digest


@step(name="use", key=_digest_of_data)
def use_data(name: str) -> pl.DataFrame:
    """The rows of a snapshot (``flights``, ``flights@3``); the run remembers which one it was."""
    from flyball.versions import data

    ws = Workspace.current()
    found = data.use(ws.ledger, ws.blobs, name)
    context = current()
    if context is not None:
        context.record_input(name.partition("@")[0], found.snapshot.ref)
    elif (run := tracked_run()) is not None:
        run.input(found.snapshot.ref, name.partition("@")[0])
    return found.frame()


@step(name="require", cache=False)
def require_contract(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows when they keep their contract; otherwise the run is refused, with the report."""
    from flyball.checks.expectations import require

    ws = Workspace.current()
    require(rows, contract_named(ws, name), now=ws.clock.now())
    return rows


def contract_named(ws: Workspace, name: str) -> Any:
    """One of the project's contracts; :class:`NotFound` names those there are."""
    from flyball.checks.expectations import Contract

    found = {contract.name: contract for contract in ws.definitions.of(Contract).values()}
    if name not in found:
        raise NotFound(f"no contract {name!r}", nearest(name, list(found)))
    return found[name]


class Gated(msgspec.Struct, frozen=True, kw_only=True):
    """A gate's answer inside a pipeline: ``passed``, the report in the ledger, and the whole verdict."""

    passed: bool
    report: str
    summary: str
    verdict: Verdict


@step(name="gate", cache=False)
def gate(
    model: Any,
    test: pl.DataFrame,
    *,
    label: str,
    at: str,
    service: str | None = None,
    features: Sequence[str] = (),
    against: str | None = None,
    slices: Sequence[str] = (),
    reference: pl.DataFrame | None = None,
    train: pl.DataFrame | None = None,
    policy: GatePolicy | None = None,
    seed: int = 0,
) -> Gated:
    """Hold a model against thresholds, the champion on the same newest rows, and slices; the report goes to the ledger.

    ``test`` holds the features (of ``service``, or named), the 0/1 ``label`` and the time ``at``. ``against`` is a
    model ref; without such a version only the thresholds count. ``reference`` (columns ``at``, ``label`` and ``p``) are
    out-of-sample predictions on the training days: with the test days they are what this model's quality in service is
    held against. ``train`` is what it learned from: the inputs in service are compared with it, weighted by how much the
    model uses each (permutation importance on the test rows).
    """
    ws = Workspace.current()
    names = list(features) or _features_of(ws, service)
    rows = test.sort(at)
    y = rows[label].cast(pl.Float64).to_numpy()
    challenger = scoring.score(model, rows.select(names).to_numpy(), float32=True)
    champion_ref, champion = _champion(ws, against, rows)
    verdict = evaluate(
        y,
        challenger,
        champion,
        rows[at].dt.date().to_physical().to_numpy(),
        slices={name: rows[name].to_numpy() for name in slices},
        policy=policy,
        seed=seed,
    )
    held = rows.select(at, label).with_columns(p=pl.Series(challenger))
    days = _days(
        held
        if reference is None
        else pl.concat([reference.select(held.columns), held], how="vertical_relaxed")
    )
    inputs = None if train is None else _inputs(model, train, rows, names, label, at, challenger)
    report = _record(ws, verdict, rows, at, against, champion_ref, days, inputs)
    for metric, value in verdict.metrics.items():
        if value is not None:
            log_metric(metric, value)  # so that the run can be found by what its model is worth
    return Gated(passed=verdict.passed, report=report.id, summary=verdict.summary, verdict=verdict)


def _days(scored: pl.DataFrame) -> list[DayStats]:
    """What a model did on days it had not learned from, as the watch counts days."""
    policy = load_policy(Workspace.current().settings.path(Workspace.current().config.govern.policy))
    table = DayTable(day_starts_s=policy.quality.day_starts_h * 3600.0)
    at, label, p = (scored[name] for name in scored.columns)
    table.add_frame(
        pl.DataFrame(
            {
                "id": [str(number) for number in range(scored.height)],
                "at_us": at.dt.epoch("us"),
                "output": p.cast(pl.Float64),
                "label": label.cast(pl.Float64),
                "known_us": at.dt.epoch("us"),
            }
        )
    )
    return table.days(int(at.dt.epoch("us").max() or 0))  # type: ignore[arg-type]  # polars types max() loosely


_BASELINE_ROWS = 12_000  # 72,000 rows say the same of a season and cost 7 s instead of 1


def _inputs(
    model: Any,
    train: pl.DataFrame,
    test: pl.DataFrame,
    names: list[str],
    label: str,
    at: str,
    scored: np.ndarray[Any, Any],
) -> Baseline:
    """The training inputs' own variation in time; importance is what shuffling a column costs in Brier loss."""
    rng = np.random.default_rng(0)
    chosen = rng.choice(test.height, min(2000, test.height), replace=False)
    y = test[label].cast(pl.Float64).to_numpy()[chosen]
    x = test.select(names).to_numpy().astype(np.float64)[chosen]
    before = float(((scored[chosen] - y) ** 2).mean())
    importance: dict[str, float] = {}
    for number, name in enumerate(names):
        shuffled = x.copy()
        shuffled[:, number] = rng.permutation(shuffled[:, number])
        after = scoring.score(model, shuffled, float32=True)
        importance[name] = max(float(((after - y) ** 2).mean()) - before, 1e-9)
    window_days = load_policy(
        Workspace.current().settings.path(Workspace.current().config.govern.policy)
    ).quality.drift_days
    train = train.gather_every(max(1, train.height // _BASELINE_ROWS))
    days = train[at].dt.date().to_physical().to_numpy()
    return learn(
        train.select(pl.col(names).cast(pl.Float64)), days, window_days=window_days, importance=importance
    )


def _features_of(ws: Workspace, service: str | None) -> list[str]:
    from flyball.service.features import service_named

    if service is None:
        raise NotFound("the gate needs to know the model's inputs", "give service=NAME or features=[...]")
    return list(service_named(ws, service).features)


def _champion(
    ws: Workspace, against: str | None, rows: pl.DataFrame
) -> tuple[str | None, np.ndarray[Any, Any] | None]:
    if against is None:
        return None, None
    try:
        version = registry.resolve(ws.ledger, against)
    except NotFound:
        return None, None  # the first of its name has nobody to beat
    return version.ref, load(ws.ledger, ws.blobs, version.ref, trust=trust_in(ws)).predict(rows)


def _record(
    ws: Workspace,
    verdict: Verdict,
    rows: pl.DataFrame,
    at: str,
    against: str | None,
    champion: str | None,
    days: list[DayStats],
    inputs: Baseline | None,
) -> Report:
    context = current()
    now = ws.clock.now()
    name = (against or "model").partition("@")[0]
    run = context.run_id if context is not None else ""
    report = Report(
        id=new_id("rep", now),
        kind="gate",
        subject=f"{name} of {run}" if run else name,
        at=now,
        passed=verdict.passed,
        summary=verdict.summary,
        evidence={
            "run": run,
            "champion": champion,
            "reference": msgspec.to_builtins(days),
            "inputs": msgspec.to_builtins(inputs),
            **msgspec.to_builtins(verdict),
        },
        since=rows[at].min(),  # type: ignore[arg-type]  # a time column's min is a datetime
        until=rows[at].max(),  # type: ignore[arg-type]  # likewise
    )
    with ws.ledger.transaction() as tx:
        tx.append(
            "gate.passed" if verdict.passed else "gate.refused",
            report.subject,
            actor=context.actor if context is not None else ws.actor,
            at=now,
            sets=[("report", report.id, report)],
            edges=[Edge(report.id, run, "run")] if run else [],
        )
    return report


@step(name="register", cache=False)
def register_model(
    name: str,
    model: Any,
    *,
    sample: pl.DataFrame | None = None,
    service: str | None = None,
    features: Sequence[str] = (),
    gate: Gated | None = None,
    aliases: Sequence[str] = (),
    metrics: Mapping[str, float] | None = None,
    note: str = "",
    **options: Any,
) -> ModelVersion:
    """Register a model as the next version; the same node of the same run registers once.

    ``sample`` shows the inputs and proves the export; ``service`` names the feature service that feeds it, ``features``
    the columns that are its inputs when there is no service.
    """
    from flyball.service.features import applied

    ws = Workspace.current()
    context = current()
    tracked = tracked_run()
    run = context.run_id if context is not None else tracked.id if tracked is not None else None
    if sample is not None and (features or service is not None):
        names = list(features) or _features_of(ws, service)
        sample = sample.select(names).cast(pl.Float32)  # what a server feeds it
    measured = dict(metrics or {})
    if gate is not None:
        measured |= {key: value for key, value in gate.verdict.metrics.items() if value is not None}
    return registry.register(
        ws.ledger,
        ws.blobs,
        name,
        model,
        actor=context.actor if context is not None else ws.actor,
        sample=sample,
        aliases=aliases,
        run=run,
        # Outside of a pipeline each call is one of its own: plain code may register two models in a run.
        node=context.node if context is not None else new_id("call", ws.clock.now()),
        feature_service=applied(ws, service) if service is not None else None,
        gate=gate.report if gate is not None else None,
        metrics=measured,
        note=note,
        **{"training": _training(ws.ledger, run), **options},
    )


def _training(ledger: Ledger, run: str | None) -> dict[str, str]:
    """The snapshots that this run has read: what the model was learned from."""
    if run is None:
        return {}
    from flyball.track.runs import get

    inputs = get(ledger, run).inputs
    return {role: ref for role, ref in inputs.items() if ledger.find("snapshot", ref, dict) is not None}
