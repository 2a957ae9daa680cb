"""Files out of packs that are scanned rather than held: whole, checked, read-only, beside the store that made them."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from flyball.core.hashing import digest_file
from flyball.stores.blobs import Blobs
from flyball.versions.content import Content

_checked: dict[str, tuple[int, int, int]] = {}  # path -> size, mtime, inode when its digest was right


def whole_file(content: Content, blobs: Blobs, path: str) -> Path:
    """The file at ``path`` as a file on this machine, to be read only. It may be removed at any time when nobody reads it.

    Its digest is checked the first time in each process; after that, that the file system says "unchanged".
    """
    digest = content.of(path).entry.digest
    suffix = Path(path).suffix
    target = _folder(blobs) / f"{digest[3:]}{suffix}"
    if _is_right(target, digest):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, staged = tempfile.mkstemp(dir=target.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in content.stream(path):
                file.write(piece)
        Path(staged).chmod(0o444)
        Path(staged).replace(target)
    finally:
        with suppress(FileNotFoundError):
            Path(staged).unlink()
    _checked[str(target)] = _mark(target)
    return target


def _folder(blobs: Blobs) -> Path:
    if blobs.state is not None:
        return blobs.state / "cache" / "files"
    return Path(tempfile.gettempdir()) / f"flyball-files-{os.getuid()}"


def _is_right(target: Path, digest: str) -> bool:
    try:
        if _checked.get(str(target)) == _mark(target):
            return True
        if digest_file(target) != digest:
            return False
    except OSError:
        return False
    _checked[str(target)] = _mark(target)
    return True


def _mark(target: Path) -> tuple[int, int, int]:
    status = target.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
