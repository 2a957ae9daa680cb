"""Move a workspace's ledger and blobs to other stores, with every id, event, edge, run and byte; and back.

Blobs go first, those that are missing; then all tables of the ledger in one transaction. Killed at any instant, the
target has blobs too many or nothing, and the same command goes on; the source is never changed. Only settings that
point at the new stores make the move real: they are printed, or written with ``--write``.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from flyball.core.redaction import redacted_text
from flyball.errors import Conflict, Invalid, Refused, Unavailable
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from flyball.service.moving import Moved

_PARTS = ("up", "serve", "console", "govern")
_READ_BACK = 200  # blobs that are read again from the target; --check all reads every one


class TableMoved(msgspec.Struct, frozen=True):
    """One table, equal on both sides."""

    table: str
    rows: int
    digest: str


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """What was moved, and what to write into the settings."""

    to: dict[str, str]  # stores.metadata, stores.blobs
    event: int
    tables: tuple[TableMoved, ...]
    blobs: int
    blobs_there: int  # before
    bytes: int
    lines: tuple[str, ...]
    written: str = ""  # the file that was changed
    notes: tuple[str, ...] = ()

    def as_text(self) -> str:
        """For people."""
        lines = []
        if self.tables:
            rows = sum(one.rows for one in self.tables)
            lines.append(
                f"the ledger: {rows} rows of {len(self.tables)} tables, up to event {self.event}, equal on both sides"
            )
        if "blobs" in self.to:
            lines.append(
                f"blobs: {self.blobs} copied ({self.bytes / 2**20:.1f} MiB), {self.blobs_there} were there"
            )
        if self.written:
            return "\n".join([*lines, f"{self.written} points at the new stores now", *self.notes])
        lines += self.notes
        return "\n".join(
            [*lines, "now write this into the settings (or run again with --write):", "", *self.lines]
        )


@verb("migrate")
def migrate(
    *more: str, to: str, write: bool = False, check: str = "sample", ws: Workspace = CURRENT
) -> Migrated:
    """Move the ledger, the blobs or both: ``flyball migrate --to postgresql://… s3://…``, and to sqlite: and file: back.

    Everything is compared afterwards: each table row by row, each blob by size, and some of them (``--check all``: every
    one) byte by byte. Killed or failed, run it again. ``--write`` makes the settings point at the new stores.
    """
    if check not in ("sample", "all"):
        raise Invalid(f"--check {check}: there is no such check", "sample or all")
    targets = _targets((to, *more), ws)
    with ExitStack() as held:
        _hold(ws, held)
        blobs = _move_blobs(ws, targets["blobs"], check) if "blobs" in targets else None
        event, tables = _move_ledger(ws, targets["metadata"]) if "metadata" in targets else (0, ())
        lines, file = _settings(ws, targets, write)
    return Migrated(
        to={name: _without_secret(url) for name, url in targets.items()},
        event=event,
        tables=tables,
        blobs=blobs.copied if blobs else 0,
        blobs_there=blobs.there if blobs else 0,
        bytes=blobs.bytes if blobs else 0,
        lines=lines,
        written=file,
        notes=_notes(targets),
    )


def _notes(targets: dict[str, str]) -> tuple[str, ...]:
    """What a person should know before relying on the new settings."""
    notes = []
    for name, url in targets.items():
        variable = f"FLYBALL_STORES__{name.upper()}"
        if redacted_text(url) != url:
            notes.append(
                f"stores.{name} holds a secret: better say it without, and keep it in the environment "
                f"({variable}, or the cloud's own names)"
            )
        if os.environ.get(variable):
            notes.append(f"{variable} is set, and wins over what the file says")
    return tuple(notes)


def _targets(urls: tuple[str, ...], ws: Workspace) -> dict[str, str]:
    """Which store each URL is for; a URL of the store in use, or two of one kind, is :class:`Invalid`."""
    found: dict[str, str] = {}
    for url in urls:
        scheme = url.partition(":")[0]
        kind = "metadata" if scheme.partition("+")[0] in ("postgresql", "sqlite") else "blobs"
        if kind == "blobs" and scheme not in ("s3", "gs", "az", "abfs", "abfss", "adl", "azure", "file"):
            raise Invalid(
                f"{_without_secret(url)} is no store that a workspace can move to",
                "postgresql://… or sqlite:///… for metadata; s3://…, gs://…, az://… or file:… for blobs",
            )
        if kind in found:
            raise Invalid(f"two URLs for {kind}: {found[kind]} and {url}", "give one of each at most")
        if ws.settings.url(url) == ws.settings.url(getattr(ws.config.stores, kind)):
            raise Conflict(f"{kind} lies at {_without_secret(url)} already", "nothing to move")
        found[kind] = url
    return found


def _hold(ws: Workspace, held: ExitStack) -> None:
    """Nothing of `flyball up` writes meanwhile; who writes nevertheless is found by the last comparison."""
    from flyball.service.supervise import Held

    for name in _PARTS:
        held.callback(Held(ws.state / "run", name).release)


def _move_blobs(ws: Workspace, url: str, check: str) -> Moved:
    from flyball.service.moving import copy_missing_blobs, differences
    from flyball.stores.blobs import Blobs

    target = Blobs.open(ws.settings.url(url), state=ws.state)
    with ws.blobs.adding():
        moved = copy_missing_blobs(ws.blobs, target)
        wrong = differences(ws.blobs, target, read_back=-1 if check == "all" else _READ_BACK)
        _is_the_store(ws, moved)
    if wrong:
        raise Refused(f"after the move {wrong[0]}", "run it again", wrong=wrong[:20])
    return moved


def _is_the_store(ws: Workspace, moved: Moved) -> None:
    """A store that lists nothing while the ledger names a lot is not this workspace's, or does not say the truth."""
    from flyball.service.reach import named_blobs

    named = named_blobs(ws)
    if named and not moved.copied + moved.there:
        raise Unavailable(
            f"{ws.blobs.url} lists no blob, and the ledger names {len(named)}",
            "is it the right bucket and prefix?",
        )


def _move_ledger(ws: Workspace, url: str) -> tuple[int, tuple[TableMoved, ...]]:
    """All tables in one transaction; a target that holds another history is :class:`Conflict`."""
    from flyball.stores import transfer
    from flyball.stores.metadata import Ledger

    target = Ledger.open(ws.settings.url(url), ws.clock)
    try:
        with ws.ledger.reading() as source:
            event, chain = transfer.head(source)
            ours = transfer.seals(source)
            with target.reading() as there:
                equal = transfer.head(there) == (event, chain) and transfer.seals(there) == ours
            if not equal:
                with target.writing() as into:
                    _same_history(source, into, url)
                    transfer.copy(source, into)
                    if transfer.seals(into) != ours:
                        raise Refused("after the move the tables differ", "nothing was switched; report this")
        with ws.ledger.reading() as source:
            if transfer.seals(source) != ours:
                raise Conflict(
                    "someone wrote to the ledger meanwhile", "stop what writes here and run the same again"
                )
    finally:
        target.close()
    return event, tuple(TableMoved(one.table, one.rows, one.digest) for one in ours)


def _same_history(source: Connection, target: Connection, url: str) -> None:
    """The target is empty, or holds an earlier state of this very ledger."""
    from flyball.stores import transfer

    event, chain = transfer.head(target)
    if event and transfer.chain_at(source, event) != chain:
        raise Conflict(
            f"{_without_secret(url)} holds another ledger, at event {event}",
            "give an empty database (or schema); nothing was changed",
            event=event,
        )


def _settings(ws: Workspace, targets: dict[str, str], write: bool) -> tuple[tuple[str, ...], str]:
    from flyball.service import settings_file

    file, prefix = settings_file.file_of(ws.root)
    profile = ws.settings.profile
    table = f"{prefix}stores" if profile == "local" else f"{prefix}profiles.{profile}.stores"
    lines = (f"[{table}]", *(f'{name} = "{url}"' for name, url in sorted(targets.items())))
    if not write:
        return lines, ""
    settings_file.write(file, settings_file.with_values(file.read_text(), table, targets))
    return lines, str(file)


def _without_secret(url: str) -> str:
    from flyball.stores.engine import shown

    return shown(url) if url.startswith(("postgres", "sqlite")) else url.partition("?")[0]
