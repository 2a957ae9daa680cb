"""Threads for what may hang: a candidate runs here, so that the loop can give up on it and let the champion answer.

Daemon threads of our own: those of ``concurrent.futures`` are joined at exit, and a hung candidate would hold the exit.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from flyball.serve.runtime import LoadedModel, Rows


class Ran(NamedTuple):
    """How a model did: its answers, or what went wrong, and how long it took."""

    outputs: list[float] | None
    error: str
    took_us: int


def attempt(model: LoadedModel, rows: Rows) -> Ran:
    """Run a model; whatever it raises becomes the error."""
    started = time.perf_counter_ns()
    try:
        outputs, error = model.run(rows), ""
    except Exception as raised:  # noqa: BLE001 (a model is someone else's code)
        outputs, error = None, said(raised)
    return Ran(outputs, error, (time.perf_counter_ns() - started) // 1000)


def said(raised: BaseException) -> str:
    """An exception in one short line."""
    return f"{type(raised).__name__}: {raised}"[:300]


class Threads:
    """A few threads that run models within a time."""

    def __init__(self, count: int = 4) -> None:
        self._count = count
        self._tasks: queue.SimpleQueue[tuple[LoadedModel, Rows, Callable[[Ran], None]]] = queue.SimpleQueue()
        self._started = 0
        self._since: dict[int, float] = {}  # thread -> when its present task began

    async def run(self, model: LoadedModel, rows: Rows, within_s: float) -> Ran:
        """The model's answer, or the error that it took too long (it may run on; its answer is then ignored)."""
        if within_s <= 0:
            return Ran(None, "TimeoutError: no time left for the candidate", 0)
        if self._all_stuck(within_s):
            return Ran(None, "TimeoutError: earlier requests of the candidate still run", 0)
        if self._started < self._count:
            self._started += 1
            threading.Thread(target=self._work, name=f"candidate-{self._started}", daemon=True).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ran] = loop.create_future()

        def settle(ran: Ran) -> None:
            if not future.done():
                future.set_result(ran)

        late = Ran(None, f"TimeoutError: no answer within {within_s * 1000:.0f} ms", int(within_s * 1e6))
        timer = loop.call_later(within_s, settle, late)
        self._tasks.put((model, rows, lambda ran: _from_thread(loop, settle, ran)))
        try:
            return await future
        finally:
            timer.cancel()

    def _all_stuck(self, within_s: float) -> bool:
        began = list(self._since.values())
        return len(began) >= self._count and max(began) < time.monotonic() - within_s

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            model, rows, done = self._tasks.get()
            self._since[me] = time.monotonic()
            ran = attempt(model, rows)
            self._since.pop(me, None)
            done(ran)


def _from_thread(loop: asyncio.AbstractEventLoop, settle: Callable[[Any], None], ran: Ran) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(settle, ran)
