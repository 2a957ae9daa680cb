"""Kafka: every partition of a topic, assigned at the offset behind the last one taken. Exactly once.

``kafka://host:port[,host:port]/topic``; ``?security.protocol=SASL_SSL&sasl.username=…`` are librdkafka's own settings.
The group's offsets are committed too, afterwards, for the eyes of lag monitors; they are never read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from confluent_kafka import KafkaException
from faststream import AckPolicy
from faststream.confluent import KafkaBroker, TopicPartition

from flyball.errors import Invalid, NotFound, Unavailable
from flyball.features.streams import Message, last_of

log = logging.getLogger(__name__)
_BEGINNING = -2
_LOOK_EVERY_S = 30.0  # for new partitions
_ANSWER_S = 10.0


async def open_kafka(url: str, positions: Mapping[str, str], name: str) -> Kafka:
    """See :func:`flyball.features.streams.open_stream`."""
    parts = urlsplit(url)
    topic = parts.path.strip("/")
    if not parts.netloc or not topic or "/" in topic:
        raise Invalid(f"{url!r} names no topic", "like kafka://localhost:9092/clicks")
    settings: dict[str, Any] = dict(parse_qsl(parts.query))
    stream = Kafka(parts.netloc, topic, f"flyball-{name}", settings)
    try:
        await stream.start(positions)
    except KafkaException as error:
        await stream.close()
        raise Unavailable(
            f"kafka at {parts.netloc} does not answer: {error.args[0]}", "check its address, then try again"
        ) from error
    except BaseException:
        await stream.close()
        raise
    return stream


class Kafka:
    """See :class:`flyball.features.streams.Stream`; the partition is Kafka's number, the position its offset."""

    def __init__(self, servers: str, topic: str, group: str, settings: dict[str, Any]) -> None:
        self.topic = topic
        self._group = group
        self._broker = KafkaBroker(
            servers,
            logger=None,
            config=settings or None,  # type: ignore[arg-type]  # librdkafka's settings, by their own names
            allow_auto_create_topics=False,
        )
        self._subscriber: Any = None
        self._known: set[int] = set()
        self._looked_s = 0.0
        self._next: dict[str, int] = {}

    async def start(self, positions: Mapping[str, str]) -> None:
        """Connect, and read on from the positions."""
        await self._broker.connect()
        self._known = await self._partitions()
        self._next = {partition: int(offset) + 1 for partition, offset in positions.items()}
        places = [
            TopicPartition(self.topic, number, offset=self._next.get(str(number), _BEGINNING), declare=False)
            for number in sorted(self._known)
        ]
        self._subscriber = self._broker.subscriber(
            partitions=places,
            group_id=self._group,
            auto_offset_reset="earliest",  # only when what was left off at is gone
            ack_policy=AckPolicy.MANUAL,
        )
        await self._subscriber.start()

    async def batch(self, most: int, wait_s: float) -> list[Message]:
        await self._look()
        found = await self._subscriber.consumer.getmany(timeout=wait_s, max_records=most)
        messages = []
        for one in found:
            partition, offset = str(one.partition()), one.offset()
            expected = self._next.get(partition)
            if expected is not None and offset > expected:
                log.warning(
                    "%s/%s: offsets %d to %d are gone", self.topic, partition, expected, offset - 1
                )  # retention was shorter than our absence, or they never were rows (transactions, compaction)
            if expected is not None and offset < expected:
                continue
            self._next[partition] = offset + 1
            kind, at_ms = one.timestamp()
            messages.append(
                Message(partition, str(offset), one.value() or b"", at_ms * 1000 if kind else None)
            )
        return messages

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        return last_of(taken, before)

    async def done(self, taken: Sequence[Message]) -> None:
        if taken:
            await self._subscriber.consumer.commit(asynchronous=True)

    async def close(self) -> None:
        if self._subscriber is not None:
            await self._subscriber.stop()
        await self._broker.stop()

    async def _partitions(self) -> set[int]:
        client = self._broker.config.broker_config.admin.client
        found = await asyncio.to_thread(client.list_topics, self.topic, timeout=_ANSWER_S)
        topic = found.topics.get(self.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            raise NotFound(f"kafka has no topic {self.topic!r}", "create it, or check the source's url")
        return set(topic.partitions)

    async def _look(self) -> None:
        """Take partitions that were added since, from their beginning."""
        if time.monotonic() - self._looked_s < _LOOK_EVERY_S:
            return
        first, self._looked_s = self._looked_s == 0.0, time.monotonic()
        if first:
            return
        try:
            present = await self._partitions()
        except (KafkaException, NotFound) as error:
            log.warning("kafka did not tell its partitions: %s", error)
            return
        if present > self._known:
            await self._subscriber.stop()
            await self.start({partition: str(offset - 1) for partition, offset in self._next.items()})
