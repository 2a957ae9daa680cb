"""Everything a run was made from besides its data, captured at once and without being asked.

The records are kept once per digest. What costs the most (git) is asked again when a file that its answer depends on has
changed, and after a second in any case: a thousand short runs of one process ask it once a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from flyball.core.config import Resolved
from flyball.core.records import Code
from flyball.errors import FlyballError
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import code, commits, configuration, environment, hardware, imported, seeds, started

log = logging.getLogger(__name__)
FRESH_S = 1.0


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """The digests that a run names, its seeds, and how its script was started. An empty digest: nothing to ask."""

    code: str
    environment: str
    configuration: str
    hardware: str
    seeds: dict[str, Any]
    command: tuple[str, ...] = ()
    cwd: str = ""


def capture(
    root: Path,
    blobs: Blobs,
    ledger: Ledger,
    *,
    settings: Resolved | None = None,
    params: Mapping[str, Any] | None = None,
    script: bool = False,
) -> Captured:
    """Capture code, environment, configuration, hardware and seeds for a run that begins now.

    ``script``: the run is plain code, to be repeated by the command line of this process.
    """
    root = root.resolve()
    records: dict[str, Any] = {
        "code": _code(root, blobs, script),
        "environment": environment.capture(),
        "hardware": hardware.capture(),
    }
    if settings is not None:
        records["configuration"] = configuration.capture(settings)
    _keep(ledger, records)
    commits.keep_in_background(root, records["code"], blobs, ledger)
    command, cwd = started.capture(root) if script else ((), "")
    return Captured(
        **{"configuration": "", **{noun: record.digest for noun, record in records.items()}},
        seeds=seeds.capture(params),
        command=command,
        cwd=cwd,
    )


def capture_late(code_digest: str, root: Path, blobs: Blobs, ledger: Ledger, *, script: bool = False) -> str:
    """The code of a run that ends: its digest, with what the run imported since it began (mostly nothing)."""
    root = root.resolve()
    modules = imported.count()
    if _modules_at.get(code_digest) == modules:
        return code_digest
    try:
        before = ledger.find("code", code_digest, Code)
        if before is None:
            return code_digest
        after = code.with_late(before, root, blobs, script=script)
        _keep(ledger, {"code": after})
    except (FlyballError, OSError):  # the run has ended well; what it began with is kept
        log.warning("late imports not captured", extra={"code": code_digest}, exc_info=True)
        return code_digest
    _modules_at[after.digest] = modules
    return after.digest


_modules_at: dict[str, tuple[int, int]] = {}  # code digest -> how much was imported when it was looked at


class _Seen(msgspec.Struct, frozen=True):
    at: float
    mark: Any
    code: Code


_codes: WeakKeyDictionary[Blobs, dict[tuple[Path, bool], _Seen]] = WeakKeyDictionary()


def _code(root: Path, blobs: Blobs, script: bool) -> Code:
    seen = _codes.setdefault(blobs, {})
    before = seen.get((root, script))
    now = time.monotonic()
    if before is not None and now - before.at < FRESH_S and before.mark == _mark(root):
        return before.code
    mark = _mark(root)
    found = code.look(root, blobs, script=script)
    seen[root, script] = _Seen(now, mark, found)
    _modules_at[found.digest] = imported.count()
    return found


def _mark(root: Path) -> Any:
    """What changes when code does: modules, git's index and head, the folder itself, the files imported from it."""
    files = [root, root / "flyball.toml", root / ".git/index", root / ".git/HEAD", root / ".git/logs/HEAD"]
    files += [root / name for name in imported.look(root).inside]
    return imported.count(), [_stat(file) for file in files]


def _stat(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return (0, 0)
    return status.st_mtime_ns, status.st_size


_kept: WeakKeyDictionary[Ledger, set[str]] = WeakKeyDictionary()  # what a ledger is known to hold


def _keep(ledger: Ledger, records: dict[str, Any]) -> None:
    """Write the records that the ledger has not, in one transaction."""
    known = _kept.setdefault(ledger, set())
    unseen = {noun: one for noun, one in records.items() if f"{noun} {one.digest}" not in known}
    absent = {noun: one for noun, one in unseen.items() if ledger.find(noun, one.digest, type(one)) is None}
    if absent:
        with ledger.transaction() as tx:
            for noun, one in absent.items():
                tx.append(f"{noun}.captured", one.digest, actor="flyball", sets=[(noun, one.digest, one)])
    known |= {f"{noun} {one.digest}" for noun, one in unseen.items()}
