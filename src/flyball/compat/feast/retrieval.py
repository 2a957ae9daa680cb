"""A join that is asked for: nothing is read until a shape of its answer is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.errors import Conflict, Invalid

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from flyball.features.historical import TrainingSet


class RetrievalMetadata(msgspec.Struct, frozen=True):
    """What is retrieved: features as ``view:feature``, and the columns of the entity rows where these are a frame."""

    features: list[str]
    keys: list[str]


class RetrievalJob:
    """Every entity row once, in order, with a column per feature; ``training_set`` is the same in our own words."""

    def __init__(self, training_set: TrainingSet, keys: Sequence[str], *, full_feature_names: bool) -> None:
        self.training_set = training_set
        self.metadata = RetrievalMetadata(list(training_set.features), list(keys))
        self.full_feature_names = full_feature_names

    def to_df(self, validation_reference: Any = None, timeout: int | None = None) -> pd.DataFrame:
        """A pandas frame; nulls of numbers are NaN."""
        _no_validation(validation_reference)
        return self.training_set.to_df()

    def to_arrow(self, validation_reference: Any = None, timeout: int | None = None) -> Any:
        """An Arrow table; times are in microseconds, UTC."""
        _no_validation(validation_reference)
        return self.training_set.to_arrow()

    def to_polars(self) -> pl.DataFrame:
        """A Polars frame, without a copy."""
        return self.training_set.to_polars()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the answer as Parquet: ``storage`` is a path, or Feast's ``SavedDatasetFileStorage(path=…)``."""
        path = Path(str(getattr(storage, "path", None) or storage).removeprefix("file://"))
        if path.exists() and not allow_overwrite:
            raise Conflict(
                f"{path} is there already", "allow_overwrite=True, or another path", path=str(path)
            )
        self.training_set.to_parquet(path)


def _no_validation(reference: Any) -> None:
    if reference is not None:
        raise Invalid("a validation reference is not taken here", "flyball.checks.require validates a frame")
