"""The year in event time, through the real HTTP data plane: feeds come in, flights are asked about, labels arrive.

The worker's clock is the request's (``serve.clock = "request"``). Feeds are pushed a tick ahead of the requests; a read
as of t hides whatever was not known by t, so this changes no answer (``flyball skew`` proves it at the end).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import polars as pl

from flyball.core.clock import ManualClock
from flyball.demo.flights import Feedable, Year, in_celsius, request_of
from flyball.demo.story import Story
from flyball.errors import FlyballError, Internal
from flyball.serve.client import Client
from flyball.service import Workspace
from flyball.service.feeds import Feed


class Replay:
    """Everything the outside world does to the workspace; it decides nothing."""

    def __init__(self, ws: Workspace, clock: ManualClock, year: Year, story: Story, client: Client) -> None:
        self.ws = ws
        self.clock = clock
        self.year = year
        self.story = story
        self.client = client
        self.landings = Feed(ws, "landings")
        self.weather = Feed(ws, "weather")
        self.planes = Feed(ws, "planes")
        self._landed = Feedable(year.landings, "landed_at")
        self._measured = Feedable(year.weather, "known")
        self.connections = 16
        self.predictions = 0
        self.failed: list[str] = []
        self.last_id = ""
        self._waiting: list[tuple[datetime, str, float]] = []  # labels to come: known at, prediction, value

    def past(self, until: datetime) -> None:
        """All that was known before the replay begins."""
        year = self.year
        for feed, rows in (
            (self.planes, year.planes),
            (self.landings, self._landed.between(None, until)),
            (self.weather, self._measured.between(None, until)),
        ):
            taken = feed.ingest(rows, now=until)
            if not taken.accepted:
                raise Internal(
                    f"the past of {taken.source} broke its contract: {taken.because}", "see checks.py"
                )

    def run(self, before: Callable[[datetime], None], after: Callable[[datetime], None]) -> None:
        """Tick by tick: ``before`` is the story's turn, ``after`` the governor's."""
        now = self.story.start
        asked = self.year.asked(self.story.start, self.story.end, self.story.one_in)
        while now < self.story.end:
            until = min(now + self.story.tick, self.story.end)
            before(now)
            self._feeds(now, until)
            self._ask(asked.filter(pl.col("asked_at").is_between(now, until, closed="left")))
            self.clock.set(until)
            self._label(until)
            after(until)
            now = until

    def backfill_weather(self, since: datetime, until: datetime) -> None:
        """The provider sends the right readings for the days it had sent in Celsius."""
        rows = self._measured.between(since, until)
        self.weather.backfill(rows, "known", now=until)

    def _feeds(self, now: datetime, until: datetime) -> None:
        self.landings.ingest(self._landed.between(now, until), now=until)
        rows = self._measured.between(now, until)
        if self.story.celsius_from <= now < self.story.celsius_until:
            rows = in_celsius(rows)
        self.weather.ingest(rows, now=until)

    def _ask(self, flights: pl.DataFrame) -> None:
        rows = flights.to_dicts()
        if not rows:
            return
        while (
            rows
        ):  # an error ends a batch at the request it belongs to; the others are asked again behind it
            answers = self.client.predict_many(
                [request_of(row) for row in rows], connections=self.connections
            )
            answered = 0
            try:
                for answer in answers:
                    self._answered(rows[answered], answer)
                    answered += 1
            except FlyballError as error:
                self.failed.append(error.what)
                answered += 1
            rows = rows[answered:]

    def _answered(self, row: dict[str, Any], answer: dict[str, Any]) -> None:
        self.predictions += 1
        self.last_id = answer["id"]
        if row["landed_at"] is not None:
            self._waiting.append((row["landed_at"], answer["id"], float(row["late"])))

    def _label(self, until: datetime) -> None:
        due = [one for one in self._waiting if one[0] <= until]
        if due:
            self._waiting = [one for one in self._waiting if one[0] > until]
            self.client.feedback([{"id": i, "value": value, "known": known} for known, i, value in due])
