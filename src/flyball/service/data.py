"""``fb.data`` and ``flyball data``: snapshots of data, by content."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball.core.records import Snapshot, Tag
from flyball.errors import Invalid, Refused
from flyball.service.data_words import Shown, Statuses, Verified
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.stores.blobs import Blobs

# Answers whose classes lie beside an engine are `Any` here: the table of verbs reads these annotations.


@verb("data add")
def add(
    name: str,
    source: str = "",
    *,
    query: str = "",
    database: str = "",
    parent: list[str] | None = None,
    whole: bool = False,
    ws: Workspace = CURRENT,
) -> Snapshot:
    """Take a snapshot of a file, folder or pattern, or of a query's rows; the same bytes again give the same snapshot.

    ``--query SQL --database URL`` keeps the rows of a query and remembers it. ``--parent REF`` (again for each) says what
    it was made from. ``--whole`` keeps each file as one blob that a checkout can link to, without cutting it.
    """
    from flyball.versions import data

    origin = None
    given: Any = source
    if query or database:
        if not (query and database) or source:
            raise Invalid("a query needs --query and --database, and no path", "or name a path alone")
        from flyball.versions.queries import rows_of

        given, origin = rows_of(query, database)
    elif isinstance(given, str | Path):
        if not str(given):
            raise Invalid("nothing to add", f"flyball data add {name} PATH, or --query SQL --database URL")
        given = _located(ws, given)
    elif isinstance(given, list | tuple):
        given = [_located(ws, one) for one in given]
    return data.add(
        ws.ledger,
        ws.blobs,
        name,
        given,
        actor=ws.actor,
        parents=parent or (),
        root=ws.root,
        origin=origin,
        whole=whole,
    )


def add_frame(name: str, frame: pl.DataFrame, *, ws: Workspace | None = None) -> Snapshot:
    """Take a snapshot of a frame: Polars, pandas, Arrow."""
    from flyball.versions import data

    ws = ws or Workspace.current()
    return data.add(ws.ledger, ws.blobs, name, frame, actor=ws.actor)


def use(name: str) -> Any:
    """Use a snapshot: in a pipeline a step (its digest is part of what is cached), elsewhere the data at once."""
    from flyball.service.steps import use_data

    return use_data(name)


def open(name: str, *, ws: Workspace | None = None) -> Any:
    """A snapshot's files: ``.read(path)``, ``.lazy()``, ``.frame()``, ``.checkout(folder)``; larger than memory is fine."""
    from flyball.versions import data

    ws = ws or Workspace.current()
    return data.use(ws.ledger, ws.blobs, name)


@verb("data ls", reads=True)
def ls(name: str = "", *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List snapshots, oldest first (of one name, or all)."""
    tags: dict[str, list[str]] = {}
    for tag in ws.ledger.ls("tag", Tag):
        tags.setdefault(f"{tag.name}@{tag.number}", []).append(tag.tag)
    return [
        {
            "ref": one.ref,
            "tags": ", ".join(tags.get(one.ref, [])),
            "rows": one.rows,
            "files": one.file_count or len(one.files),
            "bytes": one.size_bytes or sum(file.size_bytes for file in one.files),
            "created": one.created,
            "digest": one.digest,
        }
        for one in ws.ledger.ls("snapshot", Snapshot, f"{name}@" if name else "")
        if not one.forgotten
    ]


@verb("data show", reads=True)
def show(ref: str, *, ws: Workspace = CURRENT) -> Shown:
    """Show one snapshot: its files, schema, rows and statistics, and what it was made from."""
    from flyball.versions import data

    content = data.use(ws.ledger, ws.blobs, ref)
    tags = [
        one.tag
        for one in ws.ledger.ls("tag", Tag, f"{content.snapshot.name}@")
        if one.number == content.snapshot.number
    ]
    return Shown(content.snapshot, content.files, tags)


@verb("data diff", reads=True)
def diff(
    before: str,
    after: str = "",
    *,
    key: list[str] | None = None,
    path: str = "",
    ws: Workspace = CURRENT,
) -> Any:
    """Compare two snapshots: files, columns, rows and distributions; without AFTER, with the newest of that name.

    ``--key COLUMN`` (again for each) tells which row is which, so that changed rows are told from added and removed ones.
    """
    from flyball.versions import data
    from flyball.versions.diff import diff as difference

    was = data.use(ws.ledger, ws.blobs, before)
    now = data.use(ws.ledger, ws.blobs, after or was.snapshot.name)
    return difference(was, now, key=key or (), path=path or None)


@verb("data checkout", local=("folder", "overwrite"))
def checkout(
    ref: str,
    folder: Path | None = None,
    *,
    path: list[str] | None = None,
    link: bool = False,
    overwrite: bool = False,
    ws: Workspace = CURRENT,
) -> Any:
    """Write a snapshot's files into a folder (by default to where they were added from).

    What no snapshot of that name holds is not overwritten unless ``--overwrite`` says so. ``--link`` makes read-only links
    to the store where files are kept whole; ``--path`` takes single files.
    """
    from flyball.versions import checkout as writing
    from flyball.versions import data

    content = data.use(ws.ledger, ws.blobs, ref)
    target = folder if folder is not None else _where(ws, content.snapshot)
    return writing.checkout(
        content,
        ws.blobs,
        target,
        paths=path or (),
        link=link,
        may_replace=None if overwrite else data.holder(ws.ledger, ws.blobs, content.snapshot.name),
    )


@verb("data status", reads=True)
def status(name: str = "", *, ws: Workspace = CURRENT) -> Statuses:
    """Say which files have changed since their newest snapshot; unchanged ones are not read. Exit 1 when some have."""
    from flyball.versions import naming  # no dataframe is loaded to look at files
    from flyball.versions.status import status_of

    if name:
        newest = [naming.resolve(ws.ledger, name)]
    else:
        newest = list(
            {one.name: one for one in ws.ledger.ls("snapshot", Snapshot) if not one.forgotten}.values()
        )
    return Statuses([status_of(ws.blobs, one, ws.root) for one in newest])


@verb("data verify", reads=True, local=("repair_from",))
def verify(ref: str = "", *, repair_from: str = "", ws: Workspace = CURRENT) -> Verified:
    """Read every byte of a snapshot again (of all, without one); exit 1 names what has changed.

    ``--repair-from URL`` takes the right bytes from another store, as ``stores.remote`` does by itself.
    """
    from flyball.versions import data

    wanted = (
        [data.resolve(ws.ledger, ref)]
        if ref
        else [one for one in ws.ledger.ls("snapshot", Snapshot) if not one.forgotten]
    )
    broken = {one.ref: found for one in wanted if (found := data.problems_of(ws.blobs, one))}
    mended: list[str] = []
    url = repair_from or ws.config.stores.remote
    if broken and url:
        other = _other(ws, url)
        mended = data.repair(ws.blobs, other, [one for found in broken.values() for one in found])
        again = [one for one in wanted if one.ref in broken]
        broken = {one.ref: found for one in again if (found := data.problems_of(ws.blobs, one))}
    said = [f"{ref}: {one}" for ref, found in broken.items() for one in found]
    if said:
        raise Refused(
            f"{len(broken)} of {len(wanted)} snapshots are not what they were:\n  " + "\n  ".join(said),
            f"{url} does not have these bytes; flyball restore BACKUP"
            if url
            else f"flyball data verify {ref or ''} --repair-from URL, or flyball restore BACKUP".replace(
                "  ", " "
            ),
            broken=said,
            mended=mended,
        )
    return Verified(ref=ref or "all", snapshots=len(wanted), mended=tuple(mended))


@verb("data tag")
def tag(ref: str, tag: str, *, because: str = "", ws: Workspace = CURRENT) -> Tag:
    """Point a tag at a snapshot: afterwards ``NAME@tag`` names it, until the tag is moved."""
    from flyball.versions import naming

    return naming.tag(ws.ledger, ref, tag, actor=ws.actor, because=because)


@verb("data untag")
def untag(ref: str, *, ws: Workspace = CURRENT) -> str:
    """Take the tag ``NAME@tag`` away; where it pointed stays in its history."""
    from flyball.versions import naming

    naming.untag(ws.ledger, ref, actor=ws.actor)
    return f"{ref} points nowhere now"


@verb("data tags", reads=True)
def tags(name: str, *, ws: Workspace = CURRENT) -> list[Any]:
    """Show where the tags of a name have pointed, since when, by whom and why."""
    from flyball.versions import naming

    return naming.history(ws.ledger, name)


@verb("data rm")
def rm(ref: str, *, because: str = "", even_if_used: bool = False, ws: Workspace = CURRENT) -> str:
    """Forget a snapshot's name, so that ``flyball gc`` may take bytes that nothing else needs.

    The bytes stay until then. What a tag points at stays; what something was made from too, unless ``--even-if-used``.
    """
    from flyball.versions import naming

    gone = naming.forget(ws.ledger, ref, actor=ws.actor, because=because, even_if_used=even_if_used)
    return f"{gone.ref} is forgotten; flyball gc takes what only it needed"


@verb("data push", local=("url",))
def push(ref: str, url: str = "", *, ws: Workspace = CURRENT) -> Any:
    """Copy a snapshot to another blob store (by default ``stores.remote``): what is missing there, then its record."""
    from flyball.versions import transfer

    return transfer.push(ws.ledger, ws.blobs, ref, _other(ws, url))


@verb("data pull", local=("url",))
def pull(ref: str, url: str = "", *, ws: Workspace = CURRENT) -> Any:
    """Bring a snapshot from a blob store that it was pushed to (by default ``stores.remote``)."""
    from flyball.versions import transfer

    return transfer.pull(ws.ledger, ws.blobs, ref, _other(ws, url), actor=ws.actor)


@verb("data gc")
def gc(*, dry_run: bool = True, older_than: str = "24h", ws: Workspace = CURRENT) -> Any:
    """Say what a collection would remove now (``--no-dry-run`` removes it, as ``flyball gc`` does)."""
    from flyball.service.gc import gc as collect

    return collect(dry_run=dry_run, older_than=older_than, ws=ws)


@verb("data import-dvc", local=("folder",))
def import_dvc(folder: Path = Path(), *, ws: Workspace = CURRENT) -> Any:
    """Make snapshots of what a DVC project tracks: its .dvc files and dvc.lock, from its cache; exit 1 if some are missing."""
    from flyball.versions.dvc import import_project

    return import_project(ws.ledger, ws.blobs, folder, actor=ws.actor, root=ws.root)


def _other(ws: Workspace, url: str) -> Blobs:
    from flyball.stores.blobs import Blobs

    url = url or ws.config.stores.remote
    if not url:
        raise Invalid("which store?", 'name its URL, or set remote = "s3://…" below [stores] in flyball.toml')
    return Blobs.open(ws.settings.url(url), state=ws.state)


def _where(ws: Workspace, snapshot: Snapshot) -> Path:
    """Where a snapshot's files lay when they were added; a folder of its name where they lay nowhere."""
    said = snapshot.source.get("path", "")
    if not said:
        return ws.root / snapshot.name
    path = Path(ws.root, said)
    fixed = [part for part in path.parts if not set(part) & set("*?[")]
    if len(fixed) < len(path.parts):
        return Path(*fixed)
    names = [one.path for one in snapshot.files]
    return path.parent if names == [path.name] else path


def _located(ws: Workspace, source: str | Path) -> str:
    """Relative paths start where you stand, as in any shell; failing that, at the project's folder."""
    path = Path(str(source))
    first = Path(str(source).split("*")[0].rstrip("/") or ".")
    if path.is_absolute() or first.exists() or (first.parent.exists() and first.parent != Path()):
        return str(path.absolute())
    return str(ws.root / path)
