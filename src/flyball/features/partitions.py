"""Which part of a job a row belongs to, by its key: the same in every process and on every machine of one version."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import polars as pl

from flyball.stores.online_chunks import Ints

_MIX = np.uint64(0x9E3779B97F4A7C15)


def part_of(keys: pl.DataFrame, parts: int) -> Ints:
    """The part of each row, from 0; keys are texts or 64-bit whole numbers (``keys_of``), and null counts as a key.

    >>> part_of(pl.DataFrame({"carrier": ["UA", "AA", "UA"]}), 4).tolist()[0::2]
    [3, 3]
    """
    mixed = np.zeros(keys.height, dtype=np.uint64)
    for name in keys.columns:
        mixed = (mixed ^ keys[name].hash(seed=20130401).to_numpy()) * _MIX
        mixed ^= mixed >> np.uint64(29)
    found: Ints = (mixed % np.uint64(parts)).astype(np.int64)
    return found


def divided(frame: pl.DataFrame, part: Ints, parts: int) -> Iterator[pl.DataFrame]:
    """The rows of each part, in the order in which they stand; a row of part -1 is in none."""
    order = np.argsort(part, kind="stable")
    begins = np.searchsorted(part[order], np.arange(parts + 1))
    for begin, end in pairwise(begins):
        yield frame[pl.Series(order[begin:end])] if end > begin else frame.clear()
