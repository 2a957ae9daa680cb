"""What the year came to: healed and frozen side by side, from the prediction log and the ledger alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl

from flyball.core.records import Decision, Incident, ModelVersion, Report, Run
from flyball.demo.flights import LATE_AFTER_MIN
from flyball.demo.story import Story
from flyball.models import registry
from flyball.service import Workspace
from flyball.stats.quality import auc, log_loss, paired_difference

FIRST = "delays@1"


class Month(msgspec.Struct, frozen=True):
    """One month of answers: by whoever was champion then, and by the first champion left alone."""

    month: str
    labelled: int
    auc_healed: float
    auc_frozen: float
    log_loss_healed: float
    log_loss_frozen: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's ``--json``."""

    seconds: float
    predictions: int
    failed_client_requests: int
    promotions: list[dict[str, Any]]
    refusals: list[dict[str, Any]]
    rollbacks: list[dict[str, Any]]
    incidents: list[dict[str, Any]]
    retrainings_on_bad_data: int
    false_alarms: int
    months: list[Month]
    log_loss_gain: dict[str, float]
    explain: str
    retrainings: int
    skew: list[dict[str, Any]]
    report: str


def scored(ws: Workspace, story: Story) -> pl.DataFrame:
    """Every labelled answer with the first champion's probability for the same features beside it."""
    rows = ws.predictions.scan("delays", since=story.start, until=story.end).filter(
        pl.col("label").is_not_null()
    )
    rows = rows.with_columns(
        pl.from_epoch("at_us", "us").dt.replace_time_zone("UTC").alias("at"), pl.col("label").alias("y")
    )
    first = registry.load(ws.ledger, ws.blobs, FIRST)
    features = np.array(rows["features"].to_list(), dtype=np.float64)
    local = pl.col("at").dt.convert_time_zone("America/New_York")
    return rows.with_columns(
        pl.Series("frozen", np.asarray(first.predict(features), dtype=np.float64)),
        month=local.dt.strftime("%Y-%m"),
        day=local.dt.date(),
    )


def months_of(rows: pl.DataFrame) -> list[Month]:
    """AUC and log loss by month of the prediction."""
    found = []
    for (month,), part in rows.group_by("month", maintain_order=True):
        y, healed, frozen = (part[name].to_numpy() for name in ("y", "output", "frozen"))
        found.append(
            Month(
                month=str(month),
                labelled=part.height,
                auc_healed=round(float(auc(y, healed)), 4),
                auc_frozen=round(float(auc(y, frozen)), 4),
                log_loss_healed=round(float(log_loss(y, healed)), 5),
                log_loss_frozen=round(float(log_loss(y, frozen)), 5),
            )
        )
    return found


def gain_of(rows: pl.DataFrame) -> dict[str, float]:
    """Mean gain in log loss (frozen minus healed; positive is better), with a 95 % interval from blocks of days."""
    y = rows["y"].to_numpy().astype(np.float64)
    losses = [
        -(y * np.log(p) + (1 - y) * np.log(1 - p))
        for p in (_clipped(rows, "frozen"), _clipped(rows, "output"))
    ]
    days = rows["day"].to_physical().to_numpy()
    interval = paired_difference(losses[0], losses[1], days, seed=2013)
    return {name: round(float(getattr(interval, name)), 5) for name in ("mean", "low", "high")}


def _clipped(rows: pl.DataFrame, name: str) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = np.clip(rows[name].to_numpy().astype(np.float64), 1e-6, 1 - 1e-6)
    return found


def decisions_of(ws: Workspace) -> dict[str, list[dict[str, Any]]]:
    """Promotions, refusals, rollbacks and incidents, from the ledger."""
    made = [one for one in ws.ledger.ls("decision", Decision) if one.state == "done"]
    return {
        "promotions": [
            {"version": one.arguments["model"], "at": one.at, "because": one.because}
            for one in made
            if one.action == "promote"
        ],
        "refusals": [
            {"version": one.subject, "because": one.summary, "at": one.at}
            for one in ws.ledger.ls("report", Report)
            if one.kind == "gate" and not one.passed
        ],
        "rollbacks": [
            {
                "version": one.arguments["model"],
                "requests_exposed": one.evidence.get("requests_exposed"),
                "because": one.because,
                "at": one.at,
            }
            for one in made
            if one.action == "rollback"
        ],
        "incidents": [
            {"cause": one.cause, "subject": one.subject, "opened": one.opened, "closed": one.closed}
            for one in ws.ledger.ls("incident", Incident)
        ],
    }


def retrainings_of(ws: Workspace) -> list[Run]:
    """The runs that the governor asked for."""
    return [run for run in ws.ledger.ls("run", Run) if run.because.startswith("dec_")]


def was_on_bad_data(ws: Workspace, run: Run, story: Story) -> bool:
    """Whether the weather it learned from holds readings of the Celsius days that are not as they were measured."""
    ref = next((value.removeprefix("snapshot:") for value in run.inputs.values() if "weather@" in value), "")
    if not ref:
        return False
    from flyball.demo.flights import read
    from flyball.versions import data

    used = data.use(ws.ledger, ws.blobs, ref).frame()
    planted = used.filter(
        pl.col("happened").is_between(
            story.celsius_from, story.celsius_until + timedelta(hours=3), closed="left"
        )
    )
    true = planted.join(read("weather"), on=["origin", "happened"], how="inner", suffix="_true")
    return true.filter((pl.col("temp") - pl.col("temp_true")).abs() > 0.1).height > 0


def false_alarms(ws: Workspace, story: Story) -> int:
    """Retrainings that the gate did not confirm, rollbacks of versions that were not broken, incidents nobody planted.

    Storms are real: shocks are not counted.
    """
    made = ws.ledger.ls("decision", Decision)
    versions = {one.ref: one for one in ws.ledger.ls("model", ModelVersion)}
    unconfirmed = sum(one.action == "retrain" and not one.outcome.get("registered") for one in made)
    unjust = sum(
        one.action == "rollback" and versions[one.arguments["model"]].run is not None for one in made
    )
    planted = (story.celsius_from, story.celsius_until)
    incidents = ws.ledger.ls("incident", Incident)
    unplanted = sum(
        one.cause == "upstream_data_bug" and not planted[0] <= one.opened <= planted[1] + story.tick
        for one in incidents
    ) + sum(one.cause in ("infrastructure", "label_bug", "undecided_canary") for one in incidents)
    return unconfirmed + unjust + unplanted


def lateness(rows: pl.DataFrame) -> pl.DataFrame:
    """By day: flights, share late, and both log losses; for the pictures."""
    y = pl.col("y").cast(pl.Float64)

    def loss(name: str) -> pl.Expr:
        p = pl.col(name).cast(pl.Float64).clip(1e-6, 1 - 1e-6)
        return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

    return (
        rows.group_by("day")
        .agg(n=pl.len(), late=y.mean(), healed=loss("output"), frozen=loss("frozen"))
        .sort("day")
        .with_columns(late_after_min=pl.lit(LATE_AFTER_MIN))
    )
