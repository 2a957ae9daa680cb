"""What a run has at hand, and where it is: steps that write to the ledger ask :func:`current`."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from flyball.core.clock import Clock, SystemClock

if TYPE_CHECKING:
    from flyball.core.config import Resolved
    from flyball.stores.blobs import Blobs
    from flyball.stores.metadata import Ledger

Status = Literal["started", "done", "reused", "skipped", "failed", "refused"]


class StepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """What ``on_step`` is told: which node of how many, and how it went."""

    run_id: str
    node: str
    status: Status
    number: int  # from 1
    total: int
    seconds: float = 0.0
    because: str = ""


@dataclass(kw_only=True)
class RunContext:
    """The stores, the project's folder, who runs and why; inside a step also the run's id and the node's name."""

    ledger: Ledger
    blobs: Blobs
    root: Path
    actor: str
    settings: Resolved | None = None
    clock: Clock = field(default_factory=SystemClock)
    because: str = ""
    on_step: Callable[[StepProgress], None] | None = None
    run_id: str = ""
    node: str = ""
    arguments: dict[str, str] = field(default_factory=dict)  # argument -> digest of the artifact given for it
    used: dict[str, str] = field(default_factory=dict)  # role -> lineage name of what this node read by name

    def record_input(self, role: str, ref: str, noun: str = "snapshot") -> None:
        """Say that this step read ``flights@3``: the run gets it as an input, its outputs an edge to it.

        It is remembered with the step's result, so a reused result has the same lineage.
        """
        self.used[role] = f"{noun}:{ref}" if noun else ref

    def tell(self, progress: StepProgress) -> None:
        if self.on_step is not None:
            self.on_step(progress)


_current: ContextVar[RunContext | None] = ContextVar("run_context", default=None)


def current() -> RunContext | None:
    """The context of the step that is running, or ``None`` outside of a run."""
    return _current.get()


def enter(context: RunContext) -> Any:
    """Make it the current one; returns the token to leave with."""
    return _current.set(context)


def leave(token: Any) -> None:
    _current.reset(token)
