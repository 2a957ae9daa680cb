"""Verbs that vouch for a version: approvals by people in roles, signatures by keys, and the check of all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from flyball.core.records import Approval, ModelSignature, RegisteredModel, TrustedKey
from flyball.errors import FlyballError
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


class Verified(msgspec.Struct, frozen=True):
    """What was checked of a version; ``wrong`` is empty when all is as it was registered."""

    ref: str
    checked: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return 1 if self.wrong else 0

    def as_text(self) -> str:
        lines = [f"ok     {one}" for one in self.checked] + [f"WRONG  {one}" for one in self.wrong]
        return "\n".join(lines)


@verb("models require-approval")
def require_approval(
    model: str,
    *,
    roles: str,
    aliases: str = "champion,Production",
    because: str = "asked for by a person",
    ws: Workspace = CURRENT,
) -> RegisteredModel:
    """Let a protected alias point only at versions that all roles have approved: --roles risk,lead (--roles "" ends it)."""
    from flyball.models import approvals

    return approvals.require(
        ws.ledger, model, _listed(roles), protected=_listed(aliases), actor=ws.actor, because=because
    )


@verb("models approve")
def approve(ref: str, *, as_: str, note: str = "", ws: Workspace = CURRENT) -> Approval:
    """Approve a version in a role: flyball models approve delays@7 --as risk --note "bias report read"."""
    from flyball.models import approvals

    return approvals.approve(ws.ledger, ref, as_, note=note, actor=ws.actor)


@verb("models withdraw")
def withdraw(ref: str, *, as_: str, note: str = "", ws: Workspace = CURRENT) -> Approval:
    """Take an approval back. What serves goes on serving; nothing may go to this version any more."""
    from flyball.models import approvals

    return approvals.withdraw(ws.ledger, ref, as_, note=note, actor=ws.actor)


@verb("models keys new")
def keys_new(owner: str = "", *, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Make a key that signs model versions, and trust it; the private half stays in .flyball/keys, mode 600."""
    from flyball.models import keys, signing

    public, path = signing.new_key(_folder(ws))
    key = keys.trust_key(ws.ledger, public, owner=owner or ws.actor, actor=ws.actor)
    return {"key": key.key_id, "public": public, "private": str(path), "owner": key.owner}


@verb("models keys ls", reads=True)
def keys_ls(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List keys: those whose signatures count, those that can sign here, and those trusted no longer."""
    from flyball.models import signing
    from flyball.service.serving import trust_in

    trusted = trust_in(ws).keys
    known = {one.public: one for one in ws.ledger.ls("trusted_key", TrustedKey)}
    here = {file.stem for file in _folder(ws).glob("*.pem")}
    return [
        {
            "key": (key_id := signing.key_id_of(public)),
            "trusted": public in trusted,
            "signs here": key_id in here,
            "owner": known[public].owner if public in known else "flyball.toml",
            "public": public,
        }
        for public in sorted({*known, *trusted})
    ]


@verb("models keys trust")
def keys_trust(public: str, owner: str = "", *, ws: Workspace = CURRENT) -> TrustedKey:
    """Let the signatures of a public key count; where flyball.toml names keys ([models] trusted), only those do."""
    from flyball.models import keys

    return keys.trust_key(ws.ledger, public, owner=owner or ws.actor, actor=ws.actor)


@verb("models keys distrust")
def keys_distrust(key: str, *, ws: Workspace = CURRENT) -> TrustedKey:
    """Let the signatures of a key count no longer."""
    from flyball.models import keys

    return keys.withdraw_key(ws.ledger, key, actor=ws.actor)


@verb("models sign")
def sign(ref: str, key: str = "", *, ws: Workspace = CURRENT) -> ModelSignature:
    """Sign a version with the key in .flyball/keys (--key KEY of several), or with the file FLYBALL_SIGNING_KEY names."""
    from flyball.models import keys, signing
    from flyball.service.serving import publish_plan

    made = keys.sign(ws.ledger, ref, signing.private_key(_folder(ws), key), actor=ws.actor)
    publish_plan(ws)  # a version that serves already goes on with its signature
    return made


@verb("models verify", reads=True)
def verify(ref: str, *, ws: Workspace = CURRENT) -> Verified:
    """Recheck a version: its record against the ledger's chain, its bytes, its signature. Exit 1 when anything changed."""
    from flyball.models import keys, refs
    from flyball.models.verifying import bytes_of
    from flyball.service.serving import trust_in

    version = refs.resolve(ws.ledger, ref, deleted=True)
    checked: list[str] = []
    wrong: list[str] = []
    said = ws.ledger.verify("model", version.ref)
    (wrong if said else checked).append(said or f"record {version.ref}")
    for what, problem in bytes_of(ws.blobs, version):
        (wrong if problem else checked).append(problem or what)
    try:
        found = keys.check(ws.ledger, version, trust_in(ws))
    except FlyballError as error:
        wrong.append(error.what)
    else:
        checked.append(f"signature by {found.key_id}" if found else "no signature, and none is required")
    return Verified(version.ref, tuple(checked), tuple(wrong))


def _listed(words: str) -> list[str]:
    return [one.strip() for one in words.split(",") if one.strip()]


def _folder(ws: Workspace) -> Path:
    return ws.state / "keys"
