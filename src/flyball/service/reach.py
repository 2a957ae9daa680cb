"""Which blobs something still needs: marked from the names in the ledger, along its lineage, never from the store.

Kept are all digests in live records (models and their files, snapshots, environments, reports, ...), in artifacts of
runs that are not deleted, in what workers were told to serve, in what other workspaces pushed here; and everything
those were made from, as far up as the edges go. Only three things can lose their bytes: outputs of steps that no such
thing was made from and that no run used lately, what belonged to deleted runs alone, and snapshots that were forgotten.
Bytes that no name mentions at all were put by someone who was killed before naming them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from flyball.core.hashing import is_digest
from flyball.errors import FlyballError, NotFound, Refused
from flyball.stores.metadata import EDGES, RECORDS
from flyball.stores.run_tables import ARTIFACTS, FACTS
from flyball.track.liveness import is_alive

if TYPE_CHECKING:
    from flyball.service.workspace import Workspace

_DIGEST = re.compile(rb"b3:[0-9a-f]{64}")
_LISTING_BYTES = 16 << 20
_MANIFEST = re.compile(rb'"manifest": ?"(b3:[0-9a-f]{64})"')


class _Artifact(msgspec.Struct):
    digest: str


class _Model(msgspec.Struct):
    artifact: str = ""


class _Step(msgspec.Struct):
    finished: datetime
    outputs: tuple[_Artifact, ...]


class _Run(msgspec.Struct):
    started: datetime
    status: str
    process: str = ""
    deleted: datetime | None = None
    outputs: dict[str, str] = {}
    steps: tuple[dict[str, Any], ...] = ()


class Reach(msgspec.Struct):
    """What stays, and what the rules let go."""

    kept: set[str] = msgspec.field(default_factory=set)  # digests
    steps: dict[str, set[str]] = msgspec.field(
        default_factory=dict
    )  # step records whose time is over -> outputs
    runs: dict[str, set[str]] = msgspec.field(
        default_factory=dict
    )  # deleted long enough ago -> what was theirs
    owners: set[str] = msgspec.field(default_factory=set)  # those of the runs that have artifacts left
    running: list[str] = msgspec.field(default_factory=list)  # runs that go on


class _Marking:
    """One pass over the ledger: names that hold, names that don't, and what each mentions."""

    def __init__(self, steps_before: datetime, deleted_before: datetime) -> None:
        self.steps_before = steps_before
        self.deleted_before = deleted_before
        self.reach = Reach()
        self.names: set[str] = set()  # as the lineage calls them: run_…, model:delays@3, delays@champion
        self.forgotten: dict[str, bytes] = {}  # snapshot:flights@2 -> its record
        self.weak: set[str] = set()  # digests that count only when something else says so
        self.manifests: set[str] = set()
        self.listings: set[str] = set()  # blobs that may be lists of others: an MLmodel folder's

    def record(self, noun: str, key: str, content: bytes) -> None:
        if noun == "collection":
            return  # it names what it removed
        if noun == "step":
            self._step(key, content)
        elif noun == "run":
            self._run(key, content)
        elif (
            noun == "snapshot" and b'"forgotten"' in content and msgspec.json.decode(content).get("forgotten")
        ):
            self.forgotten[f"snapshot:{key}"] = content
            self.weak |= _digests(content)
        else:
            self.names |= {key, f"{noun}:{key}"}
            self.keep(content)
            if noun == "model":
                self.listings |= {msgspec.json.decode(content, type=_Model).artifact} - {""}

    def keep(self, content: bytes) -> None:
        self.reach.kept |= _digests(content)
        self.manifests |= {found.decode() for found in _MANIFEST.findall(content)}

    def _step(self, key: str, content: bytes) -> None:
        step = msgspec.json.decode(content, type=_Step)
        outputs = {one.digest for one in step.outputs}
        if step.finished >= self.steps_before:
            self.reach.kept |= outputs
        else:
            self.reach.steps[key] = outputs
            self.weak |= outputs

    def _run(self, key: str, content: bytes) -> None:
        run = msgspec.json.decode(content, type=_Run)
        if run.status == "running" and (not run.process or is_alive(run.process)):
            self.reach.running.append(key)
        made = {one for one in run.outputs.values() if one.startswith("b3:")}
        made |= {digest for line in run.steps for digest in line.get("outputs", ())}
        if run.deleted is not None and run.deleted < self.deleted_before and run.status != "running":
            self.reach.runs[key] = _digests(content)
            self.weak |= _digests(content)
        else:
            self.names.add(key)
            used_lately = run.started >= self.steps_before or run.status in ("running", "scheduled")
            self.reach.kept |= _digests(content) if used_lately else _digests(content) - made
            self.weak |= made

    def artifact(self, owner: str, digest: str) -> None:
        if owner in self.reach.runs:
            self.reach.runs[owner].add(digest)
            self.reach.owners.add(owner)
            self.weak.add(digest)
        else:
            self.reach.kept.add(digest)
            self.names.add(owner)

    def follow(self, edges: Iterable[tuple[str, str, str]]) -> None:
        """Keep what live things were made from. Reuse by a run alone holds nothing: that is the rule of steps."""
        up: dict[str, list[str]] = {}
        mentioned: set[str] = set()
        for made, of, role in edges:
            mentioned |= {one for one in (made, of) if one.startswith("b3:")}
            if role != "reused" and not (role == "parent" and made.startswith("snapshot:")):
                up.setdefault(made, []).append(of)
        seen = self.names | self.reach.kept
        waiting = list(seen)
        while waiting:
            name = waiting.pop()
            for of in (*up.get(name, ()), *self._inside(name)):
                if of not in seen:
                    seen.add(of)
                    waiting.append(of)
        self.reach.kept |= {name for name in seen if name.startswith("b3:")}
        self.reach.kept |= mentioned - self.weak

    def _inside(self, name: str) -> set[str]:
        """What a name holds that was let go by itself but is reached by lineage after all."""
        if name in self.reach.runs:
            self.reach.owners.discard(name)
            return self.reach.runs.pop(name)
        if (content := self.forgotten.get(name)) is not None:
            self.manifests |= {found.decode() for found in _MANIFEST.findall(content)}
            return _digests(content)
        return set()


def mark(ws: Workspace, *, steps_before: datetime, deleted_before: datetime) -> Reach:
    """What must stay now; a manifest that can't be read is :class:`Refused`, for nobody knows what it needs."""
    marking = _Marking(steps_before, deleted_before)
    with ws.ledger.reading() as connection:
        for noun, key, content in _rows(
            connection, sa.select(RECORDS.c.noun, RECORDS.c.key, RECORDS.c.content)
        ):
            marking.record(noun, key, bytes(content))
        for owner, digest in _rows(connection, sa.select(ARTIFACTS.c.owner, ARTIFACTS.c.digest)):
            marking.artifact(owner, digest)
        mentioning = sa.select(FACTS.c.run, FACTS.c.text).where(FACTS.c.text.contains("b3:"))
        for owner, said in _rows(connection, mentioning):  # tags and params that name bytes
            for digest in _digests(said.encode(errors="surrogatepass")):
                marking.artifact(owner, digest)
        for name in ws.blobs.ls_named(""):
            marking.keep(ws.blobs.get_named(name) or b"")
        if ws.plan_path.is_file():
            marking.keep(ws.plan_path.read_bytes())
        marking.follow(_rows(connection, sa.select(EDGES.c.made, EDGES.c.of, EDGES.c.role)))
    _open_listings(ws, marking)
    _open_manifests(ws, marking)
    return marking.reach


def _open_listings(ws: Workspace, marking: _Marking) -> None:
    """Models whose bytes are a short JSON list of files by digest: the files stay with it."""
    for digest in sorted(marking.listings):
        try:
            if ws.blobs.size_bytes(digest) <= _LISTING_BYTES:
                content = ws.blobs.read_unchecked(digest)
                marking.reach.kept |= _digests(content) if content[:1] == b"{" else set()
        except NotFound:
            continue  # nothing left to hold


def _open_manifests(ws: Workspace, marking: _Marking) -> None:
    from flyball.versions.manifest import mentions

    for digest in sorted(marking.manifests):
        try:
            marking.reach.kept |= {digest} | mentions(ws.blobs, digest)
        except FlyballError as error:
            raise Refused(
                f"what the manifest {digest} needs can't be told: {error.what}",
                "nothing was removed; flyball data verify says which snapshot it is and how to mend it",
                digest=digest,
            ) from error


def named_blobs(ws: Workspace) -> set[str]:
    """Blobs that must be there: of artifacts, models and snapshots (those that were collected by rule left out).

    Not every digest in a record is a blob's (some name records); these are.
    """
    from flyball.versions.manifest import mentions

    found: set[str] = set()
    with ws.ledger.reading() as connection:
        found |= {digest for (digest,) in _rows(connection, sa.select(ARTIFACTS.c.digest))}
        query = sa.select(RECORDS.c.noun, RECORDS.c.content).where(RECORDS.c.noun.in_(["snapshot", "model"]))
        for noun, content in _rows(connection, query):
            record = msgspec.json.decode(content)
            if noun == "model":
                found |= {record[key] for key in ("artifact", "native") if record.get(key)}
            elif record.get("manifest") and not record.get("forgotten"):
                found.add(record["manifest"])
                if record["manifest"] in ws.blobs:
                    found |= mentions(ws.blobs, record["manifest"])
    return {digest for digest in found if is_digest(digest)}


def _rows(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Any]:
    return iter(connection.execution_options(yield_per=5000).execute(query))


def _digests(content: bytes) -> set[str]:
    return {found.decode() for found in _DIGEST.findall(content)}
