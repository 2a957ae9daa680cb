"""Events and lineage edges: the two things the ledger holds. State is a fold over events.

An event carries the whole record it changes, so that the fold is one line and replaying needs no other source.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened, once and for all.

    ``kind`` is past tense ("model.registered"); ``subject`` is what it is about ("delays@7"); ``actor`` is who or
    what did it ("person:ann", "governor", "run_..."). ``sets`` holds the records that are as given from now on.
    """

    id: str
    at: datetime
    kind: str
    subject: str
    actor: str
    body: dict[str, Any] = {}
    sets: tuple[Sets, ...] = ()
    edges: tuple[Edge, ...] = ()  # the lineage it added
    seq: int = 0  # the ledger's own order, given when it is stored


class Sets(msgspec.Struct, frozen=True):
    """One record of the projection: ``(noun, key)`` has this content; ``None`` takes it away."""

    noun: str
    key: str
    content: Any


class Edge(msgspec.Struct, frozen=True):
    """``made`` was made from (or by) ``of``: ``Edge("run_1", "b3:ab..", "input")``."""

    made: str
    of: str
    role: str
