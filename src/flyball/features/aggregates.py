"""Windows, said shortly: ``mean("arr_delay", "3h")`` is the window ``arr_delay_mean_3h``.

>>> mean("arr_delay", "3h")
Window(name='arr_delay_mean_3h', column='arr_delay', function='mean', window_s=10800)
>>> count("3h").name, count("arr_delay", "7d", name="landed").name
('count_3h', 'landed')
"""

from __future__ import annotations

from flyball.features.definitions import Function, Window, seconds


def _window(function: Function, column: str | None, window: str | int, name: str | None) -> Window:
    shown = window.replace(" ", "") if isinstance(window, str) else f"{window}s"
    default = f"{column}_{function}_{shown}" if column else f"{function}_{shown}"
    return Window(name or default, column, function, seconds(window))


def count(column_or_window: str | int, window: str | int | None = None, *, name: str | None = None) -> Window:
    """How many rows, ``count("3h")``, or how many values that are not null, ``count("arr_delay", "3h")``."""
    if window is None:
        return _window("count", None, column_or_window, name)
    return _window("count", str(column_or_window), window, name)


def sum(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The sum of what is not null; null of nothing."""
    return _window("sum", column, window, name)


def mean(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The mean of what is not null; null of nothing."""
    return _window("mean", column, window, name)


def std(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The sample's standard deviation (n - 1); null below two values."""
    return _window("std", column, window, name)


def min(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The least of what is not null; null of nothing."""
    return _window("min", column, window, name)


def max(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The greatest of what is not null; null of nothing."""
    return _window("max", column, window, name)


def last(column: str, window: str | int, *, name: str | None = None) -> Window:
    """The newest value that is not null; null of nothing."""
    return _window("last", column, window, name)
