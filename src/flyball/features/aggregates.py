"""Windows, said shortly: ``mean("arr_delay", "3h")`` is the window ``arr_delay_mean_3h``.

>>> late = mean("arr_delay", "3h")
>>> late.name, late.column, late.function, late.window_s
('arr_delay_mean_3h', 'arr_delay', 'mean', 10800)
>>> count("3h").name, count("arr_delay", "7d", name="landed").name, percentile("arr_delay", 0.95, "7d").name
('count_3h', 'landed', 'arr_delay_p95_7d')

With ``hop`` a window begins at a multiple of it, so that all questions of one hop share their beginning:

>>> mean("arr_delay", "7d", hop="1h").name
'arr_delay_mean_7d_hop_1h'
"""

from __future__ import annotations

from flyball.features.definitions import Function, Window
from flyball.features.naming import seconds

Duration = str | int  # '90s', '15m', '3h', '7d', '2w', or whole seconds


def _window(
    function: Function,
    column: str | None,
    window: Duration,
    name: str | None,
    hop: Duration | None,
    *,
    shown: str | None = None,
    share: float = 0.0,
) -> Window:
    if name is None:
        parts = (column, shown or function, _said(window), hop and f"hop_{_said(hop)}")
        name = "_".join(part for part in parts if part)
    return Window(name, column, function, seconds(window), 0 if hop is None else seconds(hop), share)


def _said(duration: Duration) -> str:
    return duration.replace(" ", "") if isinstance(duration, str) else f"{duration}s"


def count(
    column_or_window: Duration,
    window: Duration | None = None,
    *,
    name: str | None = None,
    hop: Duration | None = None,
) -> Window:
    """How many rows, ``count("3h")``, or how many values that are not null, ``count("arr_delay", "3h")``."""
    if window is None:
        return _window("count", None, column_or_window, name, hop)
    return _window("count", str(column_or_window), window, name, hop)


def sum(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The sum of what is not null; null of nothing."""
    return _window("sum", column, window, name, hop)


def mean(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The mean of what is not null; null of nothing."""
    return _window("mean", column, window, name, hop)


def std(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The sample's standard deviation (n - 1); null below two values."""
    return _window("std", column, window, name, hop)


def min(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The least of what is not null; null of nothing."""
    return _window("min", column, window, name, hop)


def max(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The greatest of what is not null; null of nothing."""
    return _window("max", column, window, name, hop)


def first(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The oldest value that is not null; null of nothing."""
    return _window("first", column, window, name, hop)


def last(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The newest value that is not null; null of nothing."""
    return _window("last", column, window, name, hop)


def distinct(
    column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None
) -> Window:
    """How many different values; 0 of nothing."""
    return _window("distinct", column, window, name, hop)


def approx_distinct(
    column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None
) -> Window:
    """How many different values: exact up to 4,096 of them, beyond with a standard error of 2 %."""
    return _window("approx_distinct", column, window, name, hop)


def percentile(
    column: str, share: float, window: Duration, *, name: str | None = None, hop: Duration | None = None
) -> Window:
    """The value below which a ``share`` (0.95 for the 95th) of the values lies, interpolated; null of nothing."""
    return _window("percentile", column, window, name, hop, shown=f"p{share * 100:.10g}", share=share)


def median(column: str, window: Duration, *, name: str | None = None, hop: Duration | None = None) -> Window:
    """The middle value, or the mean of the two middle ones; null of nothing."""
    return _window("percentile", column, window, name, hop, shown="median", share=0.5)
