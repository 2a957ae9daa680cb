"""Models that go wrong in each way a candidate can; pickled by name, so a worker needs this folder on its path."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class Constant:
    """Answers one number."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), self.answer)


class Raises:
    def predict(self, rows: Any) -> Any:
        raise RuntimeError("broken on purpose")


class Hangs:
    def predict(self, rows: Any) -> Any:
        time.sleep(30)
        return np.zeros(len(rows))


class AnswersNaN:
    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), np.nan)


class WrongShape:
    def predict(self, rows: Any) -> Any:
        return np.zeros((len(rows), 3))


class NoProbability:
    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), 1.5)
