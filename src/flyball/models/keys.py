"""Whose signatures count, in the ledger: signing a version, trusting a key, and the check before a version is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from flyball.core.records import ModelSignature, ModelVersion, Served, TrustedKey
from flyball.errors import NotFound
from flyball.models import signing
from flyball.models.refs import Reader, resolve
from flyball.models.signing import Trust
from flyball.stores.metadata import Ledger


def sign(ledger: Ledger, ref: str, private: Any, *, actor: str) -> ModelSignature:
    """Sign a version with a private key; the signature lies in the ledger beside it."""
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        serves = tx.find("served", version.ref, Served)
        record = signing.sign(version, private, by=actor, at=tx.now(), serves=serves)
        tx.append("model.signed", version.ref, actor=actor, sets=[("signature", record.key, record)])
    return record


def trust_key(ledger: Ledger, public: str, *, owner: str, actor: str) -> TrustedKey:
    """Let the signatures of a key count."""
    with ledger.transaction() as tx:
        record = TrustedKey(
            key_id=signing.key_id_of(public), public=public, owner=owner, at=tx.now(), by=actor
        )
        tx.append("key.trusted", record.key_id, actor=actor, sets=[("trusted_key", record.key_id, record)])
    return record


def withdraw_key(ledger: Ledger, key_id: str, *, actor: str) -> TrustedKey:
    """Let the signatures of a key count no longer."""
    with ledger.transaction() as tx:
        before = tx.find("trusted_key", key_id, TrustedKey)
        if before is None or before.withdrawn:
            raise NotFound(f"no trusted key {key_id!r}", "flyball models keys ls shows them")
        record = msgspec.structs.replace(before, withdrawn=True, at=tx.now(), by=actor)
        tx.append("key.withdrawn", key_id, actor=actor, sets=[("trusted_key", key_id, record)])
    return record


def keys_of(reader: Reader) -> list[TrustedKey]:
    """The keys that the ledger trusts."""
    return [one for one in reader.ls("trusted_key", TrustedKey) if not one.withdrawn]


def trust_of(reader: Reader, named: Iterable[str] = (), *, required: bool = False) -> Trust:
    """Whose signatures count: the keys that the project's file names, else those of the ledger.

    A file that is reviewed is the stronger place: who can write the ledger can't add a key to it.
    """
    keys = frozenset(named) or frozenset(one.public for one in keys_of(reader))
    return Trust(keys, required)


def signatures_of(reader: Reader, version: ModelVersion) -> list[ModelSignature]:
    """Every signature of a version, trusted or not."""
    return reader.ls("signature", ModelSignature, f"{version.ref}/")


def check(reader: Reader, version: ModelVersion, trust: Trust | None = None) -> ModelSignature | None:
    """Before a version is loaded: :class:`Refused` when its signature is wrong, or wanting where one is required."""
    found = signatures_of(reader, version)
    if not found and (trust is None or not trust.required):
        return None
    return signing.verify(version, found, trust if trust is not None else trust_of(reader))
