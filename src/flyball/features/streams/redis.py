"""Redis streams: entries behind the id of the last one taken. Exactly once, while Redis itself keeps them.

``redis://host:port[/database]/stream``. An entry is the fields of a row, or one field (``data``, ``json``, ``value``,
``body``) that holds it as JSON, or what FastStream publishes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from faststream.redis import RedisBroker
from faststream.redis.parser import BinaryMessageFormatV1
from redis.exceptions import RedisError

from flyball.errors import Invalid, Unavailable
from flyball.features.streams import Message, last_of

_WHOLE = "0"
_BODIES = (b"data", b"json", b"value", b"body")
_WRAPPED = b"__data__"


async def open_redis(url: str, positions: Mapping[str, str], name: str) -> RedisStream:
    """See :func:`flyball.features.streams.open_stream`."""
    parts = urlsplit(url)
    path = parts.path.strip("/").split("/")
    if not path[-1]:
        raise Invalid(f"{url!r} names no stream", "like redis://localhost:6379/clicks")
    database = f"/{path[0]}" if len(path) > 1 else ""
    broker = RedisBroker(
        f"{parts.scheme}://{parts.netloc}{database}",
        logger=None,  # type: ignore[arg-type]  # None is what turns its log off
        client_name=f"flyball-{name}",
    )
    try:
        client = await broker.connect()
        await client.ping()
    except (RedisError, OSError) as error:
        await broker.stop()
        raise Unavailable(
            f"redis at {parts.hostname} does not answer: {error}", "check its address, then try again"
        ) from error
    return RedisStream(broker, client, path[-1], positions.get(_WHOLE, "0-0"))


class RedisStream:
    """See :class:`flyball.features.streams.Stream`; the position is an entry's id, whose first part is its time."""

    def __init__(self, broker: RedisBroker, client: Any, name: str, after: str) -> None:
        self._broker = broker
        self._client = client
        self._name = name
        self._after = after

    async def batch(self, most: int, wait_s: float) -> list[Message]:
        try:
            found = await self._client.xread(
                {self._name: self._after}, count=most, block=max(1, round(wait_s * 1000))
            )
        except (RedisError, OSError) as error:
            raise Unavailable(f"redis stream {self._name!r} does not answer: {error}", "try again") from error
        answers = found.items() if isinstance(found, dict) else found or ()
        messages = [_message(one) for _, entries in answers for one in _flat(entries)]
        if messages:
            self._after = messages[-1].position
        return messages

    def positions(self, taken: Sequence[Message], before: Mapping[str, str]) -> dict[str, str]:
        return last_of(taken, before)

    async def done(self, taken: Sequence[Message]) -> None:
        """Nothing: the id is ours to keep."""

    async def close(self) -> None:
        await self._broker.stop()


def _flat(entries: Any) -> Any:
    return (
        entries[0] if entries and isinstance(entries[0], list) else entries
    )  # the newer protocol nests them


def _message(entry: Any) -> Message:
    identity, fields = entry
    identity = identity.decode() if isinstance(identity, bytes) else str(identity)
    return Message(_WHOLE, identity, _body(fields), int(identity.partition("-")[0]) * 1000)


def _body(fields: Mapping[bytes, bytes]) -> bytes | dict[str, str]:
    if _WRAPPED in fields:
        body, _ = BinaryMessageFormatV1.parse(fields[_WRAPPED])
        return bytes(body)
    if len(fields) == 1:
        ((name, value),) = fields.items()
        if name in _BODIES and value.lstrip()[:1] == b"{":
            return value
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}
