"""One request from its rows to its answer. Hand-written hot path: no verb table, no validation library.

Order: assignment (probability known), model, on failure of the candidate the champion, write-ahead log, answer; shadows
come after the answer. A candidate runs in a thread within its share of the deadline; the champion runs inline, which
costs 60 us less and is what a candidate's failure falls back to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from random import Random

import msgspec
import numpy as np

from flyball.core.ids import encode
from flyball.errors import Internal, Unavailable
from flyball.serve.metrics import Metrics
from flyball.serve.runtime import LoadedModel
from flyball.serve.serving import LoadedEndpoint
from flyball.serve.shadow import Shadows, Unseen
from flyball.serve.threads import Ran, Threads, attempt
from flyball.stores.prediction_log import LogWriter, Prediction
from flyball.wire.predict import Value


class Row(msgspec.Struct, gc=False):
    """One row, ready for a model: values in signature order."""

    id: str
    at_us: int
    entities: dict[str, Value]
    values: list[float | None]
    times_us: list[int | None]
    draw: float


class Outcome(msgspec.Struct, gc=False):
    """What came of a group of rows that share an arm."""

    outputs: list[float] | None
    answered_by: str
    error: str = ""
    fallback: bool = False
    candidate_us: int | None = None


class Answering:
    """What a worker answers with: threads, log, shadows, counts."""

    def __init__(
        self,
        writer: LogWriter,
        metrics: Metrics,
        *,
        random: Random | None = None,
        on_trip: Callable[[], None] = lambda: None,
    ) -> None:
        self.writer = writer
        self.metrics = metrics
        self.shadows = Shadows(writer, metrics)
        self._threads = Threads()
        self._random = (random or Random()).random
        self._on_trip = on_trip
        self._pid = os.getpid()

    def row(
        self,
        endpoint: LoadedEndpoint,
        entities: dict[str, Value],
        request: dict[str, Value],
        *,
        id: str | None,
        at_us: int,
    ) -> Row:
        """Look the features up and draw the arm. A client's own id draws the same arm again when it is retried."""
        values, times_us = endpoint.lookup.read(entities, request, at_us)
        return Row(
            id or new_id(at_us),
            at_us,
            entities,
            values,
            times_us,
            self._draw(endpoint, entities, request, id),
        )

    def bare_row(
        self, endpoint: LoadedEndpoint, values: list[float | None], *, id: str, at_us: int, key: str
    ) -> Row:
        """A row that brings its features in signature order (Open Inference Protocol)."""
        draw = endpoint.router.draw_for(key) if key else self._random()
        return Row(id, at_us, {}, values, [None] * len(values), draw)

    def _draw(
        self,
        endpoint: LoadedEndpoint,
        entities: dict[str, Value],
        request: dict[str, Value],
        id: str | None,
    ) -> float:
        router = endpoint.router
        if router.candidate is None:
            return 1.0
        if router.sticky_key is not None:
            key = entities.get(router.sticky_key, request.get(router.sticky_key))
            if key is not None:
                return router.draw_for(key)
        return self._random() if id is None else router.draw_for(id)

    async def answer(
        self,
        endpoint: LoadedEndpoint,
        rows: list[Row],
        *,
        generation: int,
        started_ns: int,
        pinned: LoadedModel | None = None,
    ) -> list[Prediction]:
        """The logged predictions of these rows, in their order. Raises :class:`Unavailable` when the log is full."""
        rho = endpoint.rho
        if pinned is not None:
            groups = [("pinned", rows)]
            rho = 0.0
        elif rho <= 0.0:
            groups = [("champion", rows)]
        else:
            groups = [
                (arm, chosen)
                for arm, chosen in (
                    ("champion", [row for row in rows if row.draw >= rho]),
                    ("candidate", [row for row in rows if row.draw < rho]),
                )
                if chosen
            ]
        records: list[Prediction] = []
        for arm, chosen in groups:
            outcome, assigned = await self._run(endpoint, arm, chosen, started_ns, pinned)
            latency_us = (time.perf_counter_ns() - started_ns) // 1000
            outputs: Sequence[float | None] = outcome.outputs or [None] * len(chosen)
            for row, output in zip(chosen, outputs, strict=True):
                records.append(
                    Prediction(
                        row.id,
                        row.at_us,
                        endpoint.name,
                        assigned,
                        arm,
                        rho,
                        outcome.answered_by,
                        output,
                        row.values,
                        row.times_us,
                        row.entities,
                        outcome.fallback,
                        outcome.error,
                        latency_us,
                        outcome.candidate_us,
                        generation,
                        self._pid,
                    )
                )
            self._watch(endpoint, outcome, records[-1], rows=len(chosen))
        self._write(records)
        if len(groups) > 1:
            order = {id(row.id): place for place, row in enumerate(rows)}
            records.sort(key=lambda record: order[id(record.id)])
        self._shadow(endpoint, groups, records)
        return records

    async def _run(
        self,
        endpoint: LoadedEndpoint,
        arm: str,
        rows: list[Row],
        started_ns: int,
        pinned: LoadedModel | None,
    ) -> tuple[Outcome, str]:
        matrix = np.array([row.values for row in rows], dtype=np.float32)
        if arm != "candidate":
            model = pinned or endpoint.champion
            ran = attempt(model, matrix)
            return Outcome(ran.outputs, model.ref, ran.error), model.ref
        assigned = endpoint.router.candidate or ""
        candidate = endpoint.candidate
        if candidate is None:
            ran = Ran(None, f"not loaded: {endpoint.broken.get(assigned, 'unknown')}", 0)
        else:
            spent_s = (time.perf_counter_ns() - started_ns) / 1e9
            ran = await self._threads.run(candidate, matrix, endpoint.candidate_s - spent_s)
        if ran.outputs is not None:
            return Outcome(ran.outputs, assigned, "", False, ran.took_us), assigned
        instead = attempt(endpoint.champion, matrix)
        error = f"{ran.error}; champion: {instead.error}" if instead.error else ran.error
        return Outcome(instead.outputs, endpoint.champion.ref, error, True, ran.took_us), assigned

    def _watch(self, endpoint: LoadedEndpoint, outcome: Outcome, last: Prediction, *, rows: int) -> None:
        arm, failed = last.arm, bool(outcome.error)
        self.metrics.answered(
            endpoint.name,
            arm,
            last.assigned,
            rows=rows,
            error=failed,
            fallback=outcome.fallback,
            latency_us=last.latency_us,
        )
        breaker = endpoint.breaker
        if arm == "pinned" or endpoint.router.candidate is None:
            return
        # One observation per request and arm: rows of one request fail together.
        if breaker.observe(candidate=arm == "candidate", failed=failed):
            self.metrics.count("breaker_trips")
            self._on_trip()

    def _write(self, records: list[Prediction]) -> None:
        try:
            self.writer.append(records)
        except Unavailable:
            self.metrics.count("log_failures")
            raise
        failed = next((record for record in records if record.output is None), None)
        if failed is not None:
            self.metrics.count("failed")
            raise Internal(
                f"{failed.assigned} could not answer: {failed.error}",
                f"flyball explain {failed.id} shows the request; flyball rollback {failed.endpoint} goes back",
                id=failed.id,
                model=failed.assigned,
            )

    def _shadow(
        self, endpoint: LoadedEndpoint, groups: list[tuple[str, list[Row]]], records: list[Prediction]
    ) -> None:
        candidate = endpoint.candidate
        paired = endpoint.endpoint.shadow_candidate and candidate is not None and not endpoint.breaker.tripped
        if not paired and not endpoint.shadows:
            return
        unseen: list[Unseen] = []
        for record in records:
            models = list(endpoint.shadows)
            if paired and candidate is not None and record.arm == "champion":
                models.append(candidate)
            elif paired and record.arm == "candidate" and not record.fallback:
                models.append(endpoint.champion)
            unseen += [
                Unseen(model, record.id, record.at_us, endpoint.name, record.features) for model in models
            ]
        if unseen:
            self.shadows.add(unseen)


def new_id(at_us: int) -> str:
    """A fresh prediction id that holds its time."""
    return f"p_{encode(at_us // 1000)}"
