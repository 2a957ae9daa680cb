"""Find the files that a caller means by a path, a glob, a folder or a list of them."""

from __future__ import annotations

import glob
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from flyball.errors import Invalid, NotFound, Unavailable


class Source(NamedTuple):
    """One file: its path inside the snapshot, where it lies, and what the file system says of it."""

    inside: str
    path: str
    status: os.stat_result


class Found(NamedTuple):
    """The files that were meant, in order of their path inside the snapshot, and the folder these start from."""

    top: Path
    files: list[Source]
    listed_at_ns: int = 0


def find(source: str | Path | Iterable[str | Path], root: Path | None = None) -> Found:
    """The files meant by ``source``; relative ones start at ``root`` (or where you stand).

    A file keeps its name, a folder's files their path below it, a glob's theirs below its fixed part. Hidden files and
    folders don't count; links are followed, and one that leads back to its own folder is said.
    """
    here = root or Path.cwd()
    listed_at_ns = time.time_ns()
    if isinstance(source, str | Path):
        found = _expand(Path(here, source), str(source))
    else:
        found = _listed([Path(here, one) for one in source])
    return Found(found.top, sorted(found.files, key=lambda one: one.inside), listed_at_ns)


def _listed(paths: list[Path]) -> Found:
    if not paths:
        raise NotFound("an empty list holds no file", "name at least one file")
    paths = sorted({Path(os.path.abspath(path)) for path in paths})  # noqa: PTH100 (not through links)
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return Found(top, [_one(path, path.relative_to(top).as_posix()) for path in paths])


def _expand(path: Path, said: str) -> Found:
    if path.is_dir():
        files = _walk(str(path), "", ())
        if not files:
            raise NotFound(f"the folder {said} holds no file", "hidden files don't count")
        return Found(path, files)
    if os.path.lexists(path):
        return Found(path.parent, [_one(path, path.name)])
    if glob.has_magic(str(path)):
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        matched = fixed.glob(path.relative_to(fixed).as_posix())
        files = [
            _one(file, file.relative_to(fixed).as_posix()) for file in sorted(matched) if not file.is_dir()
        ]
        if files:
            return Found(fixed, files)
        raise NotFound(
            f"no file matches {said}", f"looked below {fixed}; it is relative to the project's folder"
        )
    raise NotFound(
        f"no file {said}", f"looked at {path}; it is relative to the project's folder", path=str(path)
    )


def _one(path: Path, inside: str) -> Source:
    return Source(_speakable(inside), str(path), _regular(str(path), path.stat))


def _walk(folder: str, inside: str, above: tuple[tuple[int, int], ...]) -> list[Source]:
    """Files below a folder. ``above`` are the folders on the way here: one that comes again is a loop.

    One look at each entry, and plain strings: twenty thousand files are listed in 0.1 s.
    """
    try:
        with os.scandir(folder) as entries:
            listed = list(entries)
        here = os.stat(folder)  # noqa: PTH116
    except OSError as error:
        raise Unavailable(
            f"the folder {folder} can't be read: {error.strerror}", "check its rights"
        ) from error
    mark = (here.st_dev, here.st_ino)
    if mark in above:
        raise Invalid(
            f"the link {folder} leads back to a folder above it", "remove the link, or name the files"
        )
    found: list[Source] = []
    for entry in listed:
        name = entry.name
        if name[0] == ".":
            continue
        try:
            status = entry.stat()
        except OSError:
            status = None
        if status is not None and stat.S_ISREG(status.st_mode):
            inside_name = inside + name
            if not inside_name.isascii():
                _speakable(inside_name)
            found.append(Source(inside_name, entry.path, status))
        elif status is not None and stat.S_ISDIR(status.st_mode):
            found += _walk(entry.path, f"{inside}{name}/", (*above, mark))
        else:
            _regular(entry.path, entry.stat)  # says what it is
    return found


def _regular(path: str, look: object) -> os.stat_result:
    try:
        status: os.stat_result = look()  # type: ignore[operator]  # Path.stat or DirEntry.stat, bound
    except FileNotFoundError as error:
        if os.path.islink(path):  # noqa: PTH114
            raise NotFound(f"the link {path} leads nowhere", "mend or remove the link") from error
        raise NotFound(f"no file {path}", "check the path; it is relative to the project's folder") from error
    except OSError as error:  # ELOOP: a link to itself
        raise Unavailable(f"{path} can't be read: {error.strerror}", "mend or remove the link") from error
    if not stat.S_ISREG(status.st_mode):
        raise Invalid(
            f"{path} is no regular file", "only files are kept: no folders in a list, pipes or devices"
        )
    return status


def _speakable(inside: str) -> str:
    try:
        inside.encode()
    except UnicodeEncodeError as error:
        raise Invalid(
            f"the name {inside!r} is not UTF-8", "rename the file, for instance with convmv"
        ) from error
    return inside
