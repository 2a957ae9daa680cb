"""A join that is asked for: nothing is read until a shape of its answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import Conflict, Invalid

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class RetrievalMetadata(msgspec.Struct, frozen=True):
    """What is retrieved: features as ``view:feature``, and the columns of the entity rows."""

    features: list[str]
    keys: list[str]


class RetrievalJob:
    """Every entity row once, in order, with a column per feature; ``names`` says what each is called."""

    def __init__(
        self,
        ask: Callable[[], pl.DataFrame],
        names: Mapping[str, str],
        keys: Sequence[str],
        *,
        full_feature_names: bool,
    ) -> None:
        self._ask = ask
        self._names = dict(names)
        self.metadata = RetrievalMetadata(list(names), list(keys))
        self.full_feature_names = full_feature_names

    @cached_property
    def _frame(self) -> pl.DataFrame:
        return self._ask().rename(self._names)

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """A pandas frame; nulls of numbers are NaN."""
        _no_validation(validation_reference)
        found: pd.DataFrame = self.to_arrow().to_pandas()
        return found

    def to_arrow(self, validation_reference: Any = None, timeout: int | None = None) -> Any:
        """An Arrow table; times are in microseconds, UTC."""
        _no_validation(validation_reference)
        try:
            pyarrow: Any = import_module("pyarrow")
        except ImportError as error:
            raise Invalid(
                "pyarrow is not installed", "pip install pyarrow pandas; or .to_polars()"
            ) from error
        table: Any = self._frame.to_arrow()
        texts = pyarrow.large_string(), pyarrow.string_view()
        fields = [
            pyarrow.field(one.name, pyarrow.string() if one.type in texts else one.type)
            for one in table.schema
        ]
        return table.cast(pyarrow.schema(fields))

    def to_polars(self) -> pl.DataFrame:
        """A Polars frame, without a copy."""
        return self._frame

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the answer as Parquet: ``storage`` is a path, or Feast's ``SavedDatasetFileStorage(path=…)``."""
        path = Path(str(getattr(storage, "path", None) or storage).removeprefix("file://"))
        if path.exists() and not allow_overwrite:
            raise Conflict(
                f"{path} is there already", "allow_overwrite=True, or another path", path=str(path)
            )
        staged = path.with_name(f".{path.name}.part")
        self._frame.write_parquet(staged)
        staged.replace(path)


def _no_validation(reference: Any) -> None:
    if reference is not None:
        raise Invalid("a validation reference is not taken here", "flyball.checks.require validates a frame")
