"""Snapshots between stores: what is missing there is copied, checked on the way; the record comes last, so that nothing
that is named there is ever incomplete. An interrupted transfer goes on where it was."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from flyball.core.records import Snapshot, Tag
from flyball.errors import Conflict, NotFound, Refused, Unavailable, nearest
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from flyball.versions import data, manifest
from flyball.versions.content import Content

T = TypeVar("T")
_THREADS = 4
_encode = msgspec.json.Encoder(order="deterministic").encode


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What a push or a pull did."""

    ref: str
    url: str
    verb: str  # "pushed to", "pulled from"
    objects: int
    sent: int
    bytes: int
    theirs: str = ""  # the ref over there, when it is another

    def as_text(self) -> str:
        """For people."""
        was = f" (there {self.theirs})" if self.theirs and self.theirs != self.ref else ""
        there = self.objects - self.sent
        return (
            f"{self.ref}{was} {self.verb} {self.url}: {self.sent} of {self.objects} objects, {self.bytes:,} bytes"
            + (f"; {there} were there" if there else "")
        )


def push(ledger: Ledger, blobs: Blobs, ref: str, other: Blobs) -> Transfer:
    """Copy a snapshot to another store, with its record and tags; only what is missing there is sent."""
    snapshot = data.resolve(ledger, ref)
    name = f"snapshot/{snapshot.ref}.json"
    there = _record(other, name)
    if there is not None and there.digest != snapshot.digest:
        raise Conflict(
            f"{other.url} has another {snapshot.ref}",
            f"flyball data pull {snapshot.ref} {other.url} brings it under a number of its own",
            ref=snapshot.ref,
        )
    needed = sorted(needed_by(blobs, snapshot))
    with other.adding():
        sent, size_bytes = copy(blobs, other, needed)
        if there is None:
            try:
                other.put_named(name, _encode(snapshot), only_new=True)
            except Conflict:
                return push(ledger, blobs, ref, other)  # someone pushed it meanwhile: is it the same?
    for tag in ledger.ls("tag", Tag, f"{snapshot.name}@"):
        if tag.number == snapshot.number:
            other.put_named(f"tag/{tag.key}.json", _encode(tag))
    return Transfer(
        ref=snapshot.ref, url=other.url, verb="pushed to", objects=len(needed), sent=sent, bytes=size_bytes
    )


def pull(ledger: Ledger, blobs: Blobs, ref: str, other: Blobs, *, actor: str) -> Transfer:
    """Bring a snapshot from another store, under the same number where that is free here."""
    theirs = resolve_there(other, ref)
    with blobs.adding():
        listed = [theirs.manifest] if theirs.manifest else []
        sent, size_bytes = copy(other, blobs, listed)
        needed = sorted(needed_by(blobs, theirs))
        more, more_bytes = copy(other, blobs, [one for one in needed if one not in listed])
        held = Content(theirs, blobs)
        if data.manifest_digest(held.files) != theirs.digest:
            raise Refused(
                f"{theirs.ref} in {other.url} is not what its name says: its files don't give {theirs.digest}",
                "don't trust that store; push it again from a workspace that verifies",
                ref=theirs.ref,
            )
        ours = data.commit(
            ledger,
            msgspec.structs.replace(
                theirs, source={**theirs.source, "pulled": f"{theirs.ref} of {other.url}", "by": actor}
            ),
            number=theirs.number,
        )
    return Transfer(
        ref=ours.ref,
        url=other.url,
        verb="pulled from",
        objects=len(needed),
        sent=sent + more,
        bytes=size_bytes + more_bytes,
        theirs=theirs.ref,
    )


def resolve_there(other: Blobs, ref: str) -> Snapshot:
    """What ``flights``, ``flights@3`` or ``flights@clean`` means in a store that snapshots were pushed to."""
    name, _, wanted = ref.partition("@")
    known = [one.removeprefix("snapshot/").removesuffix(".json") for one in other.ls_named("snapshot/")]
    numbers = sorted(int(one.rpartition("@")[2]) for one in known if one.rpartition("@")[0] == name)
    if not numbers:
        names = sorted({one.rpartition("@")[0] for one in known})
        raise NotFound(f"no data named {name!r} in {other.url}", nearest(name, names), ref=ref)
    if wanted in ("", "latest"):
        wanted = str(numbers[-1])
    elif not wanted.isdecimal():
        content = other.get_named(f"tag/{name}@{wanted}.json")
        wanted = str(_decode(content, Tag, other).number) if content else wanted
    found = _record(other, f"snapshot/{name}@{wanted}.json")
    if found is None:
        raise NotFound(
            f"no snapshot {ref!r} in {other.url}",
            f"it has {', '.join(map(str, numbers))}, and latest",
            ref=ref,
        )
    return found


def needed_by(blobs: Blobs, snapshot: Snapshot) -> set[str]:
    """Every blob that a snapshot's content needs, its manifest among them."""
    if not snapshot.manifest:
        return {one.digest for one in snapshot.files}
    return {snapshot.manifest} | manifest.mentions(blobs, snapshot.manifest)


def copy(source: Blobs, target: Blobs, digests: Iterable[str]) -> tuple[int, int]:
    """Copy blobs that are missing in ``target``; how many were, and their bytes. Changed bytes are never passed on."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="flyball-copy") as pool:
        sizes = list(pool.map(lambda digest: _copy_one(source, target, digest), digests))
    sent = [size for size in sizes if size is not None]
    return len(sent), sum(sent)


def _copy_one(source: Blobs, target: Blobs, digest: str) -> int | None:
    if target.refresh(digest):
        return None
    with target.writer() as writer:
        for piece in source.stream(digest):
            writer.write(piece)
        if writer.digest != digest:
            raise Refused(
                f"the bytes of {digest} in {source.url} have changed",
                "flyball data verify names what they belong to; nothing of it was copied",
                digest=digest,
            )
        writer.keep()
        return writer.size_bytes


def _record(other: Blobs, name: str) -> Snapshot | None:
    content = other.get_named(name)
    return None if content is None else _decode(content, Snapshot, other)


def _decode(content: bytes, kind: type[T], other: Blobs) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.DecodeError as error:
        raise Unavailable(
            f"{other.url} answers what is no {kind.__name__.lower()}: {error}", "is this the right store?"
        ) from error
