"""Everything in a graph recomputed: ledger, blobs, data, runs, signatures, the prediction log; and the whole workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import msgspec
import sqlalchemy as sa
from blake3 import blake3

from flyball.core.hashing import is_digest
from flyball.core.lineage import Graph, Node, is_part
from flyball.errors import FlyballError, NotFound
from flyball.service.lineage.nouns import refs_of, table_of
from flyball.service.lineage.reading import Reading
from flyball.service.workspace import Workspace
from flyball.stores import ledger_check
from flyball.stores.lineage import LedgerReader
from flyball.stores.run_tables import ARTIFACTS, FACTS, POINTS, RUNS, SUMMARIES

_GONE = " is gone"
_THREADS = 4  # BLAKE3 lets go of the interpreter, and so does reading


class Verdict(msgspec.Struct):
    """How many objects were rechecked, and what is not what it was."""

    objects: int = 0
    broken: list[str] = []

    def note(self, problems: Iterable[str]) -> None:
        """Add problems, each once."""
        self.broken += [one for one in dict.fromkeys(problems) if one not in self.broken]


def verify(ws: Workspace, reading: Reading, graph: Graph) -> Verdict:
    """Recheck every node of a graph and mark it: what it is not any more is said beside it."""
    verdict = Verdict()
    found, verdict.objects = _ledger(ws, reading, graph)
    files = _files(graph)
    held = {
        node.key: (node.key, *node.digests)
        if node.noun == "artifact" and node.key not in files
        else node.digests
        for node in graph.nodes.values()
    }
    blobs = _blobs(ws, {digest for some in held.values() for digest in some})
    blobs |= {digest: "" for digest, said in blobs.items() if said.endswith(_GONE) and _collected(ws, digest)}
    verdict.objects += len(blobs)
    for node in list(graph.nodes.values()):
        problems = [*node.broken, *found.get(node.key, ())]
        problems += [blobs[digest] for digest in held[node.key] if blobs.get(digest)]
        own = _OWN.get(node.noun)
        if own is not None and not node.missing and not _let_go(ws, reading, node):
            problems += _asked(own, ws, node.name)
            verdict.objects += 1
        if node.missing:
            problems.append(f"{node.noun} {node.name} is gone from the ledger")
        node.broken = list(dict.fromkeys(problems))
        node.verified = not node.broken
        verdict.note(node.broken)
    _mark_files(graph, files)
    return verdict


def _ledger(ws: Workspace, reading: Reading, graph: Graph) -> tuple[dict[str, list[str]], int]:
    try:
        with ws.ledger.reading() as connection:
            wanted = reading.behind(graph.nodes, LedgerReader(connection))
            problems, objects = ledger_check.check(connection, wanted, reading.edges)
            whole = ledger_check.check_database(connection)
    except FlyballError as error:
        problems, objects, whole = {}, 0, [error.what]
    if whole:
        problems.setdefault(graph.root, []).extend(whole)
    for name, said in problems.items():
        if name not in graph.nodes:  # the other end of an edge that leads out of this graph
            problems.setdefault(graph.root, []).extend(said)
            break
    return problems, objects + 1


def _files(graph: Graph) -> dict[str, str]:
    """Nodes that are here as files of snapshots only, with their paths: where the bytes lie, the manifest says."""
    paths: dict[str, str] = {}
    others: set[str] = {graph.root}
    for link in graph.links:
        kind, _, path = link.role.partition(":")
        if link.made.startswith("snapshot:") and kind == "file":
            paths[link.of] = path
        else:
            others.add(link.of)
    return {key: path for key, path in paths.items() if key not in others}


def _blobs(ws: Workspace, digests: set[str]) -> dict[str, str]:
    """Problem or "" by digest."""
    names = sorted(filter(is_digest, digests))
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(names, pool.map(lambda digest: blob_problem(ws, digest), names), strict=True))


def blob_problem(ws: Workspace, digest: str) -> str:
    """Read a blob's bytes again: "" or what is wrong with them."""
    hasher = blake3()
    try:
        for piece in ws.blobs.stream(digest):
            hasher.update(piece)
    except NotFound:
        return f"blob {digest}{_GONE}"
    except FlyballError as error:
        return f"blob {digest} can't be read: {error.what}"
    return "" if "b3:" + hasher.hexdigest() == digest else f"blob {digest} has changed"


def _collected(ws: Workspace, digest: str) -> bool:
    """Whether a collection says that it removed this blob: then nothing that counts needed it."""
    return any(
        digest in one.removed or one.blobs > len(one.removed)  # of many, it names the first ones only
        for one in ws.ledger.ls("collection", _Collection)
    )


class _Collection(msgspec.Struct):
    blobs: int
    removed: tuple[str, ...] = ()


def _let_go(ws: Workspace, reading: Reading, node: Node) -> bool:
    """Whether a snapshot was forgotten and collected since."""
    _, record = reading.records.get(node.key, ("", {}))
    if not record.get("forgotten"):
        return False
    held = [record.get("manifest"), *(file.get("digest") for file in record.get("files", ()))]
    return any(digest and is_digest(digest) and _collected(ws, digest) for digest in held)


def _asked(own: Callable[[Workspace, str], list[str]], ws: Workspace, name: str) -> list[str]:
    try:
        return own(ws, name)
    except FlyballError as error:
        return [f"{name} can't be rechecked: {error.what}"]


def _data(ws: Workspace, ref: str) -> list[str]:
    from flyball.versions import data

    return [f"{ref}: {one}" for one in data.verify(ws.ledger, ws.blobs, ref)]


def _run(ws: Workspace, run: str) -> list[str]:
    from flyball.stores.runs import RunStore

    store = RunStore(ws.ledger)
    return store.verify(run) and store.verify(
        run
    )  # a run that goes on may have been written between two reads


def _signatures(ws: Workspace, ref: str) -> list[str]:
    """Ed25519 signatures of a version, whether trusted or not: each must fit the version as it is."""
    from flyball.core.records import ModelSignature, ModelVersion
    from flyball.models import signing

    given = ws.ledger.ls("signature", ModelSignature, f"{ref}/")
    if not given:
        return []
    version = ws.ledger.get("model", ref, ModelVersion)
    fits = signing.statement_of(version)
    return [
        f"the signature of {ref} by {one.key_id} does not fit it"
        for one in given
        if signing.check(one, what=ref) != fits
    ]


def _answers(ws: Workspace, _name: str) -> list[str]:
    return [f"the prediction log: {one}" for one in ws.predictions.changed("")]


_OWN: dict[str, Callable[[Workspace, str], list[str]]] = {
    "snapshot": _data,
    "run": _run,
    "model": _signatures,
    "predictions": _answers,
}


def _mark_files(graph: Graph, files: dict[str, str]) -> None:
    """A file of a snapshot is what it was unless the snapshot's own check names it."""
    for key, path in files.items():
        node = graph.nodes[key]
        if node.broken:
            continue
        node.broken = [
            said
            for snapshot in graph.nodes.values()
            if snapshot.noun == "snapshot"
            for said in snapshot.broken
            if key in said or (path and f" {path}:" in said)
        ]
        node.verified = not node.broken


def verify_all(ws: Workspace) -> Verdict:
    """Everything there is: the whole ledger in order, every run, snapshot and blob, the prediction log."""
    verdict = Verdict()
    try:
        with ws.ledger.reading() as connection:
            said, verdict.objects = ledger_check.check_all(connection)
            verdict.note(ledger_check.check_database(connection))
        verdict.note(said)
        nouns = {noun: ws.ledger.keys(noun) for noun in ("run", "snapshot", "model")}
    except FlyballError as error:
        verdict.note([error.what])
        nouns = {}
    for noun, keys in nouns.items():
        for key in keys:
            verdict.objects += 1
            verdict.note(_asked(_OWN[noun], ws, key))
    stored = set(ws.blobs.ls())
    digests = _blobs(ws, stored)
    verdict.objects += len(digests)
    verdict.note(said for said in digests.values() if said)
    verdict.note(_asked(lambda ws, _: _named_but_gone(ws, stored), ws, "what the ledger names"))
    verdict.note(_asked(lambda ws, _: _rows_of_no_run(ws), ws, "the tables of runs"))
    verdict.note(_asked(_answers, ws, "the prediction log"))
    return verdict


def _named_but_gone(ws: Workspace, stored: set[str]) -> list[str]:
    """Blobs that models, code or artifacts are made of and that are not in the store."""
    needed: dict[str, str] = {}
    with ws.ledger.reading() as connection:
        for one in LedgerReader(connection).all_of(["model", "code"]):
            refs = refs_of(one.noun, table_of(one.content))
            needed |= {ref.of: f"{one.noun} {one.key}" for ref in refs if is_part(ref.role)}
        rows = connection.execute(sa.select(ARTIFACTS.c.digest, ARTIFACTS.c.owner, ARTIFACTS.c.path))
        needed |= {digest: f"{path} of {owner}" for digest, owner, path in rows}
    gone = [digest for digest in needed if digest not in stored]
    return [f"blob {digest}{_GONE}: {needed[digest]}" for digest in gone if not _collected(ws, digest)]


def _rows_of_no_run(ws: Workspace) -> list[str]:
    """Facts, points and artifacts whose run is not in the table of runs."""
    found: set[str] = set()
    with ws.ledger.reading() as connection:
        known = set(connection.execute(sa.select(RUNS.c.id)).scalars())
        for column in (FACTS.c.run, POINTS.c.run, SUMMARIES.c.run, ARTIFACTS.c.owner):
            found |= set(connection.execute(sa.select(column).distinct()).scalars()) - known
    owners = [run for run in sorted(found) if not run.startswith(("m-", "model:"))]
    return [f"there are rows of run {run}, but no such run" for run in owners]
