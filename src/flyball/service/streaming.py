"""``flyball features stream``: the rows of streams, offline and online, as they arrive. One process, all streams.

A batch is one offline file; how far the stream was read with it stands in that same file, and each view's mark in the
transaction of the rows. So whatever is killed when: what is in a file is never read from the broker again, and what
is not, is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.clock import from_us, to_us
from flyball.core.ids import new_id
from flyball.core.records import Report
from flyball.core.redaction import redacted_text
from flyball.errors import Invalid, NotFound, Unavailable, nearest
from flyball.service.feeds import Feed, Ingested
from flyball.service.supervise import Held, holds
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.features.definitions import Source
    from flyball.features.messages import Schema
    from flyball.features.streams import Message, Stream

log = logging.getLogger(__name__)

KIND = "features.streamed"
BATCH_ROWS = 10_000
WAIT_S = 0.5
_REPORT_EVERY_S = 600.0
_AGAIN_S = (0.2, 1.0, 5.0)
_AHEAD = timedelta(seconds=60)


class Streamed(msgspec.Struct):
    """What one stream has brought since its process began."""

    source: str
    messages: int = 0
    rows: int = 0
    bad: int = 0  # no rows: kept as dead letters
    set_aside: int = 0  # rows of batches that broke a contract
    duplicates: int = 0  # rows that some view had already
    late: int = 0  # rows that happened before a row that came earlier
    batches: int = 0
    newest_us: int | None = None  # when the broker had the newest message
    positions: dict[str, str] = {}


class StreamReader:
    """Takes the batches of one stream source into its feed."""

    def __init__(self, ws: Workspace, source: Source) -> None:
        self.ws = ws
        self.source = source
        self.feed = Feed(ws, source.name)
        self.done = Streamed(source.name)
        self._schema: Schema | None = None
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode

    def catch_up(self) -> None:
        """Bring online what a kill left in the files."""
        with self.feed.files.held():
            self.feed.catch_up()

    def take(self, stream: Stream, messages: Sequence[Message]) -> Ingested:
        """One batch: rows into the feed, what is no row among the dead letters, and the position with both."""
        positions = stream.positions(messages, self.feed.positions())
        rows, bad = self._rows(messages)
        taken = self.feed.ingest(
            rows, now=self.ws.clock.now(), positions=positions, durable=True, bad=_lines(bad)
        )
        self._count(messages, taken, len(bad), positions)
        with self.feed.files.held():
            self.feed.files.compact()
        return taken

    def report(self) -> None:
        """Put what was done so far into the ledger."""
        now = self.ws.clock.now()
        done = self.done
        report = Report(
            id=new_id("rep", now),
            kind=KIND,
            subject=done.source,
            at=now,
            passed=not (done.bad or done.set_aside),
            summary=f"{done.rows} rows, {done.bad} dead letters, {done.set_aside} set aside, {done.late} late, "
            f"{done.duplicates} duplicates",
            evidence=msgspec.to_builtins(done),
        )
        with self.ws.ledger.transaction() as tx:
            tx.append(KIND, done.source, actor=self.ws.actor, at=now, sets=[("report", report.id, report)])

    def _rows(self, messages: Sequence[Message]) -> tuple[pl.DataFrame, list[tuple[Message, str]]]:
        from flyball.features.messages import Schema

        if self._schema is None:
            self._schema = Schema(self.feed.views, self.feed.schema())
        good: list[Message] = []
        decoded: list[Mapping[str, Any]] = []
        bad: list[tuple[Message, str]] = []
        for one in messages:
            try:
                decoded.append(one.body if isinstance(one.body, dict) else self._decode(one.body))
                good.append(one)
            except msgspec.DecodeError as error:
                bad.append((one, str(error)))
        arrived = to_us(self.ws.clock.now())
        stamps = [one.at_us if one.at_us is not None else arrived for one in good]
        texts = any(isinstance(one.body, dict) for one in good)
        latest = to_us(self.ws.clock.now() + _AHEAD)
        rows, wrong = self._schema.frame(decoded, stamps, texts=texts, latest_us=latest)
        bad += [(good[one.place], one.reason) for one in wrong]
        return rows, bad

    def _count(
        self, messages: Sequence[Message], taken: Ingested, bad: int, positions: dict[str, str]
    ) -> None:
        done = self.done
        done.batches += 1
        done.messages += len(messages)
        done.bad += bad
        done.rows += taken.rows if taken.accepted else 0
        done.set_aside += 0 if taken.accepted else taken.rows
        done.duplicates += max((one.duplicates for one in taken.views), default=0)
        done.late += max((one.late for one in taken.views), default=0)
        done.newest_us = next(
            (one.at_us for one in reversed(messages) if one.at_us is not None), done.newest_us
        )
        done.positions = {key: value[-64:] for key, value in positions.items()}
        status = self.ws.state / "run" / f"stream-{done.source}.json"
        status.parent.mkdir(parents=True, exist_ok=True)
        staged = status.with_suffix(".part")
        staged.write_bytes(msgspec.json.encode(done))
        staged.replace(status)


def stream_sources(ws: Workspace, name: str = "") -> list[Source]:
    """The project's streams, or the one named."""
    from flyball.features.streams import is_stream
    from flyball.service.features import sources

    defined = sources(ws)
    streams = {key: one for key, one in defined.items() if is_stream(one.url)}
    if name:
        if name not in defined:
            raise NotFound(f"no source {name!r}", nearest(name, list(streams)))
        if name not in streams:
            raise Invalid(
                f"source {name!r} is {defined[name].url or 'push:'!r}, no stream",
                "kafka://, nats://, amqp:// and redis:// are",
            )
        return [streams[name]]
    return list(streams.values())


@verb("features streams", reads=True)
def streams(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show the project's streams: whether each is read now, and what its reader brought since it began."""
    found = []
    for source in stream_sources(ws):
        status = ws.state / "run" / f"stream-{source.name}.json"
        done = (
            msgspec.json.decode(status.read_bytes(), type=Streamed)
            if status.exists()
            else Streamed(source.name)
        )
        facts = msgspec.to_builtins(done)
        newest = facts.pop("newest_us")
        facts["newest"] = None if newest is None else from_us(newest)
        running = holds(status.with_suffix(".lock"))
        found.append({"source": source.name, "url": redacted_text(source.url), "running": running, **facts})
    return found


def run(ws: Workspace, name: str = "", *, idle_s: float | None = None) -> list[Streamed]:
    """Read the project's streams (or one) until cancelled, or until each was silent for ``idle_s``."""
    found = stream_sources(ws, name)
    if not found:
        raise NotFound("the project has no stream", 'Source("clicks", "kafka://localhost:9092/clicks")')
    held = [Held(ws.state / "run", f"stream-{one.name}") for one in found]
    try:
        return asyncio.run(_all(ws, found, idle_s))
    finally:
        for one in held:
            one.release()


async def _all(ws: Workspace, found: Sequence[Source], idle_s: float | None) -> list[Streamed]:
    readers = [StreamReader(ws, one) for one in found]
    for reader in readers:
        reader.catch_up()
    tasks = [asyncio.ensure_future(_read(reader, idle_s)) for reader in readers]
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(ValueError, RuntimeError):  # only the main thread has signals
            loop.add_signal_handler(number, lambda: [task.cancel() for task in tasks])
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        for reader in readers:
            if reader.done.batches:
                reader.report()
    for end in ends:
        if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
            raise end
    return [reader.done for reader in readers]


async def _read(reader: StreamReader, idle_s: float | None) -> None:
    """One stream, opened again after every failure that may pass."""
    failures = 0
    while True:
        try:
            before = reader.done.batches
            return await _read_open(reader, idle_s)
        except Unavailable as error:
            failures = 0 if reader.done.batches > before else failures + 1
            pause = _AGAIN_S[min(failures, len(_AGAIN_S) - 1)]
            if idle_s is not None and failures > 3:
                raise
            log.warning("stream %s: %s; again in %.1f s", reader.source.name, error.what, pause)
            await asyncio.sleep(pause)


async def _read_open(reader: StreamReader, idle_s: float | None) -> None:
    from flyball.features.streams import open_stream

    reader.catch_up()
    stream = await open_stream(reader.source.url, reader.feed.positions(), reader.source.name)
    reported = last = time.monotonic()
    try:
        while True:
            messages = await stream.batch(BATCH_ROWS, WAIT_S)
            if messages:
                # In this very thread: the next batch waits for this one's rows to be safe anyway.
                taken = reader.take(stream, messages)
                await stream.done(messages)
                last = time.monotonic()
                if not taken.accepted:
                    log.warning("stream %s: a batch was set aside: %s", reader.source.name, taken.because)
            elif idle_s is not None and time.monotonic() - last > idle_s:
                return
            if time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                reader.report()
    finally:
        await stream.close()


def _lines(bad: Sequence[tuple[Message, str]]) -> bytes:
    lines = []
    for message, reason in bad:
        body = (
            message.body if isinstance(message.body, dict) else message.body.decode(errors="backslashreplace")
        )
        said = {"partition": message.partition, "position": message.position, "reason": reason, "body": body}
        lines.append(json.dumps(said) + "\n")
    return "".join(lines).encode()
