"""Connections to Redis that never wait longer than they were told to: for a name, a handshake or an answer."""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from flyball.errors import Invalid, Unavailable

_REPEAT = "the answer may be asked for again; a batch may be repeated"


class Connections:
    """Idle connections to one server, the one used last on top; for several threads, made anew after a fork."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        try:
            self.pool: Any = redis.ConnectionPool.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0),
                retry_on_error=[], protocol=2, health_check_interval=0,
            )  # fmt: skip
        except ValueError as error:
            raise Invalid(
                f"this is not the URL of a Redis store: {error}", "like redis://localhost:6379/0"
            ) from error
        asked = self.pool.connection_kwargs
        self.place = f"{asked.get('host', 'localhost')}:{asked.get('port', 6379)}/{asked.get('db', 0)}"
        self._idle: deque[Any] = deque()
        self._pid = os.getpid()
        self._numeric: str | None = None

    def take(self) -> tuple[Any, bool]:
        """A connection, and whether it is fresh."""
        if self._pid != os.getpid():  # a socket shared with the parent would mix up answers
            self._idle, self._pid = deque(), os.getpid()
        with suppress(IndexError):
            return self._idle.pop(), False
        connection = self.pool.make_connection()
        try:
            if type(connection) is redis.Connection:  # TLS checks the name, and so must be given it
                connection.host = self._address(connection.host)
            connection.connect()
        except (redis.RedisError, OSError) as error:
            self._numeric = None
            connection.disconnect()
            raise trouble(f"the online store {self.place}", error) from error
        return connection, True

    def give(self, connection: Any) -> None:
        """Put a connection back that owes no answer."""
        self._idle.append(connection)

    def clear(self) -> None:
        """Close what is idle."""
        with suppress(IndexError):
            while True:
                self._idle.pop().disconnect()
        self.pool.disconnect()

    def _address(self, host: str) -> str:
        """The number of a host. The resolver knows no time limit, so a thread waits for it, and we for the thread."""
        if self._numeric is not None:
            return self._numeric
        found: list[Any] = []

        def look() -> None:
            with suppress(OSError):
                found.extend(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        thread.join(max(self.timeout_s, 0.05))
        if not found:
            raise redis.ConnectionError(f"the name {host!r} is not known, or not yet")
        usual = next((one for one in found if one[0] == socket.AF_INET), found[0])
        self._numeric = str(usual[4][0])
        return self._numeric


def trouble(what: str, error: BaseException) -> Unavailable:
    """What went wrong, as an error that says what to do."""
    said = str(error) or type(error).__name__
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return Unavailable(f"{what} did not answer in time", _REPEAT)
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "OOM" in said:
        return Unavailable(f"{what} is full: {said}", "raise its maxmemory; nothing of the batch was written")
    if "MISCONF" in said:
        return Unavailable(
            f"{what} can't save to its disk: {said}", "free some space; nothing of the batch was written"
        )
    if isinstance(error, redis.AuthenticationError):
        return Unavailable(
            f"{what} refuses the password: {said}", "correct it in the URL of the online store"
        )
    if isinstance(error, redis.ReadOnlyError):
        return Unavailable(f"{what} is a replica: {said}", "give the URL of the primary")
    if isinstance(error, redis.ResponseError) and "WRONGTYPE" in said:
        return Unavailable(
            f"{what} is corrupt: {said}",
            "another program uses its names: choose ?prefix=… and fill it again: flyball features materialize --rebuild",
        )
    return Unavailable(f"{what} does not answer: {said}", _REPEAT)
