"""Time-sortable ids: a prefix that says the noun, 48 bits of milliseconds, 80 bits of chance (as a ULID).

>>> from datetime import UTC, datetime
>>> one = new_id("run", datetime(2013, 4, 1, tzinfo=UTC))
>>> len(one), one[:4], time_of(one).isoformat()
(30, 'run_', '2013-04-01T00:00:00+00:00')
"""

from __future__ import annotations

import os
from datetime import datetime

from flyball.core.clock import from_us, to_us
from flyball.errors import Invalid

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as its numbers do
_VALUE = {letter: number for number, letter in enumerate(_ALPHABET)}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # 10 bits at a time: 1.1 us an id instead of 2.0


def new_id(prefix: str, at: datetime) -> str:
    """An id that sorts by ``at``: ``run_`` + 26 letters."""
    return f"{prefix}_{encode(to_us(at) // 1000)}"


def encode(milliseconds: int) -> str:
    """26 letters: the time, then fresh chance. The serving path calls this with a time it already has."""
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def time_of(identifier: str) -> datetime:
    """The time inside an id, to the millisecond."""
    body = identifier.rpartition("_")[2]
    if len(body) != 26 or any(letter not in _VALUE for letter in body):
        raise Invalid(
            f"{identifier!r} is not a Flyball id", "an id is a prefix, '_' and 26 letters or digits"
        )
    number = 0
    for letter in body[:10]:
        number = number << 5 | _VALUE[letter]
    return from_us(number * 1000)
