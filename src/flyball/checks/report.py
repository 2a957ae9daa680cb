"""Verdicts for people (Markdown) and for CI systems (JUnit XML)."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from flyball.checks.gate import Verdict
from flyball.checks.results import ContractResult

Case = tuple[str, str, str]  # name, failure ("" is none), details


def contract_lines(result: ContractResult) -> list[str]:
    """One line for each broken expectation, then how many hold."""
    lines = [f"✗ {one.name}: {one.message}" for one in result.failed]
    return [*lines, f"✓ {len(result.results) - len(result.failed)} expectations hold on {result.rows} rows"]


def to_markdown(found: Verdict | ContractResult, title: str = "") -> str:
    """A verdict as a page: the answer first, then what it rests on."""
    return _contract(found, title) if isinstance(found, ContractResult) else _verdict(found, title)


def _contract(result: ContractResult, title: str) -> str:
    rows = [
        [
            _mark(one.passed),
            one.name,
            one.column,
            _cell(one.observed),
            one.limit,
            str(one.failing),
            one.message,
        ]
        for one in result.results
    ]
    answer = (
        "holds"
        if result.passed
        else f"**broken**: {len(result.failed)} of {len(result.results)} expectations"
    )
    head = ["", "expectation", "column", "observed", "limit", "rows", "found"]
    return (
        f"## {title or 'Contract ' + result.name}: {answer}\n\n{result.rows} rows.\n\n{_table(head, rows)}\n"
    )


def _verdict(verdict: Verdict, title: str) -> str:
    champion = verdict.champion_metrics or {}
    parts = [f"## {title or 'Gate'}: {'passed' if verdict.passed else '**refused**'}\n"]
    size = f"{verdict.rows} rows of {verdict.days} days"
    parts.append(
        f"{size}, {verdict.positives} positive.\n" if verdict.positives is not None else f"{size}.\n"
    )
    for one in verdict.because:
        parts.append(f"- {_mark(one not in verdict.refused_by)} {one}")
    metrics = [[name, _cell(value), _cell(champion.get(name))] for name, value in verdict.metrics.items()]
    parts.append("\n" + _table(["metric", "challenger", "champion"], metrics))
    if verdict.slices:
        rows = [
            [
                _mark(not one.refused),
                one.name,
                str(one.rows),
                _cell(one.loss),
                str(one.difference or one.because),
            ]
            for one in verdict.slices
        ]
        head = ["", "slice", "rows", verdict.compare_metric, "challenger minus champion"]
        parts.append("\n" + _table(head, rows))
    return "\n".join(parts) + "\n"


def to_junit(found: Verdict | ContractResult, name: str = "flyball") -> str:
    """JUnit XML that GitHub, GitLab and Jenkins show: a test case for each expectation or argument."""
    cases: list[Case]
    if isinstance(found, ContractResult):
        cases = [
            (f"{one.name}({one.column})", "" if one.passed else one.message, one.message)
            for one in found.results
        ]
    else:
        cases = [(one, one if one in found.refused_by else "", one) for one in found.because] or [
            ("gate", "", "")
        ]
    failures = sum(1 for _, failure, _ in cases if failure)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{len(cases)}" failures="{failures}">',
        f'  <testsuite name={quoteattr(name)} tests="{len(cases)}" failures="{failures}">',
        *(_case(case, name) for case in cases),
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(case: Case, suite: str) -> str:
    title, failure, details = (_printable(text) for text in case)
    head = f"    <testcase classname={quoteattr(suite)} name={quoteattr(title)}"
    if not failure:
        return head + "/>"
    return f"{head}><failure message={quoteattr(failure)}>{escape(details)}</failure></testcase>"


def _printable(text: str) -> str:
    """Without what XML 1.0 can't hold (a data value may hold anything)."""
    return "".join(
        letter if letter in "\t\n\r" or " " <= letter < "\ud800" or letter > "\udfff" else "?"
        for letter in text
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *(line(row) for row in rows)])


def _mark(passed: bool) -> str:
    return "✓" if passed else "✗"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
