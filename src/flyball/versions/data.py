"""Snapshots of data: ``flights@3`` is these files with these bytes, for ever; what did not change is stored once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from flyball.core.clock import SystemClock
from flyball.core.events import Edge
from flyball.core.records import Snapshot
from flyball.errors import Invalid, NotFound, Refused, nearest
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger, Transaction
from flyball.versions import cache, frames, manifest, naming, sources, tables
from flyball.versions.checkout import checkout
from flyball.versions.content import Content
from flyball.versions.keeping import FEW_FILES, Keeper
from flyball.versions.manifest import Manifest, mentions, reach
from flyball.versions.naming import forget, history, lineage_name, resolve, tag, untag
from flyball.versions.tracked import Tracked
from flyball.versions.verifying import manifest_digest, problems_of, repair

__all__ = [
    "Content",
    "Data",
    "add",
    "add_found",
    "commit",
    "forget",
    "history",
    "holder",
    "lineage_name",
    "manifest_digest",
    "mentions",
    "problems_of",
    "reach",
    "repair",
    "resolve",
    "tag",
    "untag",
    "use",
    "verify",
]

IN_MEMORY_BYTES = 64 << 20  # a larger table is scanned where it lies, not held
INLINE_FILES = 256  # up to here the record itself names every file; a longer list is in the manifest alone


def add(
    ledger: Ledger,
    blobs: Blobs,
    name: str,
    source: str | Path | Iterable[str | Path] | Any,
    *,
    actor: str,
    parent: str | None = None,
    parents: Iterable[str] = (),
    root: Path | None = None,
    origin: dict[str, str] | None = None,
    whole: bool = False,
    describe: bool = True,
) -> Snapshot:
    """Keep data under a name; returns its snapshot, numbered when it differs from the newest of that name.

    ``source`` is a path, a folder, a glob, a list of files, or a frame (Polars, pandas, Arrow). The same content again
    is the same snapshot: no new number, no new bytes. ``parents`` are the refs it was derived from; by default the
    snapshot before it. ``whole`` keeps each file as one blob, uncut, so that a checkout can link to it. Bytes are stored
    first, then one transaction makes them visible.
    """
    naming.check_name(name)
    with tempfile.TemporaryDirectory(prefix="flyball-add-") as scratch:
        tracked = None
        if frames.is_frame(source):
            origin = origin or {"frame": type(source).__module__.partition(".")[0]}
            found = sources.find(frames.written(source, Path(scratch, f"{name}.parquet")))
        elif isinstance(source, str | Path | Iterable):
            found = sources.find(source, root)
            origin = origin or _origin(source, root)
            tracked = Tracked.open(blobs, found.top)
        else:
            raise Invalid(
                f"a {type(source).__name__} is no data",
                "give a path, a list of paths, or a Polars, pandas or Arrow frame",
            )
        return add_found(
            ledger,
            blobs,
            name,
            found,
            actor=actor,
            parents=(*((parent,) if parent else ()), *parents),
            origin=origin,
            tracked=tracked,
            whole=whole,
            describe=describe,
        )


def add_found(
    ledger: Ledger,
    blobs: Blobs,
    name: str,
    found: sources.Found,
    *,
    actor: str,
    parents: Iterable[str] = (),
    origin: dict[str, str],
    tracked: Tracked | None = None,
    whole: bool = False,
    describe: bool = True,
) -> Snapshot:
    """:func:`add` of files that were found already."""
    naming.check_name(name)
    made_of = tuple(dict.fromkeys(resolve(ledger, one).ref for one in parents))
    before = naming.newest(ledger.ls("snapshot", Snapshot, f"{name}@"))
    with blobs.adding():
        keeper = Keeper(
            blobs,
            before=_manifest_of(blobs, before),
            tracked=tracked,
            packed=len(found.files) > FEW_FILES,
            whole=whole,
        )
        with keeper:
            for one in found.files:
                keeper.keep(one)
            kept = keeper.finish()
        files = tuple(one.entry for one in kept.files)
        digest = manifest_digest(files)
        if tracked is not None:
            tracked.save()
            if keeper.as_listed(found.files):
                tracked.note(digest, found.files, found.listed_at_ns)
        if before is not None and before.digest == digest:
            return _derived(ledger, before, made_of, actor)
        schema, rows, statistics = _described(blobs, found, keeper, kept) if describe else ({}, None, {})
        packed = len(files) > INLINE_FILES or any(one.runs is not None for one in kept.files)
        snapshot = Snapshot(
            name=name,
            number=0,
            digest=digest,
            files=files if len(files) <= INLINE_FILES else (),
            created=SystemClock().now(),
            made_by=actor,
            parent=made_of[0] if made_of else None,
            parents=made_of if len(made_of) > 1 else (),
            schema=schema,
            rows=rows,
            statistics=statistics,
            columns=tuple(schema),
            source=origin,
            manifest=blobs.put(kept.encoded()) if packed else "",
            file_count=len(files),
            size_bytes=sum(one.size_bytes for one in files),
        )
        return commit(ledger, snapshot)


def _manifest_of(blobs: Blobs, before: Snapshot | None) -> Manifest | None:
    """What the snapshot before holds, to find unchanged files in; broken, all files are read."""
    try:
        return manifest.load(blobs, before) if before else None
    except (NotFound, Refused):
        return None


def commit(ledger: Ledger, snapshot: Snapshot, *, number: int | None = None) -> Snapshot:
    """Make a snapshot visible, with the next number of its name, or ``number`` when nothing ever had that.

    When there is one of the same content (the newest, or the one of that number), it is the answer: another process
    added it meanwhile. A forgotten one comes back by it.
    """
    with ledger.transaction() as tx:
        known = tx.ls("snapshot", Snapshot, f"{snapshot.name}@")
        newest = naming.newest(known)
        taken = next((one for one in known if one.number == number), None)
        same = newest if number is None else taken
        if same is not None and same.digest == snapshot.digest and not same.forgotten:
            return same
        if number is not None and (taken is None or taken.digest == snapshot.digest):
            numbered = msgspec.structs.replace(snapshot, number=number)
        else:
            numbered = msgspec.structs.replace(
                snapshot,
                number=tx.next_number("snapshot", snapshot.name),
                created=tx.now(),
                parent=snapshot.parent or (newest.ref if newest else None),
            )
        _append(tx, numbered)
    return numbered


def _derived(ledger: Ledger, known: Snapshot, made_of: tuple[str, ...], actor: str) -> Snapshot:
    """The same content again; what it was made of is written down when that was not known."""
    parents = tuple(dict.fromkeys((*filter(None, (known.parent,)), *known.parents, *made_of)))
    if set(made_of) <= {known.parent, *known.parents}:
        return known
    derived = msgspec.structs.replace(known, parent=parents[0], parents=parents if len(parents) > 1 else ())
    here = lineage_name(known.ref)
    with ledger.transaction() as tx:
        tx.append(
            "data.derived",
            known.ref,
            actor=actor,
            sets=[("snapshot", known.ref, derived)],
            edges=[Edge(here, lineage_name(parent), "parent") for parent in made_of],
        )
    return derived


def _append(tx: Transaction, snapshot: Snapshot) -> None:
    here = lineage_name(snapshot.ref)
    edges = [Edge(here, one.digest, "file") for one in snapshot.files]
    if snapshot.manifest:
        edges.append(Edge(here, snapshot.manifest, "manifest"))
    for parent in dict.fromkeys(one for one in (snapshot.parent, *snapshot.parents) if one):
        edges.append(Edge(here, lineage_name(parent), "parent"))
    tx.append(
        "data.added",
        snapshot.ref,
        actor=snapshot.made_by,
        at=snapshot.created,
        sets=[("snapshot", snapshot.ref, snapshot)],
        edges=edges,
    )


def _described(
    blobs: Blobs, found: sources.Found, keeper: Keeper, kept: Manifest
) -> tuple[dict[str, str], int | None, dict[str, dict[str, Any]]]:
    """Schema, rows and statistics, of the files as they lie there; of the stored bytes when one was written meanwhile."""
    paths = {one.inside: Path(one.path) for one in found.files if tables.is_table(one.inside)}
    if not paths:
        return {}, None, {}
    described = tables.describe(dict(paths))
    if all(keeper.is_as_kept(inside, path) for inside, path in paths.items()):
        return described
    content = Content.of_manifest(kept, blobs)
    return tables.describe({inside: content.read(inside) for inside in paths})


def _origin(source: str | Path | Iterable[str | Path], root: Path | None) -> dict[str, str]:
    """The source as a person would say it again, relative to the project where it lies there."""
    if not isinstance(source, str | Path):
        return {"paths": ", ".join(map(str, source))[:1000]}
    path = Path(source)
    if root is not None and path.is_absolute() and path.is_relative_to(root):
        return {"path": path.relative_to(root).as_posix() or "."}
    return {"path": str(source)}


def use(ledger: Ledger, blobs: Blobs, ref: str) -> Data:
    """A handle on a snapshot's content; every byte read through it is checked against its digest."""
    return Data(resolve(ledger, ref), blobs)


class Data(Content):
    """The content of one snapshot."""

    def __repr__(self) -> str:
        return f"<Data {self.snapshot.ref}: {len(self.files)} files, {self.snapshot.rows} rows>"

    @cached_property
    def _tables(self) -> dict[str, Callable[[], pl.LazyFrame]]:
        """Each table of the snapshot by path, opened when it is asked for."""
        return {
            one.path: partial(self._opened, one.path, one.size_bytes)
            for one in self.files
            if tables.is_table(one.path)
        }

    def _opened(self, path: str, size_bytes: int) -> pl.LazyFrame:
        if size_bytes <= IN_MEMORY_BYTES:
            return tables.scan(path, self.read(path))
        return tables.scan(path, cache.whole_file(self, self._blobs, path))

    def lazy(self, path: str | None = None) -> pl.LazyFrame:
        """All tables one below the other in order of path, or only the one at ``path`` inside the snapshot.

        A large one is scanned in a file beside the store, which is checked and kept; memory stays bounded.
        """
        if path is not None:
            if path not in self._tables:
                raise NotFound(f"no table {path!r} in {self.snapshot.ref}", nearest(path, list(self._tables)))
            return self._tables[path]()
        if not self._tables:
            raise Invalid(f"{self.snapshot.ref} holds no Parquet or CSV file", "use .checkout(folder)")
        opened = [table() for table in self._tables.values()]
        if len({tuple(table.collect_schema().items()) for table in opened}) > 1:
            first = next(iter(self._tables))
            raise Invalid(
                f"the tables of {self.snapshot.ref} have different columns", f"name one, as .frame({first!r})"
            )
        return pl.concat(opened)

    def frame(self, path: str | None = None) -> pl.DataFrame:
        """The same as a DataFrame."""
        return self.lazy(path).collect()

    def checkout(self, folder: str | Path, *, link: bool = False) -> Path:
        """Write the files below a folder, each whole or not at all, over what is there; returns the folder."""
        checkout(self, self._blobs, Path(folder), link=link)
        return Path(folder)


def holder(ledger: Ledger, blobs: Blobs, name: str) -> Callable[[bytes], bool]:
    """A function that tells whether some snapshot of a name holds a file of this digest; manifests are read when asked."""
    digests: set[bytes] = set()
    asked = False

    def holds(digest: bytes) -> bool:
        nonlocal asked
        if not asked:
            asked = True
            for one in ledger.ls("snapshot", Snapshot, f"{name}@"):
                kept = None if one.forgotten else _manifest_of(blobs, one)
                digests.update(held.digest for held in (kept.files if kept else ()))
        return digest in digests

    return holds


def verify(ledger: Ledger, blobs: Blobs, ref: str) -> list[str]:
    """Read every byte of a snapshot again and compare with the digests; one line for each object that has changed."""
    return [str(one) for one in problems_of(blobs, resolve(ledger, ref))]
