"""A batch that breaks its contract: decision, report and incident in the ledger, the rows as a blob. Nothing is lost,
nothing is used.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Decision, Report
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.checks.results import ContractResult

_KIND = "upstream_data_bug"


def set_aside(
    ws: Workspace, source: str, result: ContractResult, now: datetime, *, rows: pl.DataFrame | None = None
) -> tuple[str, str]:
    """What is wrong, and the report that says so. ``rows`` are kept; those of a table that stays where it is need not be."""
    from flyball.heal import acts
    from flyball.heal.incidents import open_incident, open_of

    kept = {} if rows is None else {"batch": ws.blobs.put(_parquet(rows))}
    because = "; ".join(one.message for one in result.failed)
    evidence = {**kept, "rows": result.rows, "failed": msgspec.to_builtins(result.failed)}
    report = Report(
        id=new_id("rep", now), kind="contract", subject=source, at=now, passed=False, summary=because, evidence=evidence
    )  # fmt: skip
    with ws.ledger.transaction() as tx:
        tx.append("contract.broken", source, actor="governor", at=now, sets=[("report", report.id, report)])
    if not open_of(ws.ledger, _KIND, source):
        proof: dict[str, Any] = {"report": report.id, **kept}
        decision = acts.decide(
            ws.ledger,
            policy="contract",
            subject=source,
            action="quarantine",
            arguments={"source": source},
            because=because,
            evidence=proof,
            at=now,
        )
        _finish(ws, decision, now)
        proof = {"decision": decision.id, "report": report.id}
        open_incident(ws.ledger, _KIND, source, because, at=now, actor="governor", evidence=proof)
    return because, report.id


def release(ws: Workspace, source: str, because: str, now: datetime) -> None:
    """Close the incidents of a source: right rows have come."""
    from flyball.heal.incidents import close_incident, open_of

    for incident in open_of(ws.ledger, _KIND, source):
        close_incident(ws.ledger, incident, because, at=now, actor=ws.actor)


def _finish(ws: Workspace, decision: Decision, now: datetime) -> None:
    done = msgspec.structs.replace(decision, state="done")
    with ws.ledger.transaction() as tx:
        tx.append(
            "decision.done", decision.subject, actor="governor", at=now, sets=[("decision", done.id, done)]
        )


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()
