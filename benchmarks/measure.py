"""Two things measured in turns, so that what the machine does meanwhile hits both; and the table of what came out."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Row(msgspec.Struct, frozen=True):
    """One line of a table. ``ratios`` holds ours / beside of each pair of neighbours."""

    what: str
    unit: str
    ours: float
    beside: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)


def in_turns(ours: Callable[[], T], beside: Callable[[], T], repeats: int) -> list[tuple[T, T]]:
    """Pairs of measurements: ours first, then the other first, and so on."""
    pairs: list[tuple[T, T]] = []
    for turn in range(repeats):
        if turn % 2 == 0:
            mine = ours()
            pairs.append((mine, beside()))
        else:
            other = beside()
            pairs.append((ours(), other))
    return pairs


def compare(what: str, unit: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """Medians of both sides, and the ratio of each pair."""
    ours, beside = zip(*pairs, strict=True)
    ratios = tuple(mine / other for mine, other in pairs)
    return Row(what, unit, statistics.median(ours), statistics.median(beside), ratios)


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for one call, all its threads together; the garbage collector waits."""
    gc.collect()
    gc.disable()
    try:
        started = time.process_time()
        work()
        return time.process_time() - started
    finally:
        gc.enable()


def wall_s(work: Callable[[], Any]) -> float:
    """Seconds on the wall for one call; the garbage collector waits."""
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    finally:
        gc.enable()


def timed(
    what: str,
    ours: Callable[[], Any],
    beside: Callable[[], Any],
    *,
    repeats: int,
    unit: str,
    per_s: float,
    clock: Callable[[Callable[[], Any]], float] = wall_s,
) -> Row:
    """Both called in turns after one unmeasured call each; ``per_s`` is how many units a second of them is."""
    ours()
    beside()
    pairs = in_turns(lambda: clock(ours) * per_s, lambda: clock(beside) * per_s, repeats)
    return compare(what, unit, pairs)


def show(name: str, rows: Sequence[Row], *, took_s: float) -> None:
    """Print one table: what, ours, beside, their ratio, and between which ratios the repeats lay."""
    lines = [("what", "unit", "ours", "beside", "ratio", "range")]
    for row in rows:
        spread = f"{min(row.ratios):.2f}-{max(row.ratios):.2f}" if len(row.ratios) > 1 else ""
        lines.append((row.what, row.unit, _short(row.ours), _short(row.beside), f"{row.ratio:.2f}", spread))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    print(f"{name} ({took_s:.0f} s)")
    for line in lines:
        texts = [text.ljust(width) for text, width in zip(line[:2], widths[:2], strict=True)]
        numbers = [text.rjust(width) for text, width in zip(line[2:], widths[2:], strict=True)]
        print("  " + "  ".join(texts + numbers).rstrip())
    print(flush=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
