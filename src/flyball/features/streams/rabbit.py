"""RabbitMQ: messages acknowledged once their rows are safe. At least once, and what came again is told apart.

A queue has no positions. What was taken and perhaps not acknowledged before a kill comes again, marked as redelivered;
the digests of the last messages taken are kept with the rows, and a redelivered one among them is dropped. Beyond
these (a second consumer of the queue, a sender that repeats itself) rows equal in everything count once in every view.

``amqp://user:password@host:port[/vhost]/queue``
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aio_pika.exceptions import AMQPError
from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from flyball.errors import Invalid, Unavailable
from flyball.features.streams import Message

log = logging.getLogger(__name__)
_TAKEN = "taken"
_PREFETCH = 2000
_KEPT = 2 * _PREFETCH  # digests: all that can be on their way, and as many more


async def open_rabbit(url: str, positions: Mapping[str, str], name: str) -> Rabbit:
    """See :func:`flyball.features.streams.open_stream`."""
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    if not path[-1]:
        raise Invalid(f"{url!r} names no queue", "like amqp://guest:guest@localhost:5672/clicks")
    vhost = path[0] if len(path) > 1 else ""
    broker = RabbitBroker(
        f"{parts.scheme}://{parts.netloc}/{vhost}",
        logger=None,
        default_channel=Channel(prefetch_count=_PREFETCH),
        app_id=f"flyball-{name}",
    )
    try:
        await broker.connect()
        queue = await broker.declare_queue(RabbitQueue(path[-1], durable=True))
    except (AMQPError, OSError) as error:
        await broker.stop()
        raise Unavailable(
            f"rabbitmq at {parts.hostname} does not answer: {error}", "check its address, then try again"
        ) from error
    stream = Rabbit(broker, queue, positions)
    await stream.start()
    return stream


class Rabbit:
    """See :class:`flyball.features.streams.Stream`; a message's position is its digest."""

    def __init__(self, broker: RabbitBroker, queue: Any, positions: Mapping[str, str]) -> None:
        self._broker = broker
        self._queue = queue
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._open: list[Any] = []  # taken, to be acknowledged
        kept = positions.get(_TAKEN, "")
        self._taken = dict.fromkeys(kept.split(",")) if kept else {}

    async def start(self) -> None:
        """Let messages come."""
        await self._queue.consume(self._arrived.put, no_ack=False)

    async def batch(self, most: int, wait_s: float) -> list[Message]:
        messages: list[Message] = []
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while len(messages) < min(most, _PREFETCH):
            try:
                one = self._arrived.get_nowait()
            except asyncio.QueueEmpty:
                left = until - loop.time()
                if left <= 0 or (messages and self._arrived.empty() and left < wait_s / 2):
                    break
                try:
                    one = await asyncio.wait_for(self._arrived.get(), min(left, wait_s / 2))
                except TimeoutError:
                    continue
            self._open.append(one)
            digest = _digest(one)
            if one.redelivered and digest in self._taken:
                continue
            stamp = getattr(one, "timestamp", None)
            messages.append(
                Message(_TAKEN, digest, one.body, int(stamp.timestamp() * 1e6) if stamp else None)
            )
        if not messages:
            await self.done(())
        return messages

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        for one in taken:
            self._taken.pop(one.position, None)
            self._taken[one.position] = None
        for old in list(self._taken)[: max(0, len(self._taken) - _KEPT)]:
            del self._taken[old]
        return {_TAKEN: ",".join(self._taken)}

    async def done(self, taken: Sequence[Message]) -> None:
        if self._open:
            last, self._open = self._open[-1], []
            try:
                await last.ack(multiple=True)  # in order of delivery: all before it, too
            except (
                AMQPError,
                OSError,
            ) as error:  # the connection is another one now: they come again, and are known
                log.warning("rabbitmq: %d messages could not be acknowledged: %s", len(taken), error)

    async def close(self) -> None:
        await self._broker.stop()


def _digest(message: Any) -> str:
    said = msgspec.msgpack.encode((message.message_id, message.body))
    return blake2b(said, digest_size=8).hexdigest()
