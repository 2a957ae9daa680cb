"""How old are the feature values that serve? A view whose feed has stopped goes on answering with what it has."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from flyball.core.clock import aware


class Freshness(msgspec.Struct, frozen=True):
    """The newest value of one view, and whether it is as young as declared."""

    view: str
    newest: datetime | None  # None: nothing has ever come
    age_s: float | None
    limit_s: float | None  # None: nothing was declared
    fresh: bool


def freshness(
    newest: Mapping[str, datetime | None], limits_s: Mapping[str, float], now: datetime
) -> list[Freshness]:
    """Each view's age against its limit, stalest first; a view that never got a value is not fresh.

    >>> from datetime import UTC
    >>> noon = datetime(2013, 7, 16, 12, tzinfo=UTC)
    >>> [one.fresh for one in freshness({"weather": noon.replace(hour=6)}, {"weather": 3600.0}, noon)]
    [False]
    """
    found = []
    for view in {*newest, *limits_s}:
        at, limit_s = newest.get(view), limits_s.get(view)
        age_s = None if at is None else (aware(now) - aware(at)).total_seconds()
        fresh = age_s is not None and (limit_s is None or age_s <= limit_s)
        found.append(Freshness(view, at, age_s, limit_s, fresh))
    return sorted(found, key=lambda one: (one.fresh, -(one.age_s or float("inf")), one.view))
