"""``fb.models`` and ``flyball models``: the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from flyball.core.records import Alias, Approval, ModelVersion, RegisteredModel
from flyball.service.model_files import import_folder, trust
from flyball.service.verb import CURRENT, verb
from flyball.service.vouching import (
    approve,
    keys_distrust,
    keys_ls,
    keys_new,
    keys_trust,
    require_approval,
    sign,
    verify,
    withdraw,
)
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.models.predictor import Predictor

__all__ = [
    "alias",
    "approve",
    "card",
    "compare",
    "delete",
    "describe",
    "history",
    "import_folder",
    "keys_distrust",
    "keys_ls",
    "keys_new",
    "keys_trust",
    "load",
    "ls",
    "register",
    "rename",
    "require_approval",
    "served",
    "show",
    "sign",
    "stage",
    "tag",
    "trust",
    "unalias",
    "verify",
    "withdraw",
]
PERSON = "asked for by a person"


class Shown(ModelVersion, frozen=True, kw_only=True):
    """A version with what others say of it: names, aliases, approvals, signatures, and where it serves."""

    called: str
    aliases: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    approvals: tuple[Approval, ...] = ()
    missing: tuple[str, ...] = ()  # roles that have not approved it
    signed_by: tuple[str, ...] = ()

    def as_text(self) -> str:
        """What there is to say, and nothing of what is empty."""
        shown = [*self.signature.inputs[:8]]
        more = f", {len(self.signature.inputs) - 8} more" if len(self.signature.inputs) > 8 else ""
        inputs = ", ".join(f"{one.name} {one.datatype}" for one in shown) + more
        outputs = ", ".join(f"{one.name} {one.datatype}" for one in self.signature.outputs)
        native = f", native {self.native[:15]} ({self.native_format})" if self.native else ""
        lines = {
            "format": f"{self.format}, registered {self.created:%Y-%m-%d %H:%M:%S} by {self.by or 'unknown'}",
            "called": self.called if self.called != self.ref else "",
            "deleted": f"{self.updated:%Y-%m-%d %H:%M:%S}" if self.deleted and self.updated else "",
            "aliases": ", ".join(self.aliases),
            "stage": self.stage if self.stage != "None" else "",
            "serves at": ", ".join(self.serves),
            "approved": ", ".join(f"{one.role} ({one.by})" for one in self.approvals),
            "not approved": ", ".join(self.missing),
            "signed by": ", ".join(self.signed_by),
            "description": self.description or self.note,
            "tags": ", ".join(f"{key}={value}" for key, value in self.tags.items()),
            "takes": inputs,
            "answers": outputs,
            "metrics": ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items()),
            "learned from": ", ".join(f"{role} {ref}" for role, ref in self.training.items()),
            "gate": self.gate or "",
            "run": self.run or "",
            "features": self.feature_service or "",
            "source": self.source,
            "bytes": f"{self.artifact[:15]}{native}",
            "export": str(self.export.get("reason", "")) or _proof(self.export),
        }
        width = max(len(name) for name, value in lines.items() if value)
        return "\n".join(
            [self.ref, *(f"  {name:<{width}}  {value}" for name, value in lines.items() if value)]
        )


def _proof(facts: dict[str, Any]) -> str:
    if facts.get("largest_difference") is None:
        return ""
    return (
        f"equal to the native model within {facts['largest_difference']:.2g} on {facts.get('rows', '?')} rows"
    )


def register(name: str, model: Any, **options: Any) -> Any:
    """Register a model: in a pipeline a step, elsewhere at once. Options as in :func:`flyball.models.registry.register`."""
    from flyball.service.steps import register_model

    return register_model(name, model, **options)


def load(ref: str, *, ws: Workspace | None = None) -> Predictor:
    """The predictor that ``delays@champion`` names, its bytes and signature checked first.

    >>> fb.models.load("delays@champion").predict(frame)         # doctest: +SKIP
    array([0.31, 0.08])
    """
    from flyball.models import predictor
    from flyball.service.serving import trust_in

    ws = ws if ws is not None else Workspace.current()
    return predictor.load(ws.ledger, ws.blobs, ref, trust=trust_in(ws))


@verb("models ls", reads=True)
def ls(model: str = "", deleted: bool = False, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """List model versions with the aliases that point at them; --model NAME for one, --deleted for hidden ones too."""
    from flyball.models import refs

    wanted = refs.family_of(ws.ledger, model) if model else ""
    aliases: dict[str, list[str]] = {}
    for pointing in ws.ledger.ls("alias", Alias):
        aliases.setdefault(f"{pointing.model}@{pointing.number}", []).append(pointing.alias)
    names = {one.family: one.name for one in ws.ledger.ls("registered_model", RegisteredModel)}
    rows = []
    for one in ws.ledger.ls("model", ModelVersion):
        if (one.deleted and not deleted) or wanted not in ("", one.kin):
            continue
        row: dict[str, Any] = {
            "ref": one.ref,
            "aliases": ", ".join(aliases.get(f"{one.kin}@{one.number}", [])),
            "format": one.format,
            "created": one.created,
            "metrics": " ".join(f"{name}={value:.4g}" for name, value in one.metrics.items()),
            "run": one.run,
            "stage": one.stage,
            "model": names.get(one.kin, one.name),
        }
        rows.append(row | {"deleted": one.deleted} if deleted else row)
    return rows


@verb("models show", reads=True)
def show(ref: str, *, ws: Workspace = CURRENT) -> Shown:
    """Show one version: signature, artifact, training data, gate, aliases, approvals, signatures, and where it serves."""
    from flyball.models import approvals, catalogue, keys, refs

    version = refs.resolve(ws.ledger, ref, deleted=True)
    model = refs.find_model(ws.ledger, version.kin)
    pointing = refs.aliases_of(ws.ledger, version.kin)
    given = approvals.approvals_of(ws.ledger, version)
    return Shown(
        **msgspec.structs.asdict(version),
        called=f"{model.name if model else version.name}@{version.number}",
        aliases=tuple(sorted(name for name, number in pointing.items() if number == version.number)),
        serves=tuple(catalogue.serving_at(ws.ledger, version.ref)),
        approvals=tuple(one for one in given if not one.withdrawn),
        missing=approvals.missing(ws.ledger, version, model.protected[0])
        if model and model.protected
        else (),
        signed_by=tuple(one.key_id for one in keys.signatures_of(ws.ledger, version)),
    )


@verb("models history", reads=True)
def history(model: str, alias: str = "", *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show who served what, when and why: every change of an alias or a stage, oldest first."""
    from flyball.models import refs, timeline

    refs.resolve(ws.ledger, model, deleted=True)
    return [
        {
            "at": one.at,
            "alias": one.alias,
            "version": one.version or "-",
            "until": one.until,
            "actor": one.actor,
            "because": one.because,
        }
        for one in timeline.changes(ws.ledger, model, alias)
    ]


@verb("models served", reads=True)
def served(
    endpoint: str = "", at: str = "", model: str = "", *, ws: Workspace = CURRENT
) -> list[dict[str, Any]]:
    """Say what served: --endpoint NAME --at TIME for one moment, --model delays@7 for when and where a version did."""
    from flyball.errors import Invalid
    from flyball.models import refs, timeline
    from flyball.service.serving import parse_when

    if at and not endpoint:
        raise Invalid("--at asks for one endpoint", "--endpoint NAME --at 2013-07-04T12:00")
    if at:
        return [msgspec.structs.asdict(timeline.served_at(ws.ledger, endpoint, parse_when(at)))]
    ref = refs.resolve(ws.ledger, model, deleted=True).ref if model else ""
    return [msgspec.structs.asdict(one) for one in timeline.served(ws.ledger, endpoint, model=ref)]


@verb("models alias")
def alias(ref: str, name: str, *, because: str = PERSON, ws: Workspace = CURRENT) -> Alias:
    """Point an alias at a version: flyball models alias delays@7 champion."""
    from flyball.models import registry

    version = registry.resolve(ws.ledger, ref)
    return registry.set_alias(ws.ledger, version.kin, name, version.number, because=because, actor=ws.actor)


@verb("models unalias")
def unalias(ref: str, *, because: str = PERSON, ws: Workspace = CURRENT) -> Alias:
    """Take an alias away: flyball models unalias delays@champion. Where it pointed stays in its history."""
    from flyball.models import registry

    name, _, which = ref.rpartition("@")
    return registry.delete_alias(ws.ledger, name, which, because=because, actor=ws.actor)


@verb("models stage")
def stage(
    ref: str, to: str, archive_others: bool = False, *, because: str = PERSON, ws: Workspace = CURRENT
) -> ModelVersion:
    """Put a version into a stage (None, Staging, Production, Archived); delays@production then names the newest in it."""
    from flyball.models import catalogue

    return catalogue.transition(
        ws.ledger, ref, to, actor=ws.actor, archive_others=archive_others, because=because
    )


@verb("models describe")
def describe(ref: str, text: str, *, ws: Workspace = CURRENT) -> RegisteredModel | ModelVersion:
    """Say what a model (delays) or a version (delays@7) is for; the card shows it."""
    from flyball.models import catalogue

    return catalogue.describe(ws.ledger, ref, text, actor=ws.actor)


@verb("models tag")
def tag(
    ref: str, tags: dict[str, str] | None = None, drop: str = "", *, ws: Workspace = CURRENT
) -> RegisteredModel | ModelVersion:
    """Tag a model or a version: --tags team=ops, repeated; --drop NAME takes one away."""
    from flyball.models import catalogue

    return catalogue.tag(ws.ledger, ref, put=tags, drop=drop, actor=ws.actor)


@verb("models rename")
def rename(model: str, to: str, *, because: str = PERSON, ws: Workspace = CURRENT) -> RegisteredModel:
    """Give a model another name; its versions keep their refs, and the old name goes on finding them."""
    from flyball.models import catalogue

    return catalogue.rename(ws.ledger, model, to, actor=ws.actor, because=because)


@verb("models delete")
def delete(ref: str, *, because: str = PERSON, ws: Workspace = CURRENT) -> RegisteredModel | ModelVersion:
    """Hide a version (delays@7), or a model with all of its versions (delays). Numbers are never given again."""
    from flyball.models import catalogue, refs

    name, wanted = refs.split(ws.ledger, ref)
    if wanted:
        return catalogue.delete_version(ws.ledger, ref, actor=ws.actor, because=because)
    return catalogue.delete_model(ws.ledger, name, actor=ws.actor, because=because)


@verb("models compare", reads=True)
def compare(one: str, other: str, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Compare two versions: only what differs."""
    from flyball.models import refs
    from flyball.models.comparing import differences

    first = refs.resolve(ws.ledger, one, deleted=True)
    second = refs.resolve(ws.ledger, other, deleted=True)
    return [
        {"what": what, first.ref: before, second.ref: after}
        for what, before, after in differences(ws.ledger, first, second)
    ]


@verb("models card", reads=True)
def card(ref: str, out: str = "", *, ws: Workspace = CURRENT) -> str:
    """Write a version's model card as Markdown, from the ledger; --out FILE puts it there."""
    from flyball.models import cards, refs

    text = cards.card(ws.ledger, refs.resolve(ws.ledger, ref, deleted=True))
    if out:
        Path(out).write_text(text)
        return out
    return text
