"""Whether two artifacts with other bytes say the same: but for ids and times, or value by value."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flyball.errors import FlyballError

if TYPE_CHECKING:
    from flyball.stores.blobs import Blobs

How = Literal[
    "equal", "within tolerance", "equal but for ids and times", "equal values", "differs", "missing"
]
_ID = re.compile(rb"\b[a-z]{1,8}_[0-9a-hjkmnp-tv-z]{26}\b")
_TIME = re.compile(rb"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_DIGEST = re.compile(rb"b3:[0-9a-f]{64}")
_ADDRESS = re.compile(rb'"__id__": ?(\d+)')  # skops writes where an object lay in memory
_DEEP = 3
_ORDER: tuple[How, ...] = ("equal", "equal but for ids and times", "equal values", "differs")


def alike(one: str, before: Blobs, two: str, after: Blobs, *, deep: int = _DEEP) -> How:
    """How two artifacts compare, by digest in the store of each; what can't be read differs."""
    if one == two:
        return "equal"
    try:
        left, right = before.get(one), after.get(two)
    except FlyballError:
        return "differs"
    if left[:6] == right[:6] == b"ARROW1":
        return "equal values" if _same_frames(left, right) else "differs"
    if left[:4] == right[:4] == b"PK\x03\x04":
        return "equal values" if _same_archives(left, right) else "differs"
    if left[:1] not in (b"{", b"["):
        return "differs"
    return _same_records(left, before, right, after, deep)


def _same_records(left: bytes, before: Blobs, right: bytes, after: Blobs, deep: int) -> How:
    """JSON with ids and times taken out, those of any two runs differ; digests in it are followed."""
    ours, theirs = (_TIME.sub(b"TIME", _ID.sub(b"ID", data)) for data in (left, right))
    if ours == theirs:
        return "equal but for ids and times"
    if not deep or _DIGEST.sub(b"", ours) != _DIGEST.sub(b"", theirs):
        return "differs"
    pairs = zip(_DIGEST.findall(ours), _DIGEST.findall(theirs), strict=True)
    found = [alike(one.decode(), before, two.decode(), after, deep=deep - 1) for one, two in pairs]
    return max(["equal but for ids and times", *found], key=_ORDER.index)


def _same_frames(left: bytes, right: bytes) -> bool:
    import polars as pl

    one, two = pl.read_ipc(io.BytesIO(left)), pl.read_ipc(io.BytesIO(right))
    return one.schema == two.schema and one.equals(two, null_equal=True)


def _same_archives(left: bytes, right: bytes) -> bool:
    """File by file: a zip holds the time it was written at, and what skops wrote also addresses in memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(left)) as one, zipfile.ZipFile(io.BytesIO(right)) as two:
            return _members(one) == _members(two)
    except (zipfile.BadZipFile, OSError, RuntimeError):
        return False


def _members(archive: zipfile.ZipFile) -> list[bytes]:
    """Contents; where skops names objects by their addresses in memory, by the order they come in instead."""
    contents = {name: archive.read(name) for name in archive.namelist()}
    schema = contents.get("schema.json", b"")
    stems = {Path(name).stem.encode() for name in contents}
    found = [*_ADDRESS.findall(schema), *(stem for stem in re.findall(rb"\b\d+\b", schema) if stem in stems)]
    numbers = {address: b"#%d" % number for number, address in enumerate(dict.fromkeys(found))}
    contents["schema.json"] = re.sub(rb"\b\d+\b", lambda match: numbers.get(match[0], match[0]), schema)
    return sorted(contents.values())
