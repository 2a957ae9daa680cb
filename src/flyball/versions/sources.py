"""Find the files that a caller means by a path, a glob, a folder or a list of them, and keep their bytes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from flyball.core.records import FileEntry
from flyball.errors import Conflict, Invalid, NotFound, Unavailable
from flyball.stores.blobs import Blobs

READ_WHOLE_BYTES = 64 * 1024 * 1024  # up to here a file is read once, so what is hashed is what is stored


def find(source: str | Path | Iterable[str | Path], root: Path | None = None) -> dict[str, Path]:
    """Files by their path inside the snapshot, in order; relative ones start at ``root`` (or where you stand).

    A file keeps its name, a folder's files their path below it, a glob's theirs below its fixed part.
    """
    if isinstance(source, str | Path):
        return dict(sorted(_expand(Path(root or Path.cwd(), source), str(source)).items()))
    paths = [Path(root or Path.cwd(), one).resolve() for one in source]
    if not paths:
        raise NotFound("an empty list holds no file", "name at least one file")
    for path in paths:
        if not path.is_file():
            raise NotFound(f"no file {path}", "check the path; it is relative to the project's folder")
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return {path.relative_to(top).as_posix(): path for path in sorted(set(paths))}


def _expand(path: Path, said: str) -> dict[str, Path]:
    if path.is_dir():
        found = {
            file.relative_to(path).as_posix(): file
            for file in sorted(path.rglob("*"))
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
        }
        if not found:
            raise NotFound(f"the folder {said} holds no file", "hidden files don't count")
        return found
    if path.exists():
        return {path.name: path}
    if glob.has_magic(str(path)):
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        matched = sorted(fixed.glob(path.relative_to(fixed).as_posix()))
        found = {file.relative_to(fixed).as_posix(): file for file in matched if file.is_file()}
        if found:
            return found
        raise NotFound(
            f"no file matches {said}", f"looked below {fixed}; it is relative to the project's folder"
        )
    raise NotFound(
        f"no file {said}", f"looked at {path}; it is relative to the project's folder", path=str(path)
    )


def keep(inside: str, path: Path, blobs: Blobs) -> FileEntry:
    """Store one file; one that changes meanwhile is :class:`Conflict` rather than half of each content."""
    try:
        inside.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"the name {inside!r} is not UTF-8", "rename the file") from error
    try:
        before = path.stat()
        if before.st_size <= READ_WHOLE_BYTES:
            data = path.read_bytes()
            digest, size_bytes = blobs.put(data), len(data)
        else:
            digest, size_bytes = blobs.put_file(path), before.st_size
        after = path.stat()
    except FileNotFoundError as error:
        raise NotFound(f"{path} went away while it was added", "add it again when it is complete") from error
    except OSError as error:
        raise Unavailable(f"{path} can't be read: {error.strerror}", "check its rights") from error
    if _mark(before) != _mark(after) or size_bytes != after.st_size:
        raise Conflict(
            f"{path} changed while it was added",
            "wait until its writer is done and add it again",
            path=str(path),
        )
    return FileEntry(inside, digest, size_bytes)


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino
