"""The course of a metric as people see it: a line of blocks in a terminal, an SVG in a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any
from xml.sax.saxutils import escape

import msgspec

from flyball.stores.points import Series, sampled

_BLOCKS = "▁▂▃▄▅▆▇█"
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280", "#4a5568")


class Curve(msgspec.Struct, frozen=True):
    """One metric of one run: thinned points, and what it came to."""

    run: str
    metric: str
    points: int  # of the whole history
    last: float
    least: float | None  # of the finite values
    greatest: float | None
    steps: list[int]
    times_us: list[int]
    values: list[float]


class Curves:
    """Curves to be looked at; as JSON they are the list of them."""

    def __init__(self, result: list[Curve], svg: bool = False) -> None:
        self.result = result
        self.svg = svg

    def as_text(self) -> str:
        """A line a curve: what it is, its course, from where to where; or the SVG."""
        if self.svg:
            return drawing({f"{one.metric} {one.run}": one for one in self.result})
        width = max((len(one.metric) for one in self.result), default=0)
        return "\n".join(
            f"{one.metric:<{width}}  {sparkline(one.values)}  {_short(one.values[0])} → {_short(one.last)}"
            f"  ({one.points:,} points, {_short(one.least)} to {_short(one.greatest)})"
            for one in self.result
        )


def curve(run: str, metric: str, history: Series, points: int) -> Curve:
    """A history, thinned to at most so many points."""
    finite = [value for value in (history.values.min(), history.values.max()) if math.isfinite(value)]
    if len(finite) < 2:
        import numpy as np

        known = history.values[np.isfinite(history.values)]
        finite = [known.min(), known.max()] if len(known) else []
    thin = sampled(history, points)
    return Curve(
        run,
        metric,
        len(history),
        float(history.values[-1]),
        float(finite[0]) if finite else None,
        float(finite[1]) if finite else None,
        thin.steps.tolist(),
        thin.times_us.tolist(),
        thin.values.tolist(),
    )


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A course as a line of blocks; where it is not a number, a cross.

    >>> sparkline([0.0, 1.0, 2.0, float("nan"), 7.0])
    '▁▂▃×█'
    """
    if len(values) > width:
        bounds = [round(place * len(values) / width) for place in range(width + 1)]
        values = [_middle(values[start:end]) for start, end in pairwise(bounds)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    span = (high - low) or 1.0
    return "".join(
        _BLOCKS[round((value - low) / span * 7)]
        if math.isfinite(value)
        else "×"
        if math.isnan(value)
        else _BLOCKS[7 if value > 0 else 0]
        for value in values
    )


def _middle(part: Sequence[float]) -> float:
    known = [value for value in part if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def drawing(curves: Mapping[str, Curve], width: int = 720, height: int = 320) -> str:
    """Curves as one SVG that stands alone: axes from least to greatest, a line each, gaps where it is not a number."""
    inside = [one for one in curves.values() if one.values]
    steps = [step for one in inside for step in one.steps]
    values = [value for one in inside for value in one.values if math.isfinite(value)]
    left, right, top, bottom = 64, width - 12, 12, height - 28
    from_x, to_x = (min(steps), max(steps)) if steps else (0, 1)
    from_y, to_y = (min(values), max(values)) if values else (0.0, 1.0)
    across, up = (to_x - from_x) or 1, (to_y - from_y) or 1.0

    def place(step: int, value: float) -> str:
        x = left + (step - from_x) / across * (right - left)
        y = bottom - (value - from_y) / up * (bottom - top)
        return f"{x:.1f},{y:.1f}"

    lines: list[str] = []
    for number, (label, one) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        for part in _unbroken(one):
            path = " ".join(place(step, value) for step, value in part)
            kind = f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{path}"/>'
            if len(part) == 1:
                x, _, y = path.partition(",")
                kind = f'<circle cx="{x}" cy="{y}" r="2" fill="{colour}"/>'
            lines.append(kind)
        lines.append(
            f'<text x="{left + 6}" y="{top + 14 * (number + 1)}" fill="{colour}">{escape(label)}</text>'
        )
    axis = f'<path d="M{left} {top}V{bottom}H{right}" fill="none" stroke="#8888"/>'
    marks = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="currentColor">{text}</text>'
        for x, y, anchor, text in (
            (left - 6, top + 8, "end", _short(to_y)),
            (left - 6, bottom, "end", _short(from_y)),
            (left, height - 8, "start", from_x),
            (right, height - 8, "end", to_x),
        )
    )
    title = escape(", ".join(curves))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui,sans-serif" font-size="11"><title>{title}</title>'
        f"{axis}{marks}{''.join(lines)}</svg>"
    )


def _unbroken(one: Curve) -> list[list[tuple[int, float]]]:
    parts: list[list[tuple[int, float]]] = [[]]
    for step, value in zip(one.steps, one.values, strict=True):
        if math.isfinite(value):
            parts[-1].append((step, value))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}"
