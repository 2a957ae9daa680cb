"""Time, passed in. Everything that decides takes a clock, so the same code runs live, replayed and simulated."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Tells the time: UTC, aware, microseconds."""

    def now(self) -> datetime: ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that a replay or a test moves by hand; it refuses to go back.

    >>> clock = ManualClock(datetime(2013, 4, 1, tzinfo=UTC))
    >>> clock.advance(timedelta(hours=3)).isoformat()
    '2013-04-01T03:00:00+00:00'
    """

    def __init__(self, start: datetime) -> None:
        self._now = aware(start)

    def now(self) -> datetime:
        return self._now

    def set(self, to: datetime) -> datetime:
        to = aware(to)
        if to < self._now:
            raise ValueError(f"a clock does not go back: {to} is before {self._now}")
        self._now = to
        return to

    def advance(self, by: timedelta) -> datetime:
        return self.set(self._now + by)


def aware(at: datetime) -> datetime:
    """The same instant in UTC; a naive time is refused, since guessing its zone loses data silently."""
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone; use datetime(..., tzinfo=UTC)")
    return at.astimezone(UTC)


def to_us(at: datetime) -> int:
    """Microseconds since 1970 in UTC, exactly (no float on the way).

    >>> to_us(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC))
    1000005
    """
    return (aware(at) - EPOCH) // timedelta(microseconds=1)


def from_us(us: int) -> datetime:
    """The inverse of :func:`to_us`."""
    return EPOCH + timedelta(microseconds=us)


def parse_time(text: str) -> datetime:
    """Read an ISO 8601 time or date; a date is midnight UTC and a time without a zone is UTC.

    >>> parse_time("2013-04-01").isoformat()
    '2013-04-01T00:00:00+00:00'
    """
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
