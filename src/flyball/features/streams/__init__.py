"""Streams as sources of rows: Kafka, NATS JetStream, RabbitMQ and Redis streams, over FastStream's brokers.

FastStream connects and authenticates; what it wraps is asked for batches by position, which its handlers can't do. The
position of the last message taken is kept with the rows, and a stream is opened right behind it: no broker is trusted
to remember (decision 019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol

import msgspec

from flyball.errors import NotFound, nearest

# scheme -> where it is opened, and the extra that brings its client
OPENERS = {
    "kafka": ("flyball.features.streams.kafka:open_kafka", "kafka"),
    "nats": ("flyball.features.streams.nats:open_nats", "nats"),
    "amqp": ("flyball.features.streams.rabbit:open_rabbit", "rabbit"),
    "amqps": ("flyball.features.streams.rabbit:open_rabbit", "rabbit"),
    "redis": ("flyball.features.streams.redis:open_redis", "redis"),
    "rediss": ("flyball.features.streams.redis:open_redis", "redis"),
}


class Message(msgspec.Struct, frozen=True):
    """One message: where it lay, what it says, and when its broker had it (microseconds, UTC)."""

    partition: str
    position: str
    body: bytes | dict[str, str]  # JSON, or fields of texts
    at_us: int | None = None


class Stream(Protocol):
    """An open stream, read from where it was left."""

    async def batch(self, most: int, wait_s: float) -> list[Message]:
        """Up to ``most`` messages, those of a partition in order; waits ``wait_s`` for the first of them, and returns
        none after that."""
        ...

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        """What to keep so that the stream goes on behind ``taken``, given what was kept before."""
        ...

    async def done(self, taken: Sequence[Message]) -> None:
        """The rows of these are safe: a broker that must be told is told."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


async def open_stream(url: str, positions: Mapping[str, str], name: str) -> Stream:
    """Open a stream behind ``positions`` (from its start without any); ``name`` is what the broker sees of us.

    A broker that does not answer is :class:`Unavailable`, a library that lacks is named with the line that brings it.
    """
    scheme = url.partition(":")[0]
    if scheme not in OPENERS:
        raise NotFound(f"no stream speaks {scheme!r}", nearest(scheme, list(OPENERS)), scheme=scheme)
    place, extra = OPENERS[scheme]
    module, _, opener = place.partition(":")
    try:
        found = getattr(import_module(module), opener)
    except ImportError as error:
        raise NotFound(
            f"{scheme}: needs a library that is not installed: {error.name}",
            f"pip install 'flyball[{extra}]'",
            scheme=scheme,
        ) from error
    stream: Stream = await found(url, positions, name)
    return stream


def is_stream(url: str) -> bool:
    """Whether a source's URL is a stream's."""
    return url.partition(":")[0] in OPENERS


def last_of(taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
    """The last position of each partition."""
    return {**before, **{one.partition: one.position for one in taken}}
