"""Answers of ``flyball data`` in words: what a person wants to see of a snapshot; ``--json`` has it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.records import FileEntry, Snapshot

if TYPE_CHECKING:
    from flyball.versions.status import DataStatus

_FILES, _COLUMNS = 20, 100


class Shown:
    """One snapshot with its files, those of its manifest included."""

    def __init__(self, snapshot: Snapshot, files: Sequence[FileEntry], tags: Sequence[str]) -> None:
        self._snapshot, self._files, self._tags = snapshot, files, tags

    @property
    def ref(self) -> str:
        return self._snapshot.ref

    @property
    def result(self) -> dict[str, Any]:
        """For scripts: the record, every file, the tags."""
        plain: dict[str, Any] = msgspec.to_builtins(self._snapshot)
        return {"ref": self.ref, **plain, "files": msgspec.to_builtins(self._files), "tags": list(self._tags)}

    def __getattr__(self, name: str) -> Any:
        """In Python this is the snapshot, with words."""
        return getattr(self._snapshot, name)

    def as_text(self) -> str:
        """For people."""
        one = self._snapshot
        tags = f" ({', '.join(self._tags)})" if self._tags else ""
        made = ", ".join(dict.fromkeys(filter(None, (one.parent, *one.parents))))
        lines = [f"{one.ref}{tags}", f"  added    {one.created:%Y-%m-%d %H:%M} by {one.made_by}"]
        if one.source:
            lines.append(
                "  from     " + ", ".join(f"{what} {said}" for what, said in one.source.items() if said)
            )
        if made:
            lines.append(f"  made of  {made}")
        lines.append(f"  digest   {one.digest}")
        rows = "" if one.rows is None else f", {one.rows:,} rows"
        lines.append(
            f"  holds    {_counted(len(self._files), 'file')}, {_size(sum(file.size_bytes for file in self._files))}{rows}"
        )
        lines += _columns(one)
        lines += [f"  {file.path}  {_size(file.size_bytes)}" for file in self._files[:_FILES]]
        if len(self._files) > _FILES:
            lines.append(f"  and {len(self._files) - _FILES} more files")
        return "\n".join(lines)


def _columns(one: Snapshot) -> list[str]:
    if not one.schema:
        return []
    rows: list[tuple[str, ...]] = [("column", "type", "nulls", "min", "mean", "max")]
    for name in (one.columns or tuple(one.schema))[:_COLUMNS]:
        kind = one.schema[name]
        facts = one.statistics.get(name, {})
        rows.append(
            (name, _fact(kind), *(_fact(facts.get(fact)) for fact in ("nulls", "min", "mean", "max")))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if len(one.schema) > _COLUMNS:
        lines.append(f"  and {len(one.schema) - _COLUMNS} more columns")
    return lines


def _fact(value: Any) -> str:
    if value is None:
        return ""
    said = f"{value:.6g}" if isinstance(value, float) else str(value)
    return said if len(said) <= 28 else said[:27] + "…"


class Statuses:
    """How the files of each name stand to its newest snapshot; ``exit_code`` 1 when some have changed."""

    def __init__(self, result: Sequence[DataStatus]) -> None:
        self.result = tuple(result)

    @property
    def exit_code(self) -> int:
        return 1 if any(one.state in ("changed", "gone") for one in self.result) else 0

    def as_text(self) -> str:
        """For people."""
        return "\n".join(one.as_text() for one in self.result) or "no data yet: flyball data add NAME PATH"


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """Every byte is what it was (again)."""

    ref: str
    snapshots: int
    verified: bool = True
    mended: tuple[str, ...] = ()

    def as_text(self) -> str:
        """For people."""
        mended = (
            f"; {_counted(len(self.mended), 'object')} mended from the other store" if self.mended else ""
        )
        what = self.ref if self.ref != "all" else _counted(self.snapshots, "snapshot")
        return f"{what}: every byte is what it was{mended}"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
