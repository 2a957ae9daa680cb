"""Tables that lie in a bucket, in a backup and back: under the names they have in a folder, so that either takes the other's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flyball.errors import Conflict

if TYPE_CHECKING:
    from flyball.stores.archive import Writer
    from flyball.stores.tables import Tables

PARTS = (
    "sources",
    "dead",
)  # what was pushed, and messages that were no rows; predictions never lie in a bucket


def add(tables: Tables, writer: Writer, scratch: Path) -> None:
    """Every file, one after another by way of the disk; what is merged meanwhile is taken in its new shape."""
    scratch.mkdir()
    file, done, gone = scratch / "table", set(), True
    while gone:
        gone = False
        for name, _, at in _names(tables):
            if name in done:
                continue
            if not tables.at(at).fetch(name.removeprefix(f"{at}/"), file):
                gone = True
                continue
            writer.add_file(f"tables/{name}", file)
            done.add(name)
    shutil.rmtree(scratch)


def refuse_to_lose(tables: Tables, staged: Path) -> None:
    """Files of the bucket that the backup has not, or has otherwise, are :class:`Conflict`."""
    lost = [name for name, size, _ in _names(tables) if _size(staged / name) != size]
    if lost:
        raise Conflict(
            f"{tables.shown} holds {len(lost)} files that are not in the backup, as {lost[0]}: "
            "their rows would be lost",
            "flyball backup FILE first, then flyball restore … --force",
            files=len(lost),
        )


def put_back(tables: Tables, staged: Path) -> int:
    """The backup's files into the bucket, then away with others; returns how many were put.

    Views follow the files from their first again: numbers may stand for other rows now.
    """
    files = {
        path.relative_to(staged).as_posix(): path
        for part in PARTS
        for path in sorted((staged / part).rglob("*"))
        if path.is_file()
    }
    there = [name for name, _, _ in _names(tables)]
    for source in tables.at("sources").folders():
        tables.at(f"sources/{source}").delete(".identity")
    for name, path in files.items():
        tables.bring(name, path)
    for name in there:
        if name not in files:
            tables.delete(name)
    for part in PARTS:
        shutil.rmtree(staged / part, ignore_errors=True)
    return len(files)


def _names(tables: Tables) -> Iterator[tuple[str, int, str]]:
    for part in PARTS:
        for name, size in tables.at(part).everything().items():
            yield f"{part}/{name}", size, part


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
