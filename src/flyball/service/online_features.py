"""Features of entities now: ``fb.features.get_online_features`` and ``flyball features get``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flyball.errors import Invalid
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.patience import Patience
    from flyball.features.services import Service
    from flyball.features.vectors import VectorReader, Vectors

    Asked = str | Sequence[str] | Service

_readers: WeakKeyDictionary[Workspace, _Readers] = WeakKeyDictionary()


def get_online_features(
    entity_rows: Any, features: Asked, *, at: datetime | str | None = None, ws: Workspace | None = None
) -> Vectors:
    """The values of features for some entities, from the online store, as of now (or of ``at``).

    ``entity_rows`` hold the keys, and the request fields of on-demand features: a list of dicts, a dict of lists, or a
    Polars, pandas or Arrow table; columns that are not needed are left aside. ``features`` is a service or its name, or
    names like ``view:feature`` and ``view@2:feature``.

    The answer has ``.to_dict()``, ``.to_numpy()``, ``.to_polars()``, ``.to_arrow()``, ``.to_df()`` and says of each
    value how it came about (``.status("view:feature")``, ``.statuses``) and when it happened (``.times(...)``).
    A store that does not answer is :class:`Unavailable`; when a view declares defaults, these stand in instead, marked
    ``UNANSWERED``.

    >>> found = get_online_features([{"carrier": "UA"}], ["carrier:late_3h"])  # doctest: +SKIP
    >>> found.to_dict()                                                        # doctest: +SKIP
    {'carrier': ['UA'], 'carrier:late_3h': [0.25]}
    """
    from flyball.features.patience import read

    ws = Workspace.current() if ws is None else ws
    reader, patience = _reader(ws, features)
    rows = columns_of(entity_rows, (*reader.entities, *(field.name for field in reader.service.request)))
    return read(reader, patience, rows, rows, _moment(ws, at))


async def get_online_features_async(
    entity_rows: Any, features: Asked, *, at: datetime | str | None = None, ws: Workspace | None = None
) -> Vectors:
    """:func:`get_online_features` for a program with an event loop, which waits for no network meanwhile.

    LMDB is read where it is called: that takes microseconds, a thread takes more.
    """
    ws = Workspace.current() if ws is None else ws
    if ws.online_url.startswith("lmdb:"):
        return get_online_features(entity_rows, features, at=at, ws=ws)
    return await asyncio.to_thread(get_online_features, entity_rows, features, at=at, ws=ws)


class _Readers:
    """The readers of one workspace, by what is asked: making one costs more than reading with it."""

    def __init__(self, definitions: Any) -> None:
        from flyball.features.patience import Patience

        self.definitions = definitions
        self.patience = Patience()
        self.made: dict[Any, VectorReader] = {}


def _reader(ws: Workspace, features: Asked) -> tuple[VectorReader, Patience]:
    from flyball.features.vectors import VectorReader
    from flyball.service.features import known, service_of

    mine = _readers.get(ws)
    if mine is None or mine.definitions is not ws.definitions:
        mine = _readers[ws] = _Readers(ws.definitions)
    if isinstance(features, str) and ":" in features:
        features = (features,)
    if not isinstance(features, str) and isinstance(features, Iterable):
        features = tuple(features)
        if not all(isinstance(name, str) for name in features):
            raise Invalid("the features are named by other things than texts", "like ['view:feature']")
    key = features
    reader = mine.made.get(key)
    if reader is None:
        service = service_of(ws, features)
        reader = mine.made[key] = VectorReader(service, known(ws, service.features), ws.online)
    return reader, mine.patience


def _moment(ws: Workspace, at: datetime | str | None) -> int:
    from flyball.core.clock import to_us
    from flyball.service.serving import parse_when

    if at is None:
        return to_us(ws.clock.now())
    moment = parse_when(at) if isinstance(at, str) else at
    if not isinstance(moment, datetime):
        raise Invalid(f"at is {at!r}, no time", "write datetime(..., tzinfo=UTC)", field="at")
    if moment.tzinfo is None:
        raise Invalid(f"at is {at!r}, without a time zone", "write datetime(..., tzinfo=UTC)", field="at")
    return to_us(moment)


def columns_of(rows: Any, names: Sequence[str]) -> Any:
    """Tables of any library as columns of plain values: those of ``names`` that there are. Dicts and lists stay as they are."""
    if isinstance(rows, Mapping):
        return {name: _plain(values) for name, values in rows.items() if name in names}
    library = type(rows).__module__.partition(".")[0]
    if library == "polars":
        frame = rows.collect() if hasattr(rows, "collect") else rows
        return {name: frame[name].to_list() for name in names if name in frame.columns}
    if library in ("duckdb", "_duckdb") and hasattr(rows, "pl"):
        return columns_of(rows.pl(), names)
    if library == "pandas" and hasattr(rows, "columns"):
        return {name: _plain(rows[name]) for name in names if name in rows.columns}
    if library == "pyarrow":
        return {name: rows[name].to_pylist() for name in names if name in rows.schema.names}
    if isinstance(rows, Sequence) and not isinstance(rows, str | bytes):
        for at, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise Invalid(
                    f"entity row {at} is a {type(row).__name__}", 'a row is like {"carrier": "UA"}', row=at
                )
        return rows
    raise Invalid(
        f"entity rows are a {type(rows).__name__}",
        "give a list of dicts, a dict of lists, or a Polars, pandas or Arrow table",
    )


def _plain(values: Any) -> Any:
    """A column of NumPy, pandas or Polars as a list; what pandas calls missing is null."""
    if hasattr(values, "isna"):
        return [
            None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)
        ]
    return values.to_list() if hasattr(values, "to_list") else values


@verb("features get", reads=True, local=("rows",))
def get(
    service: str,
    entity: dict[str, str] | None = None,
    feature: dict[str, str] | None = None,
    at: str = "",
    rows: str = "",
    *,
    ws: Workspace = CURRENT,
) -> list[dict[str, Any]]:
    """Read features online, with how each value came about: of a service, or of VIEW:FEATURE,VIEW:FEATURE.

    --entity NAME=VALUE (several entities: NAME=VALUE,VALUE), --feature NAME=VALUE for request fields; --rows FILE (CSV,
    JSON lines or Parquet) brings many. A value that looks like a whole number is one, unless only a text is found.
    """
    from flyball.features.reading import NOT_FOUND
    from flyball.service.serving import number

    asked: Asked = service.split(",") if ":" in service else service
    if rows:
        return _as_rows(get_online_features(_file(Path(rows)), asked, at=at or None, ws=ws))
    texts = {name: value.split(",") for name, value in (entity or {}).items()}
    count = max(map(len, texts.values()), default=1)
    given: dict[str, list[Any]] = {name: one * count if len(one) == 1 else one for name, one in texts.items()}
    fields = {name: [number(value)] * count for name, value in (feature or {}).items()}
    whole = {name: [_whole(value) for value in values] for name, values in given.items()}
    found = get_online_features({**whole, **fields}, asked, at=at or None, ws=ws)
    if whole != given and bool((found.statuses == NOT_FOUND).any()):
        as_text = get_online_features({**given, **fields}, asked, at=at or None, ws=ws)
        if (as_text.statuses == NOT_FOUND).sum() < (found.statuses == NOT_FOUND).sum():
            found = as_text
    return _as_rows(found)


def _whole(text: str) -> int | str:
    return int(text) if text.removeprefix("-").isdecimal() and str(int(text)) == text else text


def _file(path: Path) -> Any:
    import polars as pl

    readers: dict[str, Any] = {
        ".csv": pl.read_csv,
        ".parquet": pl.read_parquet,
        ".json": pl.read_ndjson,
        ".jsonl": pl.read_ndjson,
    }
    if path.suffix not in readers:
        raise Invalid(f"{path} is no table", f"known: {', '.join(readers)}", field="rows")
    try:
        return pl.DataFrame(readers[path.suffix](path))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Invalid(f"{path} can't be read: {error}", "look at the file", field="rows") from error


def _as_rows(found: Vectors) -> list[dict[str, Any]]:
    """One row per entity and feature."""
    columns = [(name, found.column(name), found.status(name), found.times(name)) for name in found.names]
    return [
        {
            **{key: values[at] for key, values in found.keys.items()},
            "feature": name,
            "value": values[at],
            "status": statuses[at],
            "happened": times[at],
        }
        for at in range(len(found))
        for name, values, statuses, times in columns
    ]
