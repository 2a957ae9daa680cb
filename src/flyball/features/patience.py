"""When to ask a store that has failed: not with every request, and not never again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flyball.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from flyball.features.vectors import VectorReader, Vectors

log = logging.getLogger(__name__)
_FIRST_S, _LONGEST_S = 0.1, 5.0


class Patience:
    """After a failure the store rests: 0.1 s, twice as long after each further failure, 5 s at most.

    When a rest is over one caller may try again, and the others rest on until it has succeeded: of many requests a
    second, only a few pay the wait for a store that is down or slow.

    >>> now = [0.0]
    >>> patience = Patience(lambda: now[0])
    >>> patience.failed(); patience.may_ask()
    False
    >>> now[0] = 0.11
    >>> patience.may_ask(), patience.may_ask()
    (True, False)
    >>> patience.answered(); patience.may_ask()
    True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0  # in a row; 0 while all is well
        self._clock = clock
        self._until = 0.0

    def may_ask(self) -> bool:
        """Whether to ask the store now."""
        if not self.failures:
            return True
        now = self._clock()
        if now < self._until:
            return False
        self._until = now + self._rest_s
        return True

    def answered(self) -> None:
        """The store is well again."""
        self.failures = 0

    def failed(self) -> None:
        """The store did not answer, or too late."""
        self.failures += 1
        self._until = self._clock() + self._rest_s

    @property
    def _rest_s(self) -> float:
        return float(min(_FIRST_S * 2 ** min(self.failures - 1, 10), _LONGEST_S))


def read(
    reader: VectorReader, patience: Patience, entity_rows: Any, request_rows: Any, at_us: int
) -> Vectors:
    """Vectors from a store that may not answer: then the defaults that the views declare, else :class:`Unavailable`."""
    why = "it failed a moment ago"
    if patience.may_ask():
        try:
            found = reader.read(entity_rows, request_rows, at_us)
        except (
            Unavailable,
            NotFound,
            OSError,
        ) as error:  # NotFound: a library that its engine needs is missing
            patience.failed()
            why = str(error)
            if not reader.has_defaults:
                raise
        else:
            patience.answered()
            return found
    if not reader.has_defaults:
        raise Unavailable("the online store does not answer", f"{why}; try again in a moment")
    log.warning("the online store does not answer; defaults stand in", extra={"because": why})
    return reader.unanswered(entity_rows, request_rows)
