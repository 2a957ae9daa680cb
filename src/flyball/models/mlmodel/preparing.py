"""Find out, once, what an MLmodel folder serves as, when a person deploys it; the console itself loads nothing."""

from __future__ import annotations

import signal
import subprocess
import sys

import msgspec

from flyball import errors
from flyball.core.events import Edge
from flyball.core.records import ModelVersion, Served
from flyball.errors import FlyballError, Internal, Invalid, Unavailable
from flyball.models.formats import is_trusted
from flyball.models.mlmodel.reading import Asked
from flyball.models.refs import lineage_name
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger

_MOST_S = 600.0


class _Answer(msgspec.Struct):
    served: Served | None = None
    failed: dict[str, object] | None = None


def prepare(ledger: Ledger, blobs: Blobs, version: ModelVersion, *, actor: str) -> Served:
    """What a version of format ``mlmodel`` serves as; decided once and kept.

    Loads the model, in a process of its own: call it where a person asked for that. :class:`Refused` when nobody has
    vouched for what it runs; :class:`Invalid` also when loading it ends that process.
    """
    if (found := ledger.find("served", version.ref, Served)) is not None:
        return found
    asked = Asked(
        ref=version.ref,
        manifest=version.artifact,
        said=version.signature,
        trusted=is_trusted(version.export),
        blobs=blobs.url,
    )
    if blobs.url.startswith("memory:"):  # what lies in memory has no other process to go to
        from flyball.models.mlmodel.looking import look

        served = look(asked, blobs)
    else:
        served = _looked_at(asked)
    edges = []
    if served.artifact != version.artifact:
        edges = [Edge(lineage_name(version.ref), served.artifact, "served as")]
    with ledger.transaction() as tx:
        if (found := tx.find("served", version.ref, Served)) is not None:
            return found
        tx.append(
            "model.prepared", version.ref, actor=actor, sets=[("served", version.ref, served)], edges=edges
        )
    return served


def _looked_at(asked: Asked) -> Served:
    command = [sys.executable, "-m", "flyball.models.mlmodel.looking"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(asked), capture_output=True, timeout=_MOST_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Invalid(
            f"{asked.ref} did not load within {_MOST_S:g} s", "does it wait for something that is not here?"
        ) from error
    except OSError as error:
        raise Unavailable(f"no process to load {asked.ref} in: {error}", "try again") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise Invalid(
            f"{asked.ref} does not load: trying it ended the process ({name})",
            "its files are torn, or its libraries are not those it was made with",
            model=asked.ref,
        )
    last = done.stderr.decode(errors="replace").strip().splitlines()
    try:
        answer = msgspec.json.decode(done.stdout, type=_Answer)
    except msgspec.DecodeError as error:
        raise Invalid(
            f"{asked.ref} does not load: {last[-1] if last else 'no word'}", "look at its files"
        ) from error
    if answer.served is not None:
        return answer.served
    raise _error_of(answer.failed or {})


def _error_of(said: dict[str, object]) -> FlyballError:
    kind = getattr(errors, str(said.get("error")), Internal)
    facts = said.get("facts")
    known = {str(name): value for name, value in facts.items()} if isinstance(facts, dict) else {}
    found: FlyballError = kind(str(said.get("what", "")), str(said.get("hint", "")), **known)
    return found
