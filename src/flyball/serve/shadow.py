"""Score what did not answer, after the answer: a bounded queue, drained in batches by one thread.

Rows wait up to 20 ms, so that a busy worker scores tens of rows in one call of the model; when the queue is full they
are dropped and counted, since an answer is never held up for a shadow.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flyball.errors import Unavailable
from flyball.serve.metrics import Metrics
from flyball.serve.runtime import LoadedModel
from flyball.serve.threads import attempt
from flyball.stores.prediction_log import LogWriter, Shadow

log = logging.getLogger(__name__)
_GATHER_S = 0.02


class Unseen(NamedTuple):
    """A row that ``model`` did not answer."""

    model: LoadedModel
    prediction_id: str
    at_us: int
    endpoint: str
    values: list[float | None]


class Shadows:
    """The queue and its thread. ``add`` never waits."""

    def __init__(self, writer: LogWriter, metrics: Metrics, *, most_rows: int = 4096) -> None:
        self._writer, self._metrics, self._most = writer, metrics, most_rows
        self._waiting: list[Unseen] = []
        self._lock = threading.Lock()
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, rows: list[Unseen]) -> None:
        """Queue rows to be scored."""
        with self._lock:
            room = self._most - len(self._waiting)
            first = not self._waiting
            self._waiting += rows[:room]
        if len(rows) > room:
            self._metrics.count("shadow_dropped", len(rows) - max(room, 0))
        if first:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="shadows", daemon=True)
                self._thread.start()
            self._wake.put(True)

    def close(self, within_s: float = 2.0) -> None:
        """Score what is queued, for at most this long."""
        if self._thread is not None:
            self._wake.put(False)
            self._thread.join(within_s)

    def _work(self) -> None:
        going = True
        while going:
            going = self._wake.get()
            if going:
                time.sleep(_GATHER_S)
            with self._lock:
                batch, self._waiting = self._waiting, []
            if batch:
                try:
                    self._score(batch)
                except Unavailable as error:
                    log.warning("shadows were not logged", extra={"because": error.what})
                    self._metrics.count("shadow_dropped", len(batch))

    def _score(self, batch: list[Unseen]) -> None:
        by_model: dict[int, list[Unseen]] = defaultdict(list)
        for row in batch:
            by_model[id(row.model)].append(row)
        for rows in by_model.values():
            shadows = _answers(rows)
            self._writer.append(shadows)
            self._metrics.count("shadow_scored", len(shadows))


def _answers(rows: list[Unseen]) -> list[Shadow]:
    """The model's word on each row; when the batch fails each row is tried alone, so that one can't spoil the rest."""
    model = rows[0].model
    ran = attempt(model, np.array([row.values for row in rows], dtype=np.float32))
    if ran.outputs is None and len(rows) > 1:
        return [shadow for row in rows for shadow in _answers([row])]
    outputs: Sequence[float | None] = ran.outputs or [None] * len(rows)
    share_us = ran.took_us // len(rows)
    return [
        Shadow(row.prediction_id, row.at_us, row.endpoint, model.ref, output, ran.error, share_us)
        for row, output in zip(rows, outputs, strict=True)
    ]
