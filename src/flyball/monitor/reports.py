"""What was watched, written to the ledger: the one place in monitoring that has an effect."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Report
from flyball.stores.metadata import Ledger


def report_of(
    kind: str,
    subject: str,
    found: Any,
    *,
    at: datetime,
    passed: bool,
    summary: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Report:
    """A report whose evidence is a record (or several, in a dict) as builtins."""
    evidence = msgspec.to_builtins(found)
    return Report(
        id=new_id("rep", at),
        kind=kind,
        subject=subject,
        at=at,
        passed=passed,
        summary=summary,
        evidence=_finite(evidence if isinstance(evidence, dict) else {"found": evidence}),
        since=since,
        until=until,
    )


def record(ledger: Ledger, report: Report, actor: str = "monitor") -> Report:
    """Write a report; it can be read again as ``ledger.get("report", report.id, Report)``."""
    with ledger.transaction() as tx:
        tx.append(
            "monitor.reported",
            report.subject,
            actor=actor,
            at=report.at,
            sets=[("report", report.id, report)],
        )
    return report


def _finite(content: Any) -> Any:
    """JSON has no infinity: such numbers become text, so that nothing is lost silently."""
    if isinstance(content, float) and not math.isfinite(content):
        return str(content)
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
