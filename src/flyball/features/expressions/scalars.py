"""What one value goes through, in plain Python: what the functions of ``rows`` call. No engine here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from hashlib import md5
from typing import Any
from zoneinfo import ZoneInfo

from flyball.errors import Invalid
from flyball.features.expressions.meaning import FIRST_US, LARGEST, LAST_US, NUMBER, TIME, WHOLE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
try:
    _UTC: Any = ZoneInfo("UTC")  # what Polars gives
except LookupError:  # no database of time zones: nothing has that zone
    _UTC = UTC
_DAY_US = 86_400_000_000
_QUARTER_US = 900_000_000
_NUMBER, _TIME = re.compile(NUMBER), re.compile(TIME)
_MANY = 4096  # quarters of an hour whose offset is kept


def as_number(value: Any, name: str) -> float | None:
    """A value that came in, as float64; NaN, infinities and what is beyond 1e150 are null."""
    if isinstance(value, str | bytes | datetime | date):
        raise _wrong(value, name, "a number")
    try:
        number = float(value)
    except OverflowError:
        return None
    except (TypeError, ValueError):
        raise _wrong(value, name, "a number") from None
    return number if -LARGEST <= number <= LARGEST else None


def as_bool(value: Any, name: str) -> bool | None:
    """Of a number: whether it is not 0."""
    if isinstance(value, bool):
        return value
    number = as_number(value, name)
    return None if number is None else number != 0.0


def as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return str(value)
    raise _wrong(value, name, "a text")


def as_time(value: Any, name: str) -> int | None:
    """Microseconds since 1970, UTC, of a time (UTC without a zone), a date (its midnight), or microseconds."""
    if isinstance(value, datetime):
        zone = value.tzinfo
        if (
            zone is None or zone is UTC or zone is _UTC
        ):  # a subtraction asks zoneinfo's zones in Python: 1 us more
            seconds = (
                (value.toordinal() - 719163) * 86400 + value.hour * 3600 + value.minute * 60 + value.second
            )
            found = seconds * 1_000_000 + value.microsecond
        else:
            found = (value - _EPOCH) // _MICROSECOND
    elif isinstance(value, date):
        found = (value.toordinal() - 719163) * _DAY_US
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    else:
        raise _wrong(value, name, "a time")
    return found if FIRST_US <= found <= LAST_US else None


def as_datetime(us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=us)


def power(base: float, exponent: float) -> float:
    """NaN where there is no power, as where it is too large."""
    try:
        return math.pow(base, exponent)
    except (ValueError, OverflowError):
        return math.nan


def number_of(text: str) -> float:
    """The number a text spells; NaN of anything else."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def text_of(number: float) -> str | None:
    """A whole number's digits; of a fraction nothing, since no two engines spell those alike."""
    return str(int(number)) if -WHOLE < number < WHOLE and number.is_integer() else None


def bucket(text: str, buckets: int) -> float:
    return float(int.from_bytes(md5(text.encode(), usedforsecurity=False).digest()[8:], "little") % buckets)


@cache
def case_table(to: str) -> dict[str, str]:
    """Letters beyond ASCII whose lower (upper) case is one letter: scripts whose pairs no newer Unicode has touched."""
    letters = [chr(code) for first, last in ((0x80, 0x590), (0x1E00, 0x2000)) for code in range(first, last)]
    pairs = {letter: letter.lower() if to == "lower" else letter.upper() for letter in letters}
    return {letter: other for letter, other in pairs.items() if len(other) == 1 and other != letter}


_LOWER = str.maketrans({**case_table("lower"), **{chr(c): chr(c + 32) for c in range(65, 91)}})
_UPPER = str.maketrans({**case_table("upper"), **{chr(c): chr(c - 32) for c in range(97, 123)}})


def lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_LOWER)


def upper(text: str) -> str:
    return text.upper() if text.isascii() else text.translate(_UPPER)


@cache
def local_time(name: str) -> Callable[[int], int]:
    """Microseconds of UTC to those that a clock of this zone shows.

    The offset is looked up per quarter of an hour and kept; a quarter within which it changes is not.
    """
    zone = ZoneInfo(name)
    kept: dict[int, int] = {}

    def offset(us: int) -> int:
        found = as_datetime(us).astimezone(zone).utcoffset()
        assert found is not None
        return found // _MICROSECOND

    def local(us: int) -> int:
        quarter = us // _QUARTER_US
        found = kept.get(quarter)
        if found is None:
            found = offset(us)
            begin = max(quarter * _QUARTER_US, FIRST_US)
            if offset(begin) == offset(min(begin + _QUARTER_US - 1, LAST_US)):
                if len(kept) >= _MANY:
                    kept.clear()
                kept[quarter] = found
        return us + found

    return local


def day_of(us: int) -> date:
    return date.fromordinal(us // _DAY_US + 719163)


def day_of_year(us: int) -> float:
    day = day_of(us)
    return float(day.toordinal() - date(day.year, 1, 1).toordinal() + 1)


def time_of(text: str) -> int | None:
    """The time a text spells, in microseconds; ``None`` of anything else."""
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    day, hour, minute, second, fraction, _, sign, zone_hour, zone_minute = found.groups()
    try:
        us = (date.fromisoformat(day).toordinal() - 719163) * _DAY_US
    except ValueError:
        return None
    seconds = int(hour or 0) * 3600 + int(minute or 0) * 60 + int(second or 0)
    if sign:
        ahead = int(zone_hour) * 3600 + int(zone_minute) * 60
        seconds += ahead if sign == "-" else -ahead
    us += seconds * 1_000_000 + int((fraction or "").ljust(6, "0"))
    return us if FIRST_US <= us <= LAST_US else None


def _wrong(value: Any, name: str, wanted: str) -> Invalid:
    shown = repr(value)
    return Invalid(
        f"{name!r} is {shown if len(shown) < 80 else shown[:77] + '...'}, where an expression takes {wanted}",
        "see the types of the view or the request",
        column=name,
    )
