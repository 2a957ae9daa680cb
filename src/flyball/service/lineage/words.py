"""What a person means by ``delays@champion``, ``flights``, ``run_…``, a digest, a package or a commit."""

from __future__ import annotations

import re
from collections.abc import Callable

from flyball.core.hashing import is_digest
from flyball.core.lineage import Direction
from flyball.errors import FlyballError, Invalid, NotFound
from flyball.service.lineage.nouns import BY_DIGEST, IDS, table_of
from flyball.service.workspace import Workspace
from flyball.stores.lineage import LedgerReader

WHOLE = (".", "workspace")
_SAME = {"data": "snapshot", "predictions": "prediction", "source": "source"}
_BARE = ("endpoint", "experiment", "model", "service", "snapshot", "source", "view")
_PREFIXED = (*_BARE, "alias", "commit", "package", "prediction", "tag")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_PREDICTION = re.compile(r"p_[0-9a-z]{26}(\.[0-9]+)?")
_SHORT_DIGEST = re.compile(r"b3:[0-9a-f]{6,63}")


def key_of_words(ws: Workspace, ledger: LedgerReader, words: str, direction: Direction) -> str:
    """The name in the graph of what these words mean; ``prediction:…`` when it can only be a prediction.

    Several meanings are :class:`Invalid` and named; what nothing is called is :class:`NotFound` with near names.
    """
    noun, colon, name = words.partition(":")
    noun = _SAME.get(noun, noun)
    if colon and noun in _PREFIXED:
        return _prefixed(ws, ledger, noun, name, direction)
    if colon and name and noun in (*IDS.values(), *BY_DIGEST):
        return key_of_words(ws, ledger, name, direction)
    if found := _by_form(ws, ledger, words):
        return found
    candidates = [key for one in _BARE if (key := _among(ws, ledger, one, words, direction))]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise Invalid(
            f"{words!r} names several things", f"say which: {', '.join(candidates)}", candidates=candidates
        )
    if _COMMIT.fullmatch(words) and (found := _commit(ledger, words)):
        return found
    return f"prediction:{words}"


def not_found(ws: Workspace, ledger: LedgerReader, words: str) -> NotFound:
    """The error for words that nothing is called, with what is called nearly so."""
    from difflib import get_close_matches

    from flyball.models import refs
    from flyball.versions import data

    name = words.rpartition("@")[0]
    for noun, resolve in (("model", refs.resolve), ("snapshot", data.resolve)):
        if name and ledger.keys(noun, f"{name}@"):
            try:
                resolve(ws.ledger, words)
            except NotFound as error:  # it knows the versions there are
                return error

    known: dict[str, None] = {}
    for noun in (
        "model",
        "snapshot",
        "view",
        "service",
        "on_demand",
        "route",
        "report",
        "decision",
        "incident",
        "run",
    ):
        for key in ledger.keys(noun):
            known[key] = None
            known[key.partition("@")[0]] = None
    close = get_close_matches(words, list(known), n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "nothing is called nearly so"
    return NotFound(
        f"no prediction {words!r}, and nothing else of that name",
        f"{hint} (an answer of POST /predict carries its id; flyball runs ls, data ls and models ls list the rest)",
        id=words,
    )


def _prefixed(ws: Workspace, ledger: LedgerReader, noun: str, name: str, direction: Direction) -> str:
    if noun in ("prediction", "package", "commit"):
        return (_commit(ledger, name) or f"commit:{name}") if noun == "commit" else f"{noun}:{name}"
    found = _among(ws, ledger, noun, name, direction)
    if found:
        return found
    from flyball.errors import nearest

    kept = {"endpoint": "route", "source": "snapshot"}.get(noun, noun)
    keys = ledger.keys(kept)
    known = [*keys, *dict.fromkeys(key.partition("@")[0] for key in keys)] if keys else []
    raise NotFound(f"no {noun} {name!r}", nearest(name, known), noun=noun, key=name)


def _by_form(ws: Workspace, ledger: LedgerReader, words: str) -> str:
    """Names whose form says what they are."""
    for prefix, noun in IDS.items():
        if words.startswith(prefix):
            if ledger.records([(noun, words)]) or ledger.edges([words], "up"):
                return words
            if prefix != "m-":  # two letters that a name may begin with
                raise _no_record(ledger, noun, words)
    if _PREDICTION.fullmatch(words):
        return f"prediction:{words}"
    if is_digest(words):
        return words
    if _SHORT_DIGEST.fullmatch(words):
        return _longer(ws, ledger, words)
    if "==" in words:
        return f"package:{words}"
    endpoint, mark, generation = words.rpartition("#")
    return words if mark and endpoint and generation.isdigit() else ""


def _no_record(ledger: LedgerReader, noun: str, words: str) -> NotFound:
    from difflib import get_close_matches

    keys = ledger.keys(noun)
    close = get_close_matches(words, keys[-2000:], n=3, cutoff=0.8)
    hint = (
        f"did you mean {' or '.join(close)}?"
        if close
        else f"the last one is {keys[-1]}"
        if keys
        else "there is none"
    )
    return NotFound(f"no {noun} {words!r}", hint, noun=noun, key=words)


def _longer(ws: Workspace, ledger: LedgerReader, words: str) -> str:
    """The one digest that begins so: of a record, else of a blob."""
    found = {key for noun in BY_DIGEST for key in ledger.keys(noun, words)}
    if not found:
        found = {digest for digest in ws.blobs.ls() if digest.startswith(words)}
    if len(found) == 1:
        return found.pop()
    if found:
        raise Invalid(f"{len(found)} digests begin with {words}", "give more of it", digest=words)
    raise NotFound(f"no digest begins with {words!r}", "flyball data show and models show print them")


def _among(ws: Workspace, ledger: LedgerReader, noun: str, words: str, direction: Direction) -> str:
    """The name in the graph of ``words`` as one of this noun, or ""."""
    look = _LOOKS.get(noun)
    return look(ws, ledger, words, direction) if look else ""


def _model(ws: Workspace, ledger: LedgerReader, words: str, direction: Direction) -> str:
    from flyball.models import refs

    name, mark, _ = words.partition("@")
    if not mark and direction == "down" and ledger.keys("model", f"{name}@"):
        return f"model:{name}"  # all its versions
    try:
        return f"model:{refs.resolve(ws.ledger, words, deleted=True).ref}"
    except FlyballError:
        return (
            f"model:{words}" if ledger.records([("model", words)]) else ""
        )  # its record can't be read: still shown


def _snapshot(ws: Workspace, ledger: LedgerReader, words: str, direction: Direction) -> str:
    if direction == "down" and "@" not in words:
        return ""  # the name, whatever it stands for
    if not ledger.keys("snapshot", f"{words.partition('@')[0]}@"):
        return ""
    from flyball.versions import data

    try:
        return f"snapshot:{data.resolve(ws.ledger, words).ref}"
    except FlyballError:
        return f"snapshot:{words}" if ledger.records([("snapshot", words)]) else ""


def _versioned(noun: str) -> Callable[[Workspace, LedgerReader, str, Direction], str]:
    def look(_ws: Workspace, ledger: LedgerReader, words: str, direction: Direction) -> str:
        name, mark, wanted = words.partition("@")
        if mark and wanted != "latest":
            return f"{noun}:{words}" if ledger.records([(noun, words)]) else ""
        keys = [key for key in ledger.keys(noun, f"{name}@") if key.rpartition("@")[2].isdigit()]
        if not keys:
            return ""
        if not mark and direction == "down":
            return f"{noun}:{name}"
        return f"{noun}:{max(keys, key=lambda key: int(key.rpartition('@')[2]))}"

    return look


def _named(noun: str) -> Callable[[Workspace, LedgerReader, str, Direction], str]:
    def look(_ws: Workspace, ledger: LedgerReader, words: str, _direction: Direction) -> str:
        return f"{noun}:{words}" if ledger.records([(noun, words)]) else ""

    return look


def _endpoint(_ws: Workspace, ledger: LedgerReader, words: str, _direction: Direction) -> str:
    return f"endpoint:{words}" if ledger.records([("route", words)]) else ""


def _experiment(_ws: Workspace, ledger: LedgerReader, words: str, _direction: Direction) -> str:
    if ledger.records([("experiment", words)]):
        return f"experiment:{words}"
    for stored in ledger.all_of(["experiment"]):
        if table_of(stored.content).get("name") == words:
            return f"experiment:{stored.key}"
    return ""


def _commit(ledger: LedgerReader, words: str) -> str:
    commits = {table_of(stored.content).get("commit") for stored in ledger.all_of(["code"])}
    found = [one for one in commits if isinstance(one, str) and one.startswith(words)]
    if len(found) > 1:
        raise Invalid(f"{len(found)} commits begin with {words}", "give more of it", commit=words)
    return f"commit:{found[0]}" if found else ""


_LOOKS: dict[str, Callable[[Workspace, LedgerReader, str, Direction], str]] = {
    "model": _model,
    "snapshot": _snapshot,
    "source": lambda _ws, ledger, words, direction: (
        f"source:{words}"
        if direction == "down" and "@" not in words and ledger.keys("snapshot", f"{words}@")
        else ""
    ),
    "view": _versioned("view"),
    "alias": _named("alias"),
    "tag": _named("tag"),
    "service": _versioned("service"),
    "on_demand": _versioned("on_demand"),
    "endpoint": _endpoint,
    "experiment": _experiment,
}
