"""A training set: entity rows with every feature of a service as it was known at each row's time.

Nothing is read before an answer is asked for. Every row comes back once, in order, with all of its columns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from flyball.errors import Invalid, Unavailable, nearest
from flyball.features.definitions import View
from flyball.features.entity_rows import in_utc
from flyball.features.events import Frame
from flyball.features.joining import MEMORY_BYTES, Asked, join
from flyball.features.naming import Datatype
from flyball.features.services import Vector

if TYPE_CHECKING:
    import pandas as pd

ROWS_AT_ONCE = 4_000_000  # entity rows joined at a time when the set is written to a file
_DTYPES: dict[Datatype, Any] = {
    "FP64": pl.Float64,
    "FP32": pl.Float32,
    "INT64": pl.Int64,
    "INT32": pl.Int32,
    "BOOL": pl.Boolean,
    "BYTES": pl.String,
}
Sources = Callable[[View], Frame]


def features_of(
    vector: Vector,
    entities: pl.DataFrame,
    at: str,
    source_for: Sources,
    names: Mapping[str, str],
    *,
    memory_bytes: int = MEMORY_BYTES,
    compute: str = "",
) -> pl.DataFrame:
    """Entity rows with their features: ``names`` says which, in order, and what each is called in the answer.

    Request fields that on-demand features read must be columns already.
    """
    asked = Asked.of(entities, at)
    columns = []
    with _joins(compute, memory_bytes) as join_view:
        for view in vector.views:
            wanted = [name for name in view.features if name in vector.looked_up]
            found = join_view(view, [name.partition(":")[2] for name in wanted], asked, source_for(view))
            for name in wanted:
                series = found[name.partition(":")[2]].alias(name)
                columns.append(series.cast(_DTYPES[vector.type_of(name)], strict=False))
    frame = entities.hstack(columns)
    if vector.computed:
        from flyball.features.on_demand import compute_frame

        frame = compute_frame(vector, frame)
    return frame.select(*entities.columns, *(pl.col(name).alias(called) for name, called in names.items()))


@contextmanager
def _joins(
    compute: str, memory_bytes: int
) -> Iterator[Callable[[View, list[str], Asked, Frame], dict[str, pl.Series]]]:
    """The join of one view: of this process, or of the workers that ``compute`` names."""
    if compute:
        from flyball.features.distributed import joins

        with joins(compute) as join_view:
            yield join_view
    else:
        yield partial(join, memory_bytes=memory_bytes)


def check(vector: Vector, names: Mapping[str, str], columns: list[str]) -> None:
    """Refuse entity rows that lack what the service needs, or have a column that a feature would hide."""
    for view in vector.views:
        for key in view.entity:
            if key not in columns:
                raise Invalid(
                    f"the entity rows lack key {key!r} of view {view.name!r}",
                    nearest(key, columns),
                    column=key,
                )
    for field in vector.service.request:
        if field.name not in columns:
            raise Invalid(
                f"the entity rows lack request field {field.name!r}",
                nearest(field.name, columns),
                field=field.name,
            )
    for feature, called in names.items():
        if called in columns:
            raise Invalid(
                f"the entity rows have a column {called!r}, as feature {feature!r} would be called",
                "rename the column, or take full_feature_names=True",
                column=called,
            )


def names_for(vector: Vector, full_feature_names: bool | None) -> dict[str, str]:
    """What each feature is called in a training set: ``view:feature``, or as Feast does ``view__feature`` / ``feature``."""
    features = [name for name in vector.service.features if ":" in name]
    if full_feature_names is None:
        return {name: name for name in features}
    names: dict[str, str] = {}
    for name in features:
        called = name.replace(":", "__") if full_feature_names else name.partition(":")[2]
        if called in names:
            hint = "leave full_feature_names out" if full_feature_names else "full_feature_names=True"
            raise Invalid(f"{names[called]!r} and {name!r} would both be called {called!r}", hint)
        names[called] = name
    return {name: called for called, name in names.items()}


class TrainingSet:
    """What a join gives, when it is asked for: as a frame, a table, a file, or a snapshot with its lineage.

    ``vector`` says which features; ``names`` what they are called. The join runs once and is kept for further calls.
    """

    def __init__(
        self,
        vector: Vector,
        names: Mapping[str, str],
        entities: Callable[[], Frame],
        at: Callable[[Frame], tuple[pl.LazyFrame, str]],
        source_for: Sources,
        *,
        memory_bytes: int = MEMORY_BYTES,
        compute: str = "",
        keep: Callable[[str, Path, TrainingSet], Any] | None = None,
    ) -> None:
        self.vector, self.names = vector, dict(names)
        self._given, self._at, self._source_for = entities, at, source_for
        self._memory_bytes, self._compute, self._keep = memory_bytes, compute, keep

    def __repr__(self) -> str:
        return f"<TrainingSet of {', '.join(self.names)}>"

    @property
    def features(self) -> tuple[str, ...]:
        """Its features, in order, as ``view:feature``."""
        return tuple(self.names)

    def to_polars(self) -> pl.DataFrame:
        """A Polars frame."""
        return self._frame

    def to_df(self) -> pd.DataFrame:
        """A pandas frame; nulls of numbers are NaN."""
        for library in ("pandas", "pyarrow"):  # Polars hands over by way of Arrow
            try:
                import_module(library)
            except ImportError as error:
                raise Invalid(
                    f"{library} is not installed", "pip install pandas pyarrow; or .to_polars()"
                ) from error
        return self._frame.to_pandas()

    to_pandas = to_df

    def to_arrow(self) -> Any:
        """An Arrow table."""
        try:
            import_module("pyarrow")
        except ImportError as error:
            raise Invalid("pyarrow is not installed", "pip install pyarrow; or .to_polars()") from error
        return self._frame.to_arrow()

    def to_parquet(self, path: str | Path, *, rows_at_once: int = ROWS_AT_ONCE) -> Path:
        """Write it as one Parquet file, whole or not at all; returns the path.

        A larger one never is in memory: entity rows are joined ``rows_at_once``, sources beyond their limit are spilled.
        """
        path = Path(path)
        if path.is_dir():
            raise Invalid(f"{str(path)!r} is a folder", f"name a file in it: {path / 'train.parquet'}")
        with _written_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
        with folder as name:
            staged = Path(name, path.name)
            self._write(staged, Path(name), rows_at_once)
            with _written_to(path):
                staged.replace(path)
        return path

    def save(self, name: str) -> Any:
        """A snapshot ``name@N`` in the workspace; ``flyball explain name@N`` says which views and sources made it."""
        if self._keep is None:
            raise Invalid("this training set has no workspace to be saved in", ".to_parquet(path)")
        with tempfile.TemporaryDirectory(prefix="flyball-training-") as folder:
            return self._keep(name, self.to_parquet(Path(folder, f"{name}.parquet")), self)

    @cached_property
    def _asked(self) -> tuple[pl.LazyFrame, str]:
        rows, at = self._at(self._given())
        check(self.vector, self.names, rows.collect_schema().names())
        return rows, at

    @cached_property
    def _frame(self) -> pl.DataFrame:
        rows, at = self._asked
        return self._joined(rows.collect(), at)

    def _joined(self, rows: pl.DataFrame, at: str) -> pl.DataFrame:
        rows = in_utc(rows, at)
        return features_of(
            self.vector,
            rows,
            at,
            self._source_for,
            self.names,
            memory_bytes=self._memory_bytes,
            compute=self._compute,
        )

    def _write(self, path: Path, folder: Path, rows_at_once: int) -> None:
        if "_frame" in self.__dict__:
            with _written_to(path):
                self._frame.write_parquet(path)
            return
        rows, at = self._asked
        parts: list[Path] = []
        for part in _slices(rows, rows_at_once):
            parts.append(folder / f"part-{len(parts):06d}")
            found = self._joined(part, at)
            with _written_to(path):
                found.write_parquet(parts[-1])
        with _written_to(path):
            if len(parts) == 1:
                parts[0].rename(path)
            else:
                pl.scan_parquet(parts, glob=False).sink_parquet(path, maintain_order=True)


@contextmanager
def _written_to(path: Path) -> Iterator[None]:
    """A disk that is full or forbidden is said so; Polars calls it an error of computing."""
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        raise Unavailable(
            f"the training set can't be written to {path.name}: {error}",
            "is the folder there, may you write to it, and has its disk room?",
            path=str(path),
        ) from error


def _slices(rows: pl.LazyFrame, rows_at_once: int) -> Iterator[pl.DataFrame]:
    """Entity rows in order, about so many at a time; at least one, though it be empty."""
    some = False
    for part in rows.collect_batches(chunk_size=rows_at_once, maintain_order=True, engine="streaming"):
        if part.height or not some:
            yield part
            some = True
    if not some:
        yield rows.collect()
