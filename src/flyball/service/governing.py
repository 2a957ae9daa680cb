"""The governor of a workspace: its hands, and the loop that lets one leader look at a time."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from flyball.core.ids import new_id
from flyball.core.records import Decision, Run
from flyball.errors import FlyballError, Refused
from flyball.service.watching import FeatureWatch
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.heal.governor import Governor

log = logging.getLogger(__name__)
_LEASE_S = 30.0


class WorkspaceHands:
    """Acts in a workspace: publishes its plan and runs its pipelines in this process."""

    def __init__(self, ws: Workspace, wait_s: float = 0.0) -> None:
        self.ws = ws
        self._wait_s = wait_s  # how long to wait until every worker serves what was published

    def publish(self) -> None:
        """Put the ledger's routes in force, and wait for the workers when that was asked for."""
        from flyball.serve.publish import acks, wait_until_loaded
        from flyball.service.serving import publish_plan

        publish_plan(self.ws)
        if self._wait_s and acks(self.ws.state):
            wait_until_loaded(self.ws.state, self.ws.plan.generation, self._wait_s)

    def tripped(self, endpoint: str) -> str:
        """The candidate that a living worker has cut off in the plan in force."""
        from flyball.serve.publish import acks

        generation = self.ws.plan.generation
        return next(
            (
                ack.tripped[endpoint]
                for ack in acks(self.ws.state)
                if endpoint in ack.tripped and ack.generation == generation
            ),
            "",
        )

    def tidy(self, cursor: dict[str, int]) -> None:
        """Turn closed segments of the prediction log into Parquet."""
        from flyball.stores.predictions import compact

        compact(self.ws.log_dir, self.ws.tables_dir, also_behind=[cursor])

    def train(self, pipeline: str, params: dict[str, Any], because: str) -> Run:
        """Run the pipeline for a decision; a run that this decision began before is gone on with, or given back."""
        from flyball.pipelines import runner
        from flyball.service.feeds import snapshot_all
        from flyball.service.pipelines import context_of, named

        ws = self.ws
        context = context_of(ws, because, actor="governor")
        begun = [run for run in ws.ledger.ls("run", Run) if run.because == because]
        try:
            if begun and begun[-1].status in ("done", "refused"):
                return begun[-1]
            if begun:
                return runner.resume(begun[-1].id, ws.definitions.pipelines, context)
            snapshot_all(ws)
            return runner.execute(named(ws, pipeline), params, context)
        except Refused:
            begun = [run for run in ws.ledger.ls("run", Run) if run.because == because]
            if not begun:  # refused before a run began: a source could not be snapshot
                raise
            return begun[-1]


def governor_of(
    ws: Workspace,
    wait_s: float = 0.0,
    *,
    tell: Callable[[Decision], None] | None = None,
    background: bool = False,
) -> Governor:
    """The governor of this workspace, by its policy; ``background`` trains in a thread beside the looking."""
    from flyball.heal.governor import Governor
    from flyball.heal.policy import load_policy
    from flyball.service.serving import refusal_of

    policy = load_policy(ws.settings.path(ws.config.govern.policy))
    hands = WorkspaceHands(ws, wait_s)
    return Governor(
        ws.ledger,
        policy,
        hands,
        ws.log_dir,
        ws.predictions,
        tell=tell,
        refused=lambda ref: refusal_of(ws, ref),
        background=background,
    )


def govern(ws: Workspace, *, once: bool = False) -> None:
    """Look every few seconds while this process leads; a second governor waits until the first one is gone."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{new_id('gov', ws.clock.now())}"
    ending = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        ending.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    governor: Governor | None = None
    watch = FeatureWatch(ws)
    while not ending.is_set():
        try:
            if ws.ledger.lease("governor", holder, _LEASE_S):
                if governor is None:
                    log.info("leading")
                    governor = governor_of(ws, background=True)
                    governor.start(ws.clock.now())
                governor.tick(ws.clock.now())
                watch.look_beside()
            else:
                governor = None  # another leads; what we knew is stale
        except FlyballError as error:
            log.error("%s; %s", error.what, error.hint)
            governor = None
        if once:
            break
        ending.wait(ws.config.govern.every_s)
    watch.close()
    ws.ledger.release("governor", holder)
