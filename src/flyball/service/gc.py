"""Collect blobs that nothing needs any more: decided in one event with its counts, then done; killed, it is done again.

One collection runs at a time, and on its machine nobody adds meanwhile (the store's lock). Writers on other machines,
and those that put bytes long before they name them, are safe by the age of a blob: only older ones go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from flyball.core.ids import new_id
from flyball.errors import Invalid, NotFound, Refused
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.service.reach import Reach
    from flyball.stores.blobs import BlobStat

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_NAMED_IN_THE_EVENT = 1000
_SAFE_S = 3600  # with younger blobs in reach, a run that goes on could lose what it has not named yet


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """One collection: what it was to remove, under which rules, and whether it is done. Ledger noun ``collection``."""

    id: str
    at: datetime
    state: str  # "decided", "done"; a dry run's is "dry run" and is not written
    blobs: int
    bytes: int
    kept: int
    young: int  # nothing needs them, but they are younger than older_than
    steps: int  # cached results whose bytes go
    runs: int  # deleted runs that lose their artifacts
    older_than: str
    keep_steps: str
    keep_deleted: str
    removed: tuple[str, ...] = ()  # digests, the first thousand

    def as_text(self) -> str:
        """For people."""
        did = {"dry run": "would remove", "decided": "was to remove", "done": "removed"}[self.state]
        lines = [f"{did} {self.blobs} blobs, {_size(self.bytes)}; {self.kept} stay"]
        if self.young:
            lines.append(f"  {self.young} more are needed by nothing but younger than {self.older_than}")
        if self.steps:
            lines.append(f"  {self.steps} cached step results, unused for {self.keep_steps}")
        if self.runs:
            lines.append(f"  artifacts of {self.runs} runs deleted more than {self.keep_deleted} ago")
        return "\n".join(lines)


@verb("gc")
def gc(
    *,
    dry_run: bool = False,
    older_than: str = "24h",
    keep_steps: str = "30d",
    keep_deleted: str = "30d",
    ws: Workspace = CURRENT,
) -> Collection:
    """Remove blobs that no name, alias, lineage edge or rule of retention reaches.

    ``--older-than`` protects what someone is adding; ``--keep-steps`` says how long outputs of steps stay that nothing
    live was made from; ``--keep-deleted`` how long a deleted run can be restored with its artifacts.
    """
    rules = {"older_than": older_than, "keep_steps": keep_steps, "keep_deleted": keep_deleted}
    ages = {name: span_s(text, name) for name, text in rules.items()}
    if dry_run:
        return _decide(ws, ages, rules)[0]
    with ws.blobs.collecting():
        decided, reach, gone = _decide(ws, ages, rules)
        if gone and reach.running and ages["older_than"] < _SAFE_S:
            raise Refused(
                f"{reach.running[0]} goes on: what it made in the last hour may not be named yet",
                "say --older-than 1h or more, or wait for it",
                runs=reach.running,
            )
        _write(ws, decided, reach, gone)
        for one in gone:
            if ws.blobs.folder is not None or _is_still_as_old(ws, one):
                ws.blobs.delete(one.digest)
        _forget_packs(ws, gone)
        ws.blobs.clear_strays(max(ages["older_than"], _SAFE_S))
    done = msgspec.structs.replace(decided, state="done")
    with ws.ledger.transaction() as tx:
        tx.append("gc.done", done.id, actor=ws.actor, sets=[("collection", done.id, done)])
    return done


def span_s(text: str, name: str = "a span") -> float:
    """Seconds in "24h", "30d", "90s".

    >>> span_s("36h"), span_s("2w")
    (129600.0, 1209600.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if found is None:
        raise Invalid(f"{name} is {text!r}", "a number and s, m, h, d or w: 24h, 30d", value=text)
    return float(found[1]) * _UNITS[found[2]]


def _decide(
    ws: Workspace, ages: dict[str, float], rules: dict[str, str]
) -> tuple[Collection, Reach, list[BlobStat]]:
    """What would go now. The store is listed before the ledger is read: what is named meanwhile is seen as named."""
    from flyball.core.clock import SystemClock
    from flyball.service.reach import mark

    now = SystemClock().now()  # of the machine, as the store's own times are
    stored = list(ws.blobs.stats())
    reach = mark(
        ws,
        steps_before=ws.clock.now() - timedelta(seconds=ages["keep_steps"]),
        deleted_before=ws.clock.now() - timedelta(seconds=ages["keep_deleted"]),
    )
    unneeded = [one for one in stored if one.digest not in reach.kept]
    limit = now - timedelta(seconds=ages["older_than"])
    gone = sorted((one for one in unneeded if one.modified <= limit), key=lambda one: one.digest)
    names = {one.digest for one in gone}
    reach.steps = {key: outputs for key, outputs in reach.steps.items() if outputs & names}
    decided = Collection(
        id=new_id("gc", ws.clock.now()),
        at=ws.clock.now(),
        state="dry run",
        blobs=len(gone),
        bytes=sum(one.size_bytes for one in gone),
        kept=len(stored) - len(unneeded),
        young=len(unneeded) - len(gone),
        steps=len(reach.steps),
        runs=len(reach.owners),
        removed=tuple(one.digest for one in gone[:_NAMED_IN_THE_EVENT]),
        **rules,
    )
    return decided, reach, gone


def _write(ws: Workspace, decided: Collection, reach: Reach, gone: Sequence[BlobStat]) -> None:
    """The decision, with what it takes out of the ledger: names go before bytes, so no name is ever left dangling."""
    from flyball.core.hashing import digest_of
    from flyball.core.records import Run
    from flyball.stores.run_seal import sealed_record
    from flyball.stores.run_tables import ARTIFACTS

    written = msgspec.structs.replace(decided, state="decided")
    with ws.ledger.transaction() as tx:
        sets: list[tuple[str, str, object]] = [("collection", written.id, written)]
        sets += [("step", key, None) for key in reach.steps]
        for run in sorted(reach.owners):
            tx.alone(run)
            record = tx.find("run", run, Run)
            left = tx.connection.execute(ARTIFACTS.delete().where(ARTIFACTS.c.owner == run)).rowcount
            if record is not None and record.seal and left:
                sets.append(("run", run, sealed_record(tx.connection, record)))
        body: dict[str, object] = {"blobs": decided.blobs, "bytes": decided.bytes, "kept": decided.kept}
        body |= {"runs": sorted(reach.owners)[:_NAMED_IN_THE_EVENT]}
        body |= {"list": digest_of([one.digest for one in gone])}
        tx.append("gc.decided", written.id, actor=ws.actor, sets=sets, body=body)


def _is_still_as_old(ws: Workspace, one: BlobStat) -> bool:
    """Whether nobody on another machine put these bytes again since they were listed (here the lock says so)."""
    try:
        return ws.blobs.stat(one.digest).modified <= one.modified
    except NotFound:
        return False


def _forget_packs(ws: Workspace, gone: Sequence[BlobStat]) -> None:
    """The index of chunks names no pack that is gone; it only holds hints, so that this can come last."""
    from flyball.stores.pack_index import index_of
    from flyball.stores.packs import PackRef

    if gone:
        index = index_of(ws.blobs)
        for one in gone:
            index.forget(PackRef(one.digest, one.size_bytes, 0, b""))


def _size(many: int) -> str:
    size = float(many)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
