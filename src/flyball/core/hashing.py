"""Digests: BLAKE3, written ``b3:`` and 64 hexadecimal letters.

Records are hashed over their canonical JSON (keys sorted), so that the same content has the same name everywhere.

>>> digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})
True
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

_PIECE_BYTES = 4 << 20
_canonical = msgspec.json.Encoder(order="deterministic")


def digest_bytes(data: bytes | bytearray | memoryview) -> str:
    """The digest of these bytes."""
    return "b3:" + blake3(data).hexdigest()


def digest_file(path: Path) -> str:
    """The digest of a file's bytes, in bounded memory: one GiB costs about 0.4 s.

    By reading, not by memory map: a file that is cut short while it is mapped kills its reader (SIGBUS).
    """
    whole = blake3(max_threads=blake3.AUTO)
    buffer = memoryview(bytearray(min(_PIECE_BYTES, max(path.stat().st_size, 1))))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            whole.update(buffer[:read])
    return "b3:" + whole.hexdigest()


def digest_of(content: Any) -> str:
    """The digest of a record, by its canonical JSON; anything msgspec encodes."""
    return digest_bytes(_canonical.encode(content))


def canonical(content: Any) -> bytes:
    """The bytes that :func:`digest_of` hashes."""
    return _canonical.encode(content)


def is_digest(text: str) -> bool:
    """Whether this looks like one of our digests."""
    return len(text) == 67 and text.startswith("b3:")
