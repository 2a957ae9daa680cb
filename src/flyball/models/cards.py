"""A version's model card in Markdown, from the ledger alone: the same ledger gives the same text.

What it is for, what goes in and out, what it learned from, how it was judged, with which code, who approved it, where it
served, and what is known to limit it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from flyball.core.records import (
    Code,
    Environment,
    Hardware,
    ModelVersion,
    RegisteredModel,
    Report,
    Run,
    Snapshot,
)
from flyball.models import approvals, keys, timeline
from flyball.models.refs import aliases_of, find_model
from flyball.stats.interval import Interval
from flyball.stores.metadata import Ledger

_MOST_COLUMNS = 200
_MOST_SLICES = 40


def card(ledger: Ledger, version: ModelVersion) -> str:
    """The whole card."""
    model = find_model(ledger, version.kin)
    gate = ledger.find("report", version.gate, Report) if version.gate else None
    run = ledger.find("run", version.run, Run) if version.run else None
    parts = [
        _head(version, model),
        _signature(version),
        _training(ledger, version),
        _evaluation(version, gate, run),
        _made_with(ledger, version, run),
        _people(ledger, version, model),
        _serving(ledger, version),
        _limits(ledger, version, gate, run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(version: ModelVersion, model: RegisteredModel | None) -> str:
    lines = [f"# {version.ref}"]
    if model is not None and model.name != version.name:
        lines.append(f"Registered as `{version.ref}`; the model is called `{model.name}` now.")
    if version.deleted:
        lines.append("**Deleted**: kept for what was made with it.")
    said = [model.description if model else "", version.description, version.note]
    lines += [one for one in dict.fromkeys(said) if one] or ["*No description: `flyball models describe`.*"]
    tags = {**(model.tags if model else {}), **version.tags}
    facts = {
        "format": version.format,
        "registered": f"{_time(version.created)} by {version.by}" if version.by else _time(version.created),
        "stage": version.stage if version.stage != "None" else "",
        "bytes": _code(version.artifact),
        "native model": _code(version.native) if version.native not in (None, version.artifact) else "",
        "feature service": _code(version.feature_service),
        "source": _code(version.source),
        "tags": ", ".join(f"{name}={value}" for name, value in sorted(tags.items())),
    }
    rows = [(name, value) for name, value in facts.items() if value]
    return "\n\n".join([*lines, _table(("", ""), rows)])


def _signature(version: ModelVersion) -> str:
    inputs = version.signature.inputs
    example = version.example
    rows = [
        (_code(one.name), one.datatype, _shape(one.shape), "yes" if one.nullable else "no")
        + ((_value(example.get(one.name)),) if example else ())
        for one in inputs[:_MOST_COLUMNS]
    ]
    header = ("input", "type", "shape", "may be null") + (("example",) if example else ())
    parts = ["## Signature", _table(header, rows)]
    if len(inputs) > _MOST_COLUMNS:
        parts.append(f"and {len(inputs) - _MOST_COLUMNS} more inputs.")
    outputs = [(_code(one.name), one.datatype, _shape(one.shape)) for one in version.signature.outputs]
    parts.append(_table(("output", "type", "shape"), outputs))
    return "\n\n".join(parts)


def _training(ledger: Ledger, version: ModelVersion) -> str:
    if not version.training:
        return ""
    rows = []
    for role, source in sorted(version.training.items()):
        found = ledger.find("snapshot", source, Snapshot)
        if found is None:
            rows.append((role, _code(source), "", "", ""))
            continue
        amount = f"{found.rows:,}" if found.rows is not None else ""
        rows.append(
            (role, _code(found.ref), amount, _span(found), f"{_code(found.digest)}, {_time(found.created)}")
        )
    return "## Training data\n\n" + _table(("role", "snapshot", "rows", "dates", "manifest, added"), rows)


def _span(snapshot: Snapshot) -> str:
    """From when to when its time columns reach."""
    spans = []
    for name, kind in sorted(snapshot.schema.items()):
        facts = snapshot.statistics.get(name, {})
        if kind.startswith(("Date", "Datetime")) and facts.get("min") is not None:
            spans.append(f"{name} {str(facts['min'])[:10]} to {str(facts['max'])[:10]}")
    return "; ".join(spans[:3])


def _evaluation(version: ModelVersion, gate: Report | None, run: Run | None) -> str:
    measured = version.metrics or (run.metrics if run is not None else {})
    if not measured and gate is None:
        return "## Evaluation\n\nNo metrics, and no gate: nothing is known of how well it answers."
    evidence = gate.evidence if gate else {}
    champion = evidence.get("champion_metrics") or {}
    names = sorted(measured)
    header = ("metric", version.ref) + ((str(evidence.get("champion")),) if champion else ())
    rows = [
        (name, _number(measured[name])) + ((_number(champion.get(name)),) if champion else ())
        for name in names
    ]
    parts = ["## Evaluation"]
    if rows:
        parts.append(_table(header, rows))
    if gate is None:
        parts.append("It passed no gate.")
        return "\n\n".join(parts)
    window = f" on {_time(gate.since)} to {_time(gate.until)}" if gate.since and gate.until else ""
    size = f", {evidence['rows']:,} rows of {evidence['days']} days" if "rows" in evidence else ""
    parts.append(f"**{'Passed' if gate.passed else 'Refused by'} its gate** ({gate.id}){window}{size}:")
    parts.append("\n".join(f"- {one}" for one in evidence.get("because") or (gate.summary,)))
    slices = evidence.get("slices") or []
    if slices:
        shown = [
            (
                one["name"],
                f"{one['rows']:,}",
                _number(one["loss"]),
                _interval(one.get("difference")),
                "refused: " + one["because"] if one.get("refused") else one.get("because", ""),
            )
            for one in slices[:_MOST_SLICES]
        ]
        parts.append(_table(("slice", "rows", "loss", "against the champion", "said"), shown))
    return "\n\n".join(parts)


def _made_with(ledger: Ledger, version: ModelVersion, run: Run | None) -> str:
    if run is None:
        if version.run:
            return f"## Code and environment\n\nRun {_code(version.run)}, whose record this ledger does not hold."
        return "## Code and environment\n\nRegistered outside of any run: its code and environment are not known."
    code = ledger.find("code", run.code, Code)
    environment = ledger.find("environment", run.environment, Environment)
    hardware = ledger.find("hardware", run.hardware, Hardware) if run.hardware else None
    facts = {
        "run": f"{_code(run.id)}, {run.pipeline or run.name}, {_time(run.started)}, by {run.actor}",
        "because": run.because,
        "commit": f"{_code(code.commit)}{f' on {code.branch}' if code.branch else ''}"
        if code and code.commit
        else "",
        "not committed": _code(code.patch) if code and code.patch else "",
        "Python": f"{environment.python} on {environment.platform}" if environment else "",
        "packages": f"{len(environment.packages)}, {_code(environment.digest)}" if environment else "",
        "hardware": f"{hardware.cores} cores of {hardware.cpu}" if hardware else "",
        "seeds": ", ".join(
            f"{name}={value}" for name, value in sorted(run.seeds.items()) if isinstance(value, int | str)
        ),
    }
    parts = ["## Code and environment", _table(("", ""), [one for one in facts.items() if one[1]])]
    if run.params:
        rows = [(_code(name), _value(value)) for name, value in sorted(run.params.items())]
        parts.append(_table(("parameter", "value"), rows))
    parts.append(f"Rebuild it: `flyball reproduce {run.id}`.")
    return "\n\n".join(parts)


def _people(ledger: Ledger, version: ModelVersion, model: RegisteredModel | None) -> str:
    pointing = sorted(
        name for name, number in aliases_of(ledger, version.kin).items() if number == version.number
    )
    parts = ["## Aliases, approvals, signatures"]
    parts.append(f"Aliases: {', '.join(map(_code, pointing)) or 'none'}.")
    given = approvals.approvals_of(ledger, version)
    if model is not None and model.roles:
        protected = ", ".join(model.protected)
        parts.append(f"{', '.join(model.roles)} must approve it before it may become {protected}.")
    if given:
        rows = [
            (one.role, "withdrawn" if one.withdrawn else "approved", one.by, _time(one.at), one.note)
            for one in given
        ]
        parts.append(_table(("role", "", "by", "at", "note"), rows))
    elif model is not None and model.roles:
        parts.append("Not approved by anyone yet.")
    signatures = keys.signatures_of(ledger, version)
    parts += [f"Signed with {_code(one.key_id)} by {one.by}, {_time(one.at)}." for one in signatures]
    return "\n\n".join(parts)


def _serving(ledger: Ledger, version: ModelVersion) -> str:
    spans = timeline.served(ledger, model=version.ref)
    if not spans:
        return "## Serving history\n\nIt has not served."
    rows = [
        (
            one.endpoint,
            _role(one, version.ref),
            _time(one.since),
            _time(one.until) if one.until else "now",
            one.actor,
            one.because,
        )
        for one in spans
    ]
    return "## Serving history\n\n" + _table(("endpoint", "as", "from", "to", "by", "because"), rows)


def _role(one: timeline.Served, ref: str) -> str:
    if one.champion == ref:
        return "champion"
    return f"candidate, {one.share:.0%}" if one.candidate == ref and one.share is not None else "shadow"


def _limits(ledger: Ledger, version: ModelVersion, gate: Report | None, run: Run | None) -> str:
    found: list[str] = []
    strict = [one.name for one in version.signature.inputs if not one.nullable]
    if strict:
        found.append(
            f"These inputs may not be null: {', '.join(map(_code, strict[:20]))}{' …' if len(strict) > 20 else ''}."
        )
    facts = version.export
    if facts.get("largest_difference") is not None:
        found.append(
            f"What is served differs from the native model by at most {facts['largest_difference']:.2g}"
            f" on {facts.get('rows', '?')} rows."
        )
    if facts.get("reason"):
        found.append(f"Served as {version.format}: {facts['reason']}.")
    if facts.get("foreign"):
        because = (
            f"may: {facts['trusted']}" if facts.get("trusted") else "may not: nobody has vouched for them"
        )
        found.append(
            f"Loading it runs what {', '.join(map(_code, facts['foreign'][:5]))} say, which they {because}."
        )
    if gate is None:
        found.append("It passed no gate.")
    elif not gate.passed:
        found.append(f"Its gate refused it: {gate.summary}.")
    thin = [
        one["name"]
        for one in (gate.evidence.get("slices") or [] if gate else [])
        if not one.get("difference")
    ]
    if thin:
        found.append(f"Not enough data to judge: {', '.join(thin[:20])}.")
    if not version.training:
        found.append("Its training data is not recorded.")
    code = ledger.find("code", run.code, Code) if run else None
    if code is not None and code.patch:
        found.append("It was trained with code that was not committed (the patch is kept).")
    if code is not None and code.left_out:
        found.append(f"{len(code.left_out)} files of its code were too large to keep.")
    missing = approvals.missing(ledger, version, _first_protected(ledger, version))
    if missing:
        found.append(f"Not approved by {', '.join(missing)}.")
    if not keys.signatures_of(ledger, version):
        found.append("It is not signed.")
    return "## Limits and notes\n\n" + "\n".join(f"- {one}" for one in found) if found else ""


def _first_protected(ledger: Ledger, version: ModelVersion) -> str:
    model = find_model(ledger, version.kin)
    return model.protected[0] if model is not None and model.protected else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [_row(header), "|" + " --- |" * len(header), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    plain = (str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(plain) + " |"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _time(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at is not None else ""


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join("n" if one == -1 else str(one) for one in shape)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else "unknown"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return _number(value)
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _interval(found: dict[str, Any] | None) -> str:
    return str(msgspec.convert(found, Interval)) if found else ""
