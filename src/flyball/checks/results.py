"""What an expectation found, and the report of a whole contract."""

from __future__ import annotations

from typing import Any

import msgspec


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One expectation, held against one table."""

    name: str
    column: str  # several are joined by ", "; "" is the table itself
    passed: bool
    observed: Any
    limit: str
    message: str
    failing: int = 0  # rows
    first: dict[str, Any] | None = (
        None  # the first row that breaks it, by its columns, with its position as "row"
    )


class ContractResult(msgspec.Struct, frozen=True):
    """A contract, held against one table: passed only when every expectation did."""

    name: str
    passed: bool
    results: tuple[Result, ...]
    rows: int
    digest: str  # of the contract

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(one for one in self.results if not one.passed)

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.passed:
            return f"{self.name}: {len(self.results)} expectations hold on {self.rows} rows"
        failed = self.failed
        broken = "; ".join(one.message for one in failed)
        return f"{self.name}: {len(failed)} of {len(self.results)} expectations broken on {self.rows} rows: {broken}"
