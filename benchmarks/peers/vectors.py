"""Online features without Flyball: ready-made values in LMDB, one get and one unpack per view.

What it leaves out is the point: no windows as of the time of the request, no checks, no source times.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgspec


class ViewPlaces(msgspec.Struct, frozen=True):
    """One view: its key columns, and where its values stand in the vector."""

    name: str
    entity: tuple[str, ...]
    slots: tuple[int, ...]


def write(
    folder: Path,
    views: Sequence[ViewPlaces],
    rows: Iterable[tuple[Mapping[str, Any], Sequence[float | None]]],
) -> None:
    """Keep each vector's parts under their keys; null is NaN."""
    with lmdb.open(str(folder), map_size=1 << 28, sync=False) as env, env.begin(write=True) as txn:
        for entities, vector in rows:
            for view in views:
                found = [vector[slot] for slot in view.slots]
                values = [float("nan") if value is None else float(value) for value in found]
                txn.put(_key(view, entities), struct.pack(f"<{len(values)}d", *values))


class Vectors:
    """Reads what :func:`write` kept."""

    def __init__(self, folder: Path, views: Sequence[ViewPlaces]) -> None:
        self._env = lmdb.open(str(folder), readonly=True, readahead=False, max_spare_txns=8)
        self._views = [(view, struct.Struct(f"<{len(view.slots)}d").unpack) for view in views]

    def read(self, entities: Mapping[str, Any], into: list[Any]) -> None:
        """Put the values of every view into their slots."""
        with self._env.begin(buffers=True) as txn:
            for view, unpack in self._views:
                found = txn.get(_key(view, entities))
                if found is not None:
                    for slot, value in zip(view.slots, unpack(found), strict=True):
                        into[slot] = value

    def close(self) -> None:
        self._env.close()


def _key(view: ViewPlaces, entities: Mapping[str, Any]) -> bytes:
    return "\0".join([view.name, *[str(entities[name]) for name in view.entity]]).encode()
