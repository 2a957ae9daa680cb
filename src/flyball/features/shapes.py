"""Vectors in the shapes that people and libraries take: dictionaries, NumPy, Polars, Arrow, pandas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from flyball.core.clock import from_us
from flyball.errors import NotFound, nearest
from flyball.features.reading import STATUS_NAMES
from flyball.stores.online_chunks import NEVER, Floats, Ints

if TYPE_CHECKING:
    import polars as pl

_POLARS = {"INT64": "Int64", "INT32": "Int32", "BOOL": "Boolean", "BYTES": "String", "FP32": "Float32"}
_NUMBERS = ("FP64", "FP32")
_NAMES = np.array(STATUS_NAMES, dtype=object)


class Shaped:
    """What :class:`flyball.features.vectors.Vectors` can be turned into."""

    names: tuple[str, ...]
    types: Mapping[str, str]
    keys: Mapping[str, Sequence[Any]]
    texts: Mapping[int, str]
    values: Floats
    statuses: NDArray[np.uint8]
    times_us: Ints

    def place(self, feature: str) -> int:
        """Where a feature stands; an unknown one names the nearest."""
        try:
            return self.names.index(feature)
        except ValueError:
            raise NotFound(
                f"no feature {feature!r} was asked for", nearest(feature, list(self.names))
            ) from None

    def column(self, feature: str) -> list[Any]:
        """A feature's values in their own type, ``None`` for null."""
        place, kind = self.place(feature), self.types[feature]
        column = self.values[:, place]
        found = column.tolist()
        if kind in _NUMBERS:
            return [None if value != value else value for value in found] if np.isnan(column).any() else found  # noqa: PLR0124 (only NaN differs from itself)
        made: Any = {"BYTES": lambda value: self.texts.get(int(value)), "BOOL": bool}.get(kind, int)
        return [None if value != value else made(value) for value in found]  # noqa: PLR0124 (only NaN differs from itself)

    def status(self, feature: str) -> list[str]:
        """How each value of a feature came about: PRESENT, NULL, NOT_FOUND, OUTSIDE_TTL or UNANSWERED."""
        found: list[str] = _NAMES[self.statuses[:, self.place(feature)]].tolist()
        return found

    def times(self, feature: str) -> list[str | None]:
        """When the newest row that entered each value happened, ISO 8601 in UTC."""
        said: dict[int, str | None] = self.__dict__.setdefault("_said", {NEVER: None})
        found = self.times_us[:, self.place(feature)].tolist()
        for time in set(found) - said.keys():  # of one row, all features happened at once
            said[time] = from_us(time).isoformat().replace("+00:00", "Z")
        return [said[time] for time in found]

    def to_numpy(self) -> Floats:
        """``(entities, features)`` float64, NaN for null; texts are codes."""
        return self.values

    def to_dict(self, *, keys: bool = True) -> dict[str, list[Any]]:
        """Name -> values, the keys first: the shape of Feast's answer."""
        found = {name: list(column) for name, column in self.keys.items()} if keys else {}
        return found | {name: self.column(name) for name in self.names}

    def to_polars(self) -> pl.DataFrame:
        """A frame: the keys, then the features in their own types."""
        import polars as pl

        columns = [pl.Series(name, list(column)) for name, column in self.keys.items()]
        for place, name in enumerate(self.names):
            kind = self.types[name]
            dtype = getattr(pl, _POLARS.get(kind, "Float64"))
            if kind in _NUMBERS:
                column = np.ascontiguousarray(self.values[:, place])
                columns.append(pl.Series(name, column, nan_to_null=True).cast(dtype))
            else:
                columns.append(pl.Series(name, self.column(name), dtype=dtype))
        return pl.DataFrame(columns)

    def to_arrow(self) -> Any:
        """An Arrow table."""
        _needed("pyarrow")
        return self.to_polars().to_arrow()

    def to_df(self) -> Any:
        """A pandas frame; null is what pandas calls missing."""
        return _needed("pandas").DataFrame(self.to_dict())


def _needed(library: str) -> Any:
    from importlib import import_module

    try:
        return import_module(library)
    except ImportError as error:
        raise NotFound(f"{library} is not installed", f"pip install {library}") from error
