"""What has changed in the files since their newest snapshot; an unchanged file is not read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from flyball.core.hashing import digest_file
from flyball.core.records import Snapshot
from flyball.errors import FlyballError, NotFound, Unavailable
from flyball.stores.blobs import Blobs
from flyball.versions import sources
from flyball.versions.content import Content
from flyball.versions.tracked import Tracked

_SHOWN = 20


class Change(msgspec.Struct, frozen=True):
    """One file that is not as in the snapshot."""

    path: str
    change: Literal["new", "changed", "deleted"]


class DataStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the files of one name stand to its newest snapshot."""

    name: str
    ref: str
    source: str
    state: Literal["unchanged", "changed", "gone", "not tracked"]
    files: int = 0
    read: int = 0  # files whose bytes had to be read
    changes: tuple[Change, ...] = ()

    def as_text(self) -> str:
        """For people."""
        said = f"{self.ref}: {self.state}"
        if self.state == "unchanged":
            return f"{said} ({self.source}, {self.files} file{'' if self.files == 1 else 's'})"
        if self.state == "not tracked":
            return f"{said}: it came from {self.source or 'a frame'}"
        if self.state == "gone":
            return f"{said}: nothing lies at {self.source}; flyball data checkout {self.ref} brings it back"
        lines = [f"{said} ({self.source})"]
        lines += [f"  {one.change:<8} {one.path}" for one in self.changes[:_SHOWN]]
        if len(self.changes) > _SHOWN:
            lines.append(f"  and {len(self.changes) - _SHOWN} more")
        return "\n".join([*lines, f"  flyball data add {self.name} {self.source} keeps them"])


def status_of(blobs: Blobs, snapshot: Snapshot, root: Path) -> DataStatus:
    """Compare the path that a snapshot was taken of with what the snapshot holds."""
    path = snapshot.source.get("path", "")
    known: dict[str, Any] = {"name": snapshot.name, "ref": snapshot.ref, "source": path}
    if not path:
        said = (
            snapshot.source.get("query") or snapshot.source.get("paths") or snapshot.source.get("frame", "")
        )
        return DataStatus(**{**known, "source": said}, state="not tracked")
    try:
        found = sources.find(path, root)
    except NotFound:
        return DataStatus(**known, state="gone")
    tracked = Tracked.open(blobs, found.top)
    if tracked.are(snapshot.digest, found.files):
        return DataStatus(**known, state="unchanged", files=len(found.files))
    held = Content(snapshot, blobs).held
    changes: list[Change] = []
    read = 0
    for one in found.files:
        kept = held.get(one.inside)
        if kept is None:
            changes.append(Change(one.inside, "new"))
            continue
        if one.status.st_size != kept.size_bytes:
            changes.append(Change(one.inside, "changed"))
            continue
        digest = tracked.digest(one.inside, one.status)
        if digest is None:
            read += 1
            at_ns = time.time_ns()
            digest = _digest(one)
            tracked.remember(one.inside, one.status, digest, at_ns)
        if digest != kept.digest:
            changes.append(Change(one.inside, "changed"))
    there = {one.inside for one in found.files}
    changes += [Change(path, "deleted") for path in held if path not in there]
    tracked.save()
    if not changes:
        tracked.note(snapshot.digest, found.files, found.listed_at_ns)
    changes.sort(key=lambda one: one.path)
    return DataStatus(
        **known,
        state="changed" if changes else "unchanged",
        files=len(found.files),
        read=read,
        changes=tuple(changes),
    )


def _digest(source: sources.Source) -> bytes:
    try:
        return bytes.fromhex(digest_file(Path(source.path))[3:])
    except FlyballError:
        raise
    except OSError as error:
        raise Unavailable(f"{source.path} can't be read: {error.strerror}", "check its rights") from error
