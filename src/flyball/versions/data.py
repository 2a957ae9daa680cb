"""Snapshots of data: ``flights@3`` is these files with these bytes, for ever; unchanged files are stored once."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import polars as pl

from flyball.core.events import Edge
from flyball.core.hashing import digest_bytes, digest_of
from flyball.core.records import FileEntry, Snapshot
from flyball.errors import Invalid, NotFound, nearest
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger, Transaction
from flyball.versions import sources, tables


def lineage_name(ref: str) -> str:
    """A snapshot's name in the lineage graph, where ``delays@3`` could as well be a model."""
    return f"snapshot:{ref}"


def add(
    ledger: Ledger,
    blobs: Blobs,
    name: str,
    source: str | Path | Iterable[str | Path] | pl.DataFrame | pl.LazyFrame,
    *,
    actor: str,
    parent: str | None = None,
    root: Path | None = None,
) -> Snapshot:
    """Keep data under a name; returns its snapshot, numbered when it differs from the newest of that name.

    The same content again is the same snapshot: no new number, no new bytes. ``parent`` is the ref it was derived
    from; by default the snapshot before it. Bytes are stored first, then one transaction makes them visible.
    """
    if not name or any(letter in name for letter in "@:/ \n"):
        raise Invalid(f"{name!r} can't name a snapshot", "use letters, digits, '-', '_' and '.'")
    if parent is not None:
        parent = resolve(ledger, parent).ref
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        files: tuple[FileEntry, ...] = (_keep_frame(name, source.lazy().collect(), blobs),)
    else:
        found = sources.find(source, root)
        files = tuple(sources.keep(inside, path, blobs) for inside, path in found.items())
    manifest = manifest_digest(files)
    newest = _newest(ledger.ls("snapshot", Snapshot, f"{name}@"))
    if newest is not None and newest.digest == manifest:
        return newest
    scans = {
        one.path: tables.scan(one.path, blobs.get(one.digest)) for one in files if tables.is_table(one.path)
    }
    schema, rows, statistics = tables.describe(scans)
    with ledger.transaction() as tx:
        newest = _newest(tx.ls("snapshot", Snapshot, f"{name}@"))
        if newest is not None and newest.digest == manifest:
            return newest  # another process added the same meanwhile
        snapshot = Snapshot(
            name=name,
            number=tx.next_number("snapshot", name),
            digest=manifest,
            files=files,
            created=tx.now(),
            made_by=actor,
            parent=parent or (newest.ref if newest else None),
            schema=schema,
            rows=rows,
            statistics=statistics,
        )
        _append(tx, snapshot)
    return snapshot


def _append(tx: Transaction, snapshot: Snapshot) -> None:
    edges = [Edge(lineage_name(snapshot.ref), one.digest, "file") for one in snapshot.files]
    if snapshot.parent is not None:
        edges.append(Edge(lineage_name(snapshot.ref), lineage_name(snapshot.parent), "parent"))
    tx.append(
        "data.added",
        snapshot.ref,
        actor=snapshot.made_by,
        at=snapshot.created,
        sets=[("snapshot", snapshot.ref, snapshot)],
        edges=edges,
    )


def resolve(ledger: Ledger, ref: str) -> Snapshot:
    """The snapshot that ``flights``, ``flights@3`` or ``flights@latest`` names now."""
    name, _, wanted = ref.partition("@")
    known = ledger.ls("snapshot", Snapshot, f"{name}@")
    newest = _newest(known)
    if newest is None:
        names = sorted({key.partition("@")[0] for key in ledger.keys("snapshot")})
        raise NotFound(
            f"no data named {name!r}",
            f"{nearest(name, names)}; flyball data add {name} PATH makes it",
            ref=ref,
        )
    if wanted in ("", "latest"):
        return newest
    for snapshot in known:
        if str(snapshot.number) == wanted:
            return snapshot
    raise NotFound(f"no snapshot {ref!r}", f"{name} has 1 to {newest.number}, and latest", ref=ref)


def use(ledger: Ledger, blobs: Blobs, ref: str) -> Data:
    """A handle on a snapshot's content; every byte read through it is checked against its digest."""
    return Data(resolve(ledger, ref), blobs)


class Data:
    """The content of one snapshot."""

    def __init__(self, snapshot: Snapshot, blobs: Blobs) -> None:
        self.snapshot = snapshot
        self._blobs = blobs

    def __repr__(self) -> str:
        return f"<Data {self.snapshot.ref}: {len(self.snapshot.files)} files, {self.snapshot.rows} rows>"

    @cached_property
    def _tables(self) -> dict[str, pl.LazyFrame]:
        return {
            one.path: tables.scan(one.path, self._blobs.get(one.digest))
            for one in self.snapshot.files
            if tables.is_table(one.path)
        }

    def lazy(self, path: str | None = None) -> pl.LazyFrame:
        """All tables one below the other in order of path, or only the one at ``path`` inside the snapshot."""
        if path is not None:
            if path not in self._tables:
                raise NotFound(f"no table {path!r} in {self.snapshot.ref}", nearest(path, list(self._tables)))
            return self._tables[path]
        if not self._tables:
            raise Invalid(f"{self.snapshot.ref} holds no Parquet or CSV file", "use .checkout(folder)")
        if len({tuple(table.collect_schema().items()) for table in self._tables.values()}) > 1:
            first = next(iter(self._tables))
            raise Invalid(
                f"the tables of {self.snapshot.ref} have different columns", f"name one, as .frame({first!r})"
            )
        return pl.concat(list(self._tables.values()))

    def frame(self, path: str | None = None) -> pl.DataFrame:
        """The same as a DataFrame."""
        return self.lazy(path).collect()

    def checkout(self, folder: str | Path) -> Path:
        """Write the files below a folder, each whole or not at all; returns the folder."""
        folder = Path(folder)
        for one in self.snapshot.files:
            target = folder / one.path
            target.parent.mkdir(parents=True, exist_ok=True)
            staged = target.with_name(f".{target.name}.part")
            staged.write_bytes(self._blobs.get(one.digest))
            staged.replace(target)
        return folder


def verify(ledger: Ledger, blobs: Blobs, ref: str) -> list[str]:
    """Read every byte of a snapshot again and compare with the digests; one line for each object that has changed."""
    snapshot = resolve(ledger, ref)
    problems: list[str] = []
    if manifest_digest(snapshot.files) != snapshot.digest:
        problems.append(f"manifest of {snapshot.ref}: its files are not those of {snapshot.digest}")
    for one in snapshot.files:
        try:
            found = digest_bytes(blobs.read_unchecked(one.digest))
        except NotFound:
            problems.append(f"{one.path}: blob {one.digest} is gone")
            continue
        if found != one.digest:
            problems.append(f"{one.path}: blob {one.digest} has changed, it is {found} now")
    return problems


def manifest_digest(files: Iterable[FileEntry]) -> str:
    """The digest of a snapshot: of its files' paths and digests, in order of path."""
    return digest_of(
        [(one.path, one.digest, one.size_bytes) for one in sorted(files, key=lambda one: one.path)]
    )


def _newest(snapshots: list[Snapshot]) -> Snapshot | None:
    return max(snapshots, key=lambda one: one.number, default=None)


def _keep_frame(name: str, frame: pl.DataFrame, blobs: Blobs) -> FileEntry:
    buffer = io.BytesIO()
    try:
        frame.write_parquet(buffer, compression="zstd")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise Invalid(
            f"the frame of {name!r} can't be written as Parquet: {error}", "cast that column"
        ) from error
    data = buffer.getvalue()
    return FileEntry(f"{name}.parquet", blobs.put(data), len(data))
