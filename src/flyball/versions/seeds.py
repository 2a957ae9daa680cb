"""What makes chance repeat: seeds that were set, parameters named like one, and the states generators began in."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping
from typing import Any

from flyball.core.hashing import digest_bytes

NAMED = ("seed", "random_state", "random_seed", "rng_seed")
_set: dict[str, int] = {}


def seed(value: int) -> int:
    """Seed ``random``, and NumPy and PyTorch where they are loaded; every run from here on says so.

    >>> seed(0), random.random()
    (0, 0.8444218515250481)
    """
    random.seed(value)
    _set["random"] = value
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(value % 2**32)
        _set["numpy"] = value % 2**32
    if torch := sys.modules.get("torch"):
        torch.manual_seed(value)
        _set["torch"] = value
    return value


def capture(params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Seeds by name. A generator that nobody seeded here is told by the digest of its state, which another process
    that was seeded alike would have, too; about 0.1 ms."""
    found: dict[str, Any] = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "random")}
    for name, value in (params or {}).items():
        if name.rpartition(".")[2].lower() in NAMED and isinstance(value, int | str | None):
            found[f"param {name}"] = value
    found |= _set
    found["random state"] = _short(repr(random.getstate()).encode())
    if "numpy.random" in sys.modules:
        state = sys.modules["numpy.random"].get_state()
        found["numpy state"] = _short(state[1].tobytes() + repr(state[2:]).encode())
    if torch := sys.modules.get("torch"):
        found.setdefault("torch", torch.initial_seed())
    return found


def _short(data: bytes) -> str:
    return digest_bytes(data)[:19]
