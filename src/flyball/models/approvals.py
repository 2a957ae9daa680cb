"""Who must say yes before a version may serve: roles per model, an approval per role, and the guard that asks for them.

An approval is good for exactly the bytes that were approved. The guard stands where aliases move, in the same
transaction: a person, a pipeline, MLflow's client and the governor all pass it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from flyball.core.records import Approval, ModelVersion, RegisteredModel
from flyball.errors import Invalid, NotFound, Refused
from flyball.models.refs import Reader, find_model, get_model, resolve
from flyball.stores.metadata import Ledger


def require(
    ledger: Ledger,
    model: str,
    roles: Iterable[str],
    *,
    actor: str,
    protected: Iterable[str] | None = None,
    because: str = "",
) -> RegisteredModel:
    """Let no protected alias (or stage) point at a version that not all ``roles`` have approved; no roles: let all."""
    wanted = tuple(dict.fromkeys(role.strip() for role in roles if role.strip()))
    for role in wanted:
        _check_role(role)
    with ledger.transaction() as tx:
        before = get_model(tx, model)
        guarded = before.protected if protected is None else tuple(dict.fromkeys(protected))
        if wanted and not guarded:
            raise Invalid("approvals protect at least one alias", "--aliases champion", model=model)
        record = msgspec.structs.replace(before, roles=wanted, protected=guarded, updated=tx.now())
        tx.append(
            "model.approval_required",
            before.family,
            actor=actor,
            sets=[("registered_model", before.family, record)],
            body={"roles": list(wanted), "aliases": list(guarded), "because": because},
        )
    return record


def approve(ledger: Ledger, ref: str, role: str, *, actor: str, note: str = "") -> Approval:
    """Say yes to a version, in a role; saying it again renews the note."""
    _check_role(role)
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        roles = get_model(tx, version.kin).roles
        if roles and role not in roles:
            raise Invalid(
                f"{version.kin} asks for no approval as {role!r}",
                f"it asks for {', '.join(roles)}; flyball models require-approval changes that",
                role=role,
            )
        record = Approval(
            model=version.ref, role=role, by=actor, at=tx.now(), artifact=version.artifact, note=note
        )
        tx.append(
            "model.approved",
            version.ref,
            actor=actor,
            sets=[("approval", record.key, record)],
            body={"role": role, "note": note},
        )
    return record


def withdraw(ledger: Ledger, ref: str, role: str, *, actor: str, note: str = "") -> Approval:
    """Take an approval back. What serves goes on serving; nothing may go back to this version any more."""
    with ledger.transaction() as tx:
        version = resolve(tx, ref)
        given = tx.find("approval", f"{version.ref}/{role}", Approval)
        if given is None or given.withdrawn:
            raise NotFound(f"{version.ref} has no approval as {role!r}", "flyball models show lists them")
        record = Approval(
            model=version.ref,
            role=role,
            by=actor,
            at=tx.now(),
            artifact=version.artifact,
            note=note,
            withdrawn=True,
        )
        tx.append(
            "model.approval_withdrawn",
            version.ref,
            actor=actor,
            sets=[("approval", record.key, record)],
            body={"role": role, "note": note},
        )
    return record


def approvals_of(reader: Reader, version: ModelVersion) -> list[Approval]:
    """What was said about a version, withdrawn words included."""
    return reader.ls("approval", Approval, f"{version.ref}/")


def missing(reader: Reader, version: ModelVersion, alias: str) -> tuple[str, ...]:
    """The roles whose approval is wanting before ``alias`` may point at this version.

    >>> missing(ledger, version, "champion")           # doctest: +SKIP
    ('risk',)
    """
    model = find_model(reader, version.kin)
    if model is None or not model.roles or not is_protected(model, alias):
        return ()
    given = {
        one.role
        for one in approvals_of(reader, version)
        if not one.withdrawn and one.artifact == version.artifact
    }
    return tuple(role for role in model.roles if role not in given)


def is_protected(model: RegisteredModel, alias: str) -> bool:
    """Whether approvals stand before this alias (or stage; upper and lower case are one)."""
    return alias.lower() in {one.lower() for one in model.protected}


def guard(reader: Reader, version: ModelVersion, alias: str, *, going_back: bool = False) -> None:
    """:class:`Refused`, naming who is missing, when ``alias`` may not point at this version.

    Going back to what served before waits for no one; only a withdrawn approval stops it.
    """
    wanting = missing(reader, version, alias)
    if wanting and going_back:
        withdrawn = {one.role for one in approvals_of(reader, version) if one.withdrawn}
        wanting = tuple(role for role in wanting if role in withdrawn)
    if not wanting:
        return
    facts: dict[str, Any] = {"version": version.ref, "alias": alias, "missing": list(wanting)}
    raise Refused(
        f"{version.ref} may not become {alias}: not approved by {', '.join(wanting)}",
        f"flyball models approve {version.ref} --as {wanting[0]}",
        **facts,
    )


def _check_role(role: str) -> None:
    if not role or any(letter in role for letter in "/,\n"):
        raise Invalid(f"{role!r} can't name a role", "a word such as risk, lead or legal")
