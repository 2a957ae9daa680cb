"""What happens in the year beside the weather and the seasons: three planted troubles and a colleague with an idea."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec


class Story(msgspec.Struct, frozen=True):
    """Dates in UTC. The troubles are planted; everything that answers them is the product."""

    start: datetime = datetime(2013, 4, 1, 4, tzinfo=UTC)  # midnight in New York
    end: datetime = datetime(2014, 1, 1, 4, tzinfo=UTC)
    tick: timedelta = timedelta(hours=12)
    one_in: int = 4  # flights that are asked about
    broken_release: datetime = datetime(2013, 6, 4, 4, tzinfo=UTC)
    celsius_from: datetime = datetime(2013, 7, 8, 4, tzinfo=UTC)
    celsius_until: datetime = datetime(2013, 7, 12, 4, tzinfo=UTC)
    recent_only: datetime = datetime(2013, 11, 29, 4, tzinfo=UTC)
    recent_days: int = 92
    recent_holdout_days: int = 21


FULL_YEAR = Story()
