"""What is different between two snapshots: files, columns, rows by key, and how far the values have moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import polars as pl

from flyball.errors import Invalid, nearest
from flyball.stats.distances import total_variation, wasserstein
from flyball.versions.content import Content
from flyball.versions.data import Data

_SHOWN = 20
_SAMPLE_ROWS = 200_000  # a column's distribution is told from so many rows, taken evenly
_MOVED, _NULLS = 0.01, 0.001  # below them, a distribution is not worth a line


class FileChange(msgspec.Struct, frozen=True):
    """One file that came, went, was renamed or has other bytes."""

    path: str
    change: Literal["added", "removed", "changed", "renamed"]
    bytes_before: int | None = None
    bytes_after: int | None = None
    was: str = ""


class RowChange(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of both sides. Without a key, a changed row is one removed and one added."""

    before: int
    after: int
    added: int
    removed: int
    changed: int | None = None
    key: tuple[str, ...] = ()
    cells: dict[str, int] = {}  # column -> rows in which it changed


class ColumnMove(msgspec.Struct, frozen=True, kw_only=True):
    """How the values of one column have moved. ``distance`` is Wasserstein in standard deviations, or total variation."""

    column: str
    distance: float
    kind: Literal["wasserstein", "total_variation"]
    mean_before: float | None = None
    mean_after: float | None = None
    null_share_before: float = 0.0
    null_share_after: float = 0.0


class DataDiff(msgspec.Struct, frozen=True, kw_only=True):
    """The difference from one snapshot to another."""

    before: str
    after: str
    files: tuple[FileChange, ...]
    columns_added: dict[str, str] = {}
    columns_removed: dict[str, str] = {}
    columns_changed: dict[str, tuple[str, str]] = {}
    rows: RowChange | None = None
    moved: tuple[ColumnMove, ...] = ()
    note: str = ""

    @property
    def same(self) -> bool:
        return not self.files

    def as_text(self) -> str:
        """For people."""
        if self.same:
            return f"{self.before} and {self.after} hold the same bytes"
        lines = [f"{self.before} -> {self.after}"]
        lines += _file_lines(self.files)
        lines += [f"  column {name} ({kind}) added" for name, kind in self.columns_added.items()]
        lines += [f"  column {name} ({kind}) removed" for name, kind in self.columns_removed.items()]
        lines += [f"  column {name}: {was} -> {now}" for name, (was, now) in self.columns_changed.items()]
        if self.rows is not None:
            lines += _row_lines(self.rows)
        for one in self.moved:
            means = (
                f", mean {one.mean_before:.4g} -> {one.mean_after:.4g}"
                if one.mean_before is not None and one.mean_after is not None
                else ""
            )
            nulls = (
                f", nulls {one.null_share_before:.1%} -> {one.null_share_after:.1%}"
                if one.null_share_before != one.null_share_after
                else ""
            )
            unit = " standard deviations" if one.kind == "wasserstein" else " of the values"
            lines.append(f"  {one.column} moved by {one.distance:.2g}{unit}{means}{nulls}")
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])


def diff(before: Data, after: Data, *, key: Sequence[str] = (), path: str | None = None) -> DataDiff:
    """Compare two snapshots. ``key`` names the columns that tell which row is which; ``path`` one table of several."""
    files = _files(before, after)
    schema_before, schema_after = before.snapshot.schema, after.snapshot.schema
    both = [name for name in before.snapshot.columns or schema_before if name in schema_after]
    known = DataDiff(
        before=before.snapshot.ref,
        after=after.snapshot.ref,
        files=files,
        columns_added={name: kind for name, kind in schema_after.items() if name not in schema_before},
        columns_removed={name: kind for name, kind in schema_before.items() if name not in schema_after},
        columns_changed={
            name: (schema_before[name], schema_after[name])
            for name in both
            if schema_before[name] != schema_after[name]
        },
    )
    if not files:
        return known
    try:
        tables = before.lazy(path), after.lazy(path)
    except Invalid as error:
        if key or path is not None:
            raise
        return msgspec.structs.replace(known, note=f"rows are not compared: {error.what}")
    shared = [name for name in tables[0].collect_schema() if name in tables[1].collect_schema()]
    return msgspec.structs.replace(
        known, rows=_rows(*tables, tuple(key), shared), moved=_moves(*tables, [*shared], tuple(key))
    )


def _files(before: Content, after: Content) -> tuple[FileChange, ...]:
    was = {one.path: one for one in before.files}
    now = {one.path: one for one in after.files}
    gone = {one.digest: one.path for one in before.files if one.path not in now}
    changes: list[FileChange] = []
    renamed: set[str] = set()
    for path, one in now.items():
        if path not in was and one.digest in gone and gone[one.digest] not in renamed:
            renamed.add(gone[one.digest])
            changes.append(FileChange(path, "renamed", one.size_bytes, one.size_bytes, was=gone[one.digest]))
        elif path not in was:
            changes.append(FileChange(path, "added", None, one.size_bytes))
        elif was[path].digest != one.digest:
            changes.append(FileChange(path, "changed", was[path].size_bytes, one.size_bytes))
    changes += [
        FileChange(path, "removed", one.size_bytes, None)
        for path, one in was.items()
        if path not in now and path not in renamed
    ]
    return tuple(sorted(changes, key=lambda one: one.path))


def _rows(before: pl.LazyFrame, after: pl.LazyFrame, key: tuple[str, ...], shared: list[str]) -> RowChange:
    """Rows as 64-bit hashes of their cells: two tables that don't fit into memory are compared all the same."""
    for name in key:
        if name not in shared:
            raise Invalid(f"no column {name!r} in both", nearest(name, shared), column=name)
    kinds = before.collect_schema(), after.collect_schema()
    alike = [name for name in shared if kinds[0][name] == kinds[1][name]]
    counts = [int(one.select(pl.len()).collect().item()) for one in (before, after)]
    if not key:
        added, removed = _whole_rows(before, after, alike)
        return RowChange(before=counts[0], after=counts[1], added=added, removed=removed)
    others = [name for name in shared if name not in key]
    answer = _rows_by_key(before, after, key, others, alike)
    return RowChange(
        before=counts[0],
        after=counts[1],
        added=answer["added"],
        removed=answer["removed"],
        changed=answer["changed"],
        key=key,
        cells={name: answer[f"#{n}"] for n, name in enumerate(others) if answer[f"#{n}"]},
    )


def _whole_rows(before: pl.LazyFrame, after: pl.LazyFrame, columns: list[str]) -> tuple[int, int]:
    """Rows that only ``after`` has, and that only ``before`` has, counted as often as they occur."""
    if not columns:
        return 0, 0
    sides = [
        one.select(pl.struct(columns).hash().alias("row")).group_by("row").agg(pl.len().cast(pl.Int64))
        for one in (before, after)
    ]
    joined = sides[0].join(sides[1], on="row", how="full", coalesce=True, suffix="_after").fill_null(0)
    more = pl.col("len_after") - pl.col("len")
    answer = joined.select(
        more.clip(lower_bound=0).sum().alias("added"), (-more).clip(lower_bound=0).sum().alias("removed")
    )
    added, removed = _collected(answer).row(0)
    return int(added), int(removed)


def _rows_by_key(
    before: pl.LazyFrame, after: pl.LazyFrame, key: tuple[str, ...], others: list[str], alike: list[str]
) -> dict[str, int]:
    """Counts of rows added, removed and changed, and of changed cells per column (``#number`` in ``others``)."""
    sides = []
    for side, one in enumerate((before, after)):
        table = one.select(
            *key,
            pl.lit(True).alias(f"there{side}"),
            *(
                pl.col(name).hash().alias(f"#{n}") if name in alike else pl.lit(side).alias(f"#{n}")
                for n, name in enumerate(others)
            ),
        )
        double = _collected(table.group_by(key).len().filter(pl.col("len") > 1).select(pl.len())).item()
        if double:
            raise Invalid(
                f"{double} values of {', '.join(key)} name several rows {('before', 'after')[side]}",
                "add a column to --key",
                key=key,
            )
        sides.append(table)
    joined = sides[0].join(
        sides[1], on=list(key), how="full", coalesce=True, suffix="_after", nulls_equal=True
    )
    there = pl.col("there0").is_not_null() & pl.col("there1").is_not_null()
    differs = [pl.col(f"#{n}").ne_missing(pl.col(f"#{n}_after")) & there for n in range(len(others))]
    counted = joined.select(
        pl.col("there0").is_null().sum().alias("added"),
        pl.col("there1").is_null().sum().alias("removed"),
        (pl.any_horizontal(differs) if differs else pl.lit(False)).sum().alias("changed"),
        *(one.sum().alias(f"#{n}") for n, one in enumerate(differs)),
    )
    return _collected(counted).row(0, named=True)


def _moves(
    before: pl.LazyFrame, after: pl.LazyFrame, shared: list[str], key: tuple[str, ...]
) -> tuple[ColumnMove, ...]:
    found: list[ColumnMove] = []
    sides = [_sampled(one, shared) for one in (before, after)]
    for name in shared:
        if name in key:
            continue
        was, now = (side[name] for side in sides)
        if (move := _move(name, was, now)) is not None and (
            move.distance >= _MOVED or abs(move.null_share_after - move.null_share_before) >= _NULLS
        ):
            found.append(move)
    return tuple(sorted(found, key=lambda one: -one.distance))


def _move(name: str, was: pl.Series, now: pl.Series) -> ColumnMove | None:
    nulls = [float(one.null_count()) / max(len(one), 1) for one in (was, now)]
    seen = [one.drop_nulls() for one in (was, now)]
    if min(map(len, seen)) == 0 or was.dtype != now.dtype:
        return None
    shares: dict[str, Any] = {"null_share_before": nulls[0], "null_share_after": nulls[1]}
    if was.dtype.is_numeric() or was.dtype.is_temporal():
        values = [one.to_physical().cast(pl.Float64).to_numpy() for one in seen]
        distance = wasserstein(*values)
        means = [float(one.mean()) for one in values] if was.dtype.is_numeric() else [None, None]
        return ColumnMove(
            column=name,
            distance=min(distance, 1e9),
            kind="wasserstein",
            mean_before=means[0],
            mean_after=means[1],
            **shares,
        )
    if was.dtype in {pl.String, pl.Boolean, pl.Categorical} and max(one.n_unique() for one in seen) <= 10_000:
        distance = total_variation(*(one.cast(pl.String).to_numpy() for one in seen))
        return ColumnMove(column=name, distance=distance, kind="total_variation", **shares)
    return None


def _sampled(table: pl.LazyFrame, columns: list[str]) -> pl.DataFrame:
    rows = int(table.select(pl.len()).collect().item())
    return _collected(table.select(columns).gather_every(max(1, rows // _SAMPLE_ROWS)))


def _collected(table: pl.LazyFrame) -> pl.DataFrame:
    return table.collect(engine="streaming")


def _file_lines(files: Sequence[FileChange]) -> list[str]:
    lines = []
    for one in files[:_SHOWN]:
        if one.change == "renamed":
            said = f"was {one.was}"
        else:
            sizes = [f"{size:,}" for size in (one.bytes_before, one.bytes_after) if size is not None]
            said = f"{' -> '.join(sizes)} bytes"
        lines.append(f"  {one.change:<8} {one.path}  {said}")
    if len(files) > _SHOWN:
        counts = {
            kind: sum(one.change == kind for one in files)
            for kind in ("added", "removed", "changed", "renamed")
        }
        lines.append(
            f"  and {len(files) - _SHOWN} more: "
            + ", ".join(f"{number} {kind}" for kind, number in counts.items() if number)
            + " in all"
        )
    return lines


def _row_lines(rows: RowChange) -> list[str]:
    changed = "" if rows.changed is None else f", {rows.changed:,} changed (by {', '.join(rows.key)})"
    lines = [
        f"  rows {rows.before:,} -> {rows.after:,}: {rows.added:,} added, {rows.removed:,} removed{changed}"
    ]
    lines += [
        f"    {name}: {number:,} {'cell' if number == 1 else 'cells'}"
        for name, number in sorted(rows.cells.items(), key=lambda one: -one[1])
    ]
    return lines
