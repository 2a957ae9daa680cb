"""The answer to an online read, in the shapes of Feast's ``OnlineResponse`` and of its feature server's JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.clock import from_us
from flyball.stores.online_chunks import NEVER

if TYPE_CHECKING:
    import pandas as pd

    from flyball.features.vectors import Vectors

# Feast's FieldStatus by our numbers; a view's default, served while its store does not answer, is INVALID there.
STATUSES = ("INVALID", "PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE", "INVALID")
TIMESTAMP_POSTFIX = "__ts"
_PRESENT = 1


class FeatureVector(msgspec.Struct, frozen=True):
    """One column of the answer: values, Feast's status of each (a number), and when each happened (s since 1970, or 0)."""

    values: list[Any]
    statuses: list[int]
    event_timestamps: list[int]


class FeatureNames(msgspec.Struct, frozen=True):
    """The names of the columns."""

    val: list[str]


class Metadata(msgspec.Struct, frozen=True):
    """What the columns are."""

    feature_names: FeatureNames


class Response(msgspec.Struct, frozen=True):
    """What Feast's protobuf message holds, under its names."""

    metadata: Metadata
    results: list[FeatureVector]
    status: bool = True


class OnlineResponse:
    """Values by column: the entities' keys first, then the features in the order asked for.

    ``names`` says what each of our features (``view:feature``) is called in the answer.
    """

    def __init__(
        self,
        vectors: Callable[[], Vectors],
        names: Mapping[str, str],
        values: dict[str, list[Any]] | None = None,
    ) -> None:
        self._asked = vectors
        self._names = names
        self._values = values  # where they are known already: of one entity, read by itself

    @cached_property
    def _vectors(self) -> Vectors:
        return self._asked()

    def read(self) -> None:
        """Read now what would be read when it is first looked at."""
        _ = self._vectors

    @property
    def proto(self) -> Response:
        """Values, statuses and times; a status is Feast's number for it."""
        vectors = self._vectors
        rows = len(vectors)
        results = [
            FeatureVector(list(column), [_PRESENT] * rows, [0] * rows) for column in vectors.keys.values()
        ]
        for feature in self._names:
            place = vectors.place(feature)
            times = vectors.times_us[:, place].tolist()
            seconds = [0 if time == NEVER else time // 1_000_000 for time in times]
            statuses = [
                status if status < len(STATUSES) - 1 else 0 for status in vectors.statuses[:, place].tolist()
            ]
            results.append(FeatureVector(vectors.column(feature), statuses, seconds))
        return Response(Metadata(FeatureNames([*vectors.keys, *self._names.values()])), results)

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, list[Any]]:
        """Name -> values, ``None`` for null; with timestamps also ``name__ts``, in seconds, 0 where there is none."""
        if not include_event_timestamps and self._values is not None:
            return self._values
        if not include_event_timestamps:
            found = {name: list(column) for name, column in self._vectors.keys.items()}
            return found | {name: self._vectors.column(feature) for feature, name in self._names.items()}
        answer = {}
        proto = self.proto
        for name, column in zip(proto.metadata.feature_names.val, proto.results, strict=True):
            answer[name] = column.values
            answer[name + TIMESTAMP_POSTFIX] = column.event_timestamps
        return answer

    def to_df(self, include_event_timestamps: bool = False) -> pd.DataFrame:
        """A pandas frame."""
        import pandas

        return pandas.DataFrame(self.to_dict(include_event_timestamps))

    def to_arrow(self, include_event_timestamps: bool = False) -> Any:
        """An Arrow table."""
        pyarrow: Any = import_module("pyarrow")
        return pyarrow.Table.from_pydict(self.to_dict(include_event_timestamps))

    def to_json(self) -> dict[str, Any]:
        """The body of Feast's feature server."""
        vectors = self._vectors
        rows = len(vectors)
        results = [
            {"values": list(column), "statuses": ["PRESENT"] * rows, "event_timestamps": [_NO_TIME] * rows}
            for column in vectors.keys.values()
        ]
        for feature in self._names:
            place = vectors.place(feature)
            results.append({
                "values": vectors.column(feature),
                "statuses": [STATUSES[status] for status in vectors.statuses[:, place].tolist()],
                "event_timestamps": [_shown(time) for time in vectors.times_us[:, place].tolist()],
            })  # fmt: skip
        names = [*vectors.keys, *self._names.values()]
        return {"metadata": {"feature_names": names}, "results": results, "status": True}


_NO_TIME = "1970-01-01T00:00:00Z"


def _shown(time_us: int) -> str:
    return _NO_TIME if time_us == NEVER else from_us(time_us).isoformat().replace("+00:00", "Z")
