"""PostgreSQL's connection with an end to its patience: a server that hangs is an error, not a hung program.

``statement_timeout`` is kept by the server and TCP's own timeouts end when anything in between acknowledges bytes; so
the client counts too.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors

_GRACE_S = 5.0  # the server's own timeout comes first: it says more


class _Bounded(psycopg.Connection[Any]):
    answer_s: float = 60.0

    def __del__(self, *_: Any) -> None:
        """A ledger that nobody closed goes with its engine, without psycopg's warning: its pool holds idle ones."""
        with suppress(Exception):
            self.pgconn.finish()

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for the server's answer; when none comes in time, the connection is given up."""
        try:
            return super().wait(gen, interval, self.answer_s + _GRACE_S if timeout is None else timeout)
        except errors._WaitTimeout:
            if timeout is not None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.answer_s + _GRACE_S:.0f} s") from None


def connect(answer_s: float, *args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
    """Connect as libpq is told by ``kwargs``; each answer then takes at most ``answer_s`` and a little."""
    connection = _Bounded.connect(*args, **kwargs)
    connection.answer_s = answer_s
    return connection
