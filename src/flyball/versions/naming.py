"""What ``flights``, ``flights@3``, ``flights@latest`` and ``flights@clean`` mean: numbers for ever, tags until moved."""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from flyball.core.events import Edge
from flyball.core.records import Snapshot, Tag
from flyball.errors import Conflict, Invalid, NotFound, Refused, nearest
from flyball.stores.metadata import Ledger

_TAG = re.compile(r"[A-Za-z][A-Za-z0-9._-]*\Z")


class TagSet(msgspec.Struct, frozen=True):
    """One line of a tag's history: what it pointed at from when on, by whom and why."""

    tag: str
    ref: str | None  # None: the tag was taken away
    at: datetime
    by: str
    because: str


def lineage_name(ref: str) -> str:
    """A snapshot's name in the lineage graph, where ``delays@3`` could as well be a model."""
    return f"snapshot:{ref}"


def check_name(name: str) -> None:
    """A name that refs, paths and tags can hold."""
    if not name or any(letter in name for letter in "@:/ \n\\") or not name.isprintable():
        raise Invalid(f"{name!r} can't name a snapshot", "use letters, digits, '-', '_' and '.'")
    if len(name) > 200:
        raise Invalid(f"a name of {len(name)} letters can't name a snapshot", "200 at most")


def newest(snapshots: list[Snapshot]) -> Snapshot | None:
    """The one with the highest number that is not forgotten."""
    return max((one for one in snapshots if not one.forgotten), key=lambda one: one.number, default=None)


def resolve(ledger: Ledger, ref: str) -> Snapshot:
    """The snapshot that ``flights``, ``flights@3``, ``flights@latest`` or ``flights@clean`` (a tag) names now."""
    name, _, wanted = ref.partition("@")
    known = ledger.ls("snapshot", Snapshot, f"{name}@")
    last = max(known, key=lambda one: one.number, default=None)
    if last is None:
        names = sorted({key.partition("@")[0] for key in ledger.keys("snapshot")})
        raise NotFound(
            f"no data named {name!r}",
            f"{nearest(name, names)}; flyball data add {name} PATH makes it",
            ref=ref,
        )
    if wanted in ("", "latest"):
        latest = newest(known)
        if latest is None:
            raise NotFound(
                f"all snapshots of {name!r} are forgotten", f"flyball data add {name} PATH", ref=ref
            )
        return latest
    tag = None if wanted.isdecimal() else ledger.find("tag", f"{name}@{wanted}", Tag)
    number = str(tag.number) if tag else wanted
    for snapshot in known:
        if str(snapshot.number) == number:
            if snapshot.forgotten:
                raise NotFound(
                    f"{snapshot.ref} was forgotten",
                    f"{name}@latest is what there is",
                    ref=ref,
                    forgotten=True,
                )
            return snapshot
    tags = [one.tag for one in ledger.ls("tag", Tag, f"{name}@")]
    also = f", tags {', '.join(sorted(tags))}" if tags else ""
    raise NotFound(f"no snapshot {ref!r}", f"{name} has 1 to {last.number}{also}, and latest", ref=ref)


def tag(ledger: Ledger, ref: str, name: str, *, actor: str, because: str = "") -> Tag:
    """Point ``NAME@tag`` at a snapshot; the history of where it pointed stays in the ledger."""
    if not _TAG.match(name) or name == "latest":
        raise Invalid(
            f"{name!r} can't be a tag", "begin with a letter; 'latest' is taken, digits are numbers"
        )
    snapshot = resolve(ledger, ref)
    with ledger.transaction() as tx:
        set_tag = Tag(name=snapshot.name, tag=name, number=snapshot.number, set_at=tx.now(), because=because)
        before = tx.find("tag", set_tag.key, Tag)
        if before is not None and before.number == set_tag.number:
            return before
        tx.append(
            "data.tagged",
            set_tag.key,
            actor=actor,
            sets=[("tag", set_tag.key, set_tag)],
            edges=[Edge(f"tag:{set_tag.key}", lineage_name(snapshot.ref), "tagged")],
            body={"ref": snapshot.ref, "before": before.number if before else None, "because": because},
        )
    return set_tag


def untag(ledger: Ledger, ref: str, *, actor: str) -> None:
    """Take a tag away; its history stays."""
    with ledger.transaction() as tx:
        if tx.find("tag", ref, Tag) is None:
            raise NotFound(f"no tag {ref!r}", "flyball data ls shows them")
        tx.append("data.untagged", ref, actor=actor, sets=[("tag", ref, None)], body={"ref": None})


def history(ledger: Ledger, name: str) -> list[TagSet]:
    """Where the tags of a name have pointed, oldest first."""
    return [
        TagSet(event.subject, event.body.get("ref"), event.at, event.actor, event.body.get("because") or "")
        for kind in ("data.tagged", "data.untagged")
        for event in ledger.events(kind=kind, subject=f"{name}@")
    ]


def forget(
    ledger: Ledger, ref: str, *, actor: str, because: str = "", even_if_used: bool = False
) -> Snapshot:
    """Take a snapshot's name away, so that a collection may take its bytes; its number is never given again.

    What a tag points at, or something was made from, is :class:`Refused` unless ``even_if_used``.
    """
    if "@" not in ref:
        raise Invalid(f"{ref!r} names no single snapshot", f"say which: {ref}@1")
    snapshot = resolve(ledger, ref)
    tags = [one.key for one in ledger.ls("tag", Tag, f"{snapshot.name}@") if one.number == snapshot.number]
    if tags:
        raise Conflict(
            f"{', '.join(tags)} points at {snapshot.ref}", f"flyball data untag {tags[0]}", tags=tags
        )
    used = sorted(
        {
            edge.made
            for edge in ledger.made_with(lineage_name(snapshot.ref))
            if not edge.made.startswith(f"snapshot:{snapshot.name}@") and not edge.made.startswith("tag:")
        }
    )
    if used and not even_if_used:
        raise Refused(
            f"{len(used)} things were made from {snapshot.ref}: {', '.join(used[:5])}",
            "they could not be reproduced any more; --even-if-used forgets it all the same",
            used=used,
        )
    with ledger.transaction() as tx:
        gone = msgspec.structs.replace(snapshot, forgotten=True)
        tx.append(
            "data.forgotten",
            gone.ref,
            actor=actor,
            sets=[("snapshot", gone.ref, gone)],
            body={"because": because, "used": used},
        )
    return gone
