"""Feeds: rows arrive, are held against their contract, and become features, offline and online; or are set aside.

A batch that breaks its contract is kept (as a blob), an incident is opened, and the last good values go on serving.
:func:`backfill` brings the right rows later: they are *known* from then on, so no training row sees them earlier than
the world did, and the incident is closed.
"""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Decision, Report, Snapshot
from flyball.errors import NotFound, nearest
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.checks.expectations import Contract
    from flyball.checks.results import ContractResult
    from flyball.features.definitions import View


_MERGED = ".all.parquet"


class Ingested(msgspec.Struct, frozen=True):
    """What became of a batch."""

    source: str
    rows: int
    accepted: bool
    because: str = ""
    report: str | None = None


class Feed:
    """One source of one workspace: its contract, its views, and the last good rows it brought.

    Rows of an accepted batch are durable (one Parquet file, renamed into place) before any feature changes.
    """

    def __init__(self, ws: Workspace, source: str) -> None:
        self.ws = ws
        self.source = source
        self.views: list[View] = [
            view for view in ws.definitions.of(_view()).values() if view.source == source
        ]
        contracts: list[Contract] = [
            one for one in ws.definitions.of(_contract()).values() if one.name == source
        ]
        if not self.views and not contracts:
            known = sorted({view.source for view in ws.definitions.of(_view()).values()})
            raise NotFound(f"no view reads {source!r}", nearest(source, known))
        self.contract = contracts[0] if contracts else None
        self.folder = ws.tables_dir / "sources" / source
        self._previous: pl.DataFrame | None = None
        self._number: int | None = None  # of the newest file; one writer per source

    def ingest(self, rows: pl.DataFrame, *, now: datetime) -> Ingested:
        """Take a batch: accepted whole, or set aside whole with an incident."""
        if rows.height == 0:
            return Ingested(self.source, 0, True, "nothing in it")
        result = self._check(rows, now)
        if result is not None and not result.passed:
            return self._set_aside(rows, result, now)
        self._keep(rows)
        self._previous = rows
        return Ingested(self.source, rows.height, True)

    def backfill(self, rows: pl.DataFrame, known: str, *, now: datetime) -> Ingested:
        """Bring the right rows for a time that was set aside; they are known from ``now`` on."""
        import polars as pl

        from flyball.heal.incidents import close_incident, open_of

        stamped = rows.with_columns(pl.lit(now).cast(rows.schema[known]).alias(known))
        taken = self.ingest(stamped, now=now)
        if taken.accepted:
            for incident in open_of(self.ws.ledger, "upstream_data_bug", self.source):
                because = f"{rows.height} rows back-filled; they keep the contract"
                close_incident(self.ws.ledger, incident, because, at=now, actor=self.ws.actor)
        return taken

    def history(self) -> pl.DataFrame:
        """All accepted rows, in the order in which they came."""
        import polars as pl

        files = self._files()
        if not files:
            raise NotFound(f"{self.source} has brought nothing yet", "ingest a batch first")
        return pl.concat([pl.read_parquet(file) for file in files])

    def snapshot(self) -> Snapshot:
        """A snapshot of all accepted rows, under the source's name; small files become one on the way."""
        from flyball.versions import data

        rows = self.history()
        self._merge(rows)
        return data.add(self.ws.ledger, self.ws.blobs, self.source, rows, actor=self.ws.actor)

    def _files(self) -> list[Path]:
        """The files that count: those after the newest merged one, and that one (``….all.parquet``)."""
        files = sorted(self.folder.glob("[0-9]*.parquet"))
        merged = [number for number, file in enumerate(files) if file.name.endswith(_MERGED)]
        return files[merged[-1] :] if merged else files

    def _merge(self, rows: pl.DataFrame) -> None:
        files = self._files()
        if len(files) > 1:
            _write(rows, self.folder / f"{_number(files[-1]):08d}{_MERGED}")
            for file in files:  # a kill here leaves files that no longer count
                file.unlink()

    def _check(self, rows: pl.DataFrame, now: datetime) -> ContractResult | None:
        from flyball.checks.expectations import validate

        return (
            None if self.contract is None else validate(rows, self.contract, now=now, previous=self._last())
        )

    def _last(self) -> pl.DataFrame | None:
        if self._previous is None and self.folder.is_dir():
            import polars as pl

            files = self._files()
            self._previous = pl.read_parquet(files[-1]) if files else None
        return self._previous

    def _keep(self, rows: pl.DataFrame) -> None:
        from flyball.features.filling import push

        if self._number is None:
            files = self._files()
            self._number = _number(files[-1]) if files else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(rows, self.folder / f"{self._number + 1:08d}.parquet")
        self._number += 1
        for view in self.views:
            push(view, rows, self.ws.online)

    def _set_aside(self, rows: pl.DataFrame, result: ContractResult, now: datetime) -> Ingested:
        """Decision, report and incident in the ledger, the batch as a blob: nothing is lost, nothing is used."""
        from flyball.heal import acts
        from flyball.heal.incidents import open_incident

        kept = self.ws.blobs.put(_parquet(rows))
        because = "; ".join(one.message for one in result.failed)
        report = Report(
            id=new_id("rep", now),
            kind="contract",
            subject=self.source,
            at=now,
            passed=False,
            summary=because,
            evidence={"batch": kept, "rows": rows.height, "failed": msgspec.to_builtins(result.failed)},
        )
        with self.ws.ledger.transaction() as tx:
            tx.append(
                "contract.broken", self.source, actor="governor", at=now, sets=[("report", report.id, report)]
            )
        if not _open(self.ws, self.source):
            decision = acts.decide(
                self.ws.ledger,
                policy="contract",
                subject=self.source,
                action="quarantine",
                arguments={"source": self.source},
                because=because,
                evidence={"report": report.id, "batch": kept},
                at=now,
            )
            _finish(self.ws, decision, now)
            open_incident(
                self.ws.ledger,
                "upstream_data_bug",
                self.source,
                because,
                at=now,
                actor="governor",
                evidence={"decision": decision.id, "report": report.id},
            )
        return Ingested(self.source, rows.height, False, because, report.id)


def snapshot_all(ws: Workspace) -> list[Snapshot]:
    """A snapshot of every source that has brought rows: what a training of now may learn from."""
    folder = ws.tables_dir / "sources"
    return [Feed(ws, one.name).snapshot() for one in sorted(folder.iterdir())] if folder.is_dir() else []


def _write(rows: pl.DataFrame, path: Path) -> None:
    staged = path.with_name(f".{path.name}.part")
    rows.write_parquet(staged, compression="zstd", statistics=False)
    staged.replace(path)


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


def _open(ws: Workspace, source: str) -> bool:
    from flyball.heal.incidents import open_of

    return bool(open_of(ws.ledger, "upstream_data_bug", source))


def _finish(ws: Workspace, decision: Decision, now: datetime) -> None:
    done = msgspec.structs.replace(decision, state="done")
    with ws.ledger.transaction() as tx:
        tx.append(
            "decision.done", decision.subject, actor="governor", at=now, sets=[("decision", done.id, done)]
        )


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _view() -> type[View]:
    from flyball.features.definitions import View

    return View


def _contract() -> type[Contract]:
    from flyball.checks.expectations import Contract

    return Contract
