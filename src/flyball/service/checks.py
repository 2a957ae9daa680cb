"""``fb.checks`` and ``flyball checks``: the contracts that data must keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.checks.results import ContractResult


def require(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Hold rows against the project's contract of that name: the rows, or the run is refused with the report."""
    from flyball.service.steps import require_contract

    return require_contract(name, rows)


@verb("checks ls", reads=True)
def ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List the project's contracts."""
    from flyball.checks.expectations import Contract

    return [
        {"contract": one.name, "expectations": len(one.expectations), "digest": one.digest}
        for one in ws.definitions.of(Contract).values()
    ]


class ContractReport:
    """A contract's result for people and scripts."""

    def __init__(self, result: ContractResult) -> None:
        self.result = result

    @property
    def exit_code(self) -> int:
        return 0 if self.result.passed else 1

    def as_text(self) -> str:
        from flyball.checks.report import contract_lines

        return "\n".join(contract_lines(self.result))


@verb("checks run", reads=True)
def run(contract: str, data: str = "", *, ws: Workspace = CURRENT) -> ContractReport:
    """Hold a snapshot (by default the newest of the contract's name) against a contract; exit 1 when it breaks it."""
    from flyball.checks.expectations import validate
    from flyball.service.steps import contract_named
    from flyball.versions import data as snapshots

    rows = snapshots.use(ws.ledger, ws.blobs, data or contract).frame()
    return ContractReport(validate(rows, contract_named(ws, contract), now=ws.clock.now()))
