"""NATS JetStream: a consumer of our own that starts behind the last sequence taken. Exactly once.

``nats://[user:password@]host:port/subject``; the stream is the one that keeps the subject, or ``?stream=NAME``. Streams
that drop a message once it is acknowledged (work queues) are refused: they can't be read again from a position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from faststream.nats import NatsBroker
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy
from nats.js.errors import Error as JetStreamError
from nats.js.errors import NotFoundError

from flyball.core.clock import to_us
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features.streams import Message, last_of

_WHOLE = "0"  # a stream has one sequence


async def open_nats(url: str, positions: Mapping[str, str], name: str) -> Nats:
    """See :func:`flyball.features.streams.open_stream`."""
    parts = urlsplit(url)
    subject = parts.path.strip("/")
    if not parts.netloc or not subject:
        raise Invalid(f"{url!r} names no subject", "like nats://localhost:4222/clicks")
    broker = NatsBroker(
        f"nats://{parts.netloc}", logger=None, name=f"flyball-{name}", allow_reconnect=True, max_reconnect_attempts=-1
    )  # fmt: skip
    try:
        await broker.connect()
        stream = Nats(broker, subject, dict(parse_qsl(parts.query)).get("stream", ""))
        await stream.start(positions)
    except NotFoundError as error:
        await broker.stop()
        raise NotFound(
            f"no JetStream stream keeps {subject!r}", f"nats stream add --subjects {subject}"
        ) from error
    except (OSError, NatsError) as error:
        await broker.stop()
        raise Unavailable(
            f"nats at {parts.hostname} does not answer: {error!r}", "check its address, then try again"
        ) from error
    return stream


class Nats:
    """See :class:`flyball.features.streams.Stream`; the position is the stream's sequence."""

    def __init__(self, broker: NatsBroker, subject: str, stream: str) -> None:
        self._broker = broker
        self._subject = subject
        self._stream = stream
        self._after = 0
        self._pulled: Any = None

    async def start(self, positions: Mapping[str, str]) -> None:
        """Read on from the position."""
        self._after = int(positions.get(_WHOLE, 0))
        context: Any = self._broker.config.broker_config.connection_state.stream
        self._stream = self._stream or await context.find_stream_name_by_subject(self._subject)
        kept = (await context.stream_info(self._stream)).config.retention
        if kept not in (None, RetentionPolicy.LIMITS):
            raise Invalid(
                f"stream {self._stream!r} drops what was acknowledged ({kept})",
                "let it keep messages by limits: nats stream edit --retention limits",
            )
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._after + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=300.0,
        )
        self._pulled = await context.pull_subscribe(self._subject, stream=self._stream, config=config)

    async def batch(self, most: int, wait_s: float) -> list[Message]:
        try:
            found = await self._pulled.fetch(batch=most, timeout=wait_s)
        except NatsTimeoutError:
            return []
        except (NatsError, JetStreamError, OSError):  # the server went, and forgot its consumer
            await self.start({_WHOLE: str(self._after)})
            return []
        messages = []
        for one in found:
            sequence = one.metadata.sequence.stream
            if sequence > self._after:
                self._after = sequence
                messages.append(Message(_WHOLE, str(sequence), one.data, to_us(one.metadata.timestamp)))
        return messages

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        return last_of(taken, before)

    async def done(self, taken: Sequence[Message]) -> None:
        """Nothing: the sequence is ours to keep."""

    async def close(self) -> None:
        if self._pulled is not None:
            with suppress(NatsError, OSError):  # else the broker waits half a minute for messages to come
                await self._pulled.unsubscribe()
        await self._broker.stop()
