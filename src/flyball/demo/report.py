"""The year as one page with pictures: inline SVG, no script, nothing fetched; opens from disk, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path

import polars as pl

from flyball.demo.summary import Summary

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; --a: #0a7d5a; --b: #c2571a; --line: #8885; }
@media (prefers-color-scheme: dark) { :root { --a: #3ddca4; --b: #ff9d5c; } }
body { max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.a { stroke: var(--a); fill: none; stroke-width: 2; } .b { stroke: var(--b); fill: none; stroke-width: 2; stroke-dasharray: 6 4; }
.fa { fill: var(--a); } .fb { fill: var(--b); } .grid { stroke: var(--line); stroke-width: 1; } .late { fill: currentColor; opacity: .35; }
.mark { stroke: currentColor; stroke-width: 1; opacity: .6; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .9em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
"""

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 260, 50, 14, 34


def write_report(path: Path, summary: Summary, days: pl.DataFrame) -> None:
    """Write the page; staged and renamed."""
    staged = path.with_name(f".{path.name}.part")
    staged.write_text(page(summary, days), encoding="utf-8")
    staged.replace(path)


def page(summary: Summary, days: pl.DataFrame) -> str:
    """The whole page as text."""
    gain = summary.log_loss_gain
    facts = {
        "predictions through the data plane": f"{summary.predictions:,}",
        "failed client requests": str(summary.failed_client_requests),
        "retrainings": str(summary.retrainings),
        "promotions, refusals, rollbacks": f"{len(summary.promotions)}, {len(summary.refusals)}, {len(summary.rollbacks)}",
        "incidents": str(len(summary.incidents)),
        "retrainings on bad data": str(summary.retrainings_on_bad_data),
        "false alarms": str(summary.false_alarms),
        "gain in log loss over the frozen model": f"{gain['mean']:.4f} (95 % interval by day: {gain['low']:.4f} to {gain['high']:.4f})",
        "wall time": f"{summary.seconds:.0f} s",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    months = summary.months
    labels = [month.month for month in months]
    parts = [
        "<h1>Nine months of a model's life</h1>",
        "<p>Will a flight from New York arrive more than 15 minutes late? Asked one hour before it leaves, in the order of 2013, "
        "labels known when it has landed. <b class='fa'>Healed</b>: with the governor. <b class='fb'>Frozen</b>: the model of January "
        "to March, left alone.</p>",
        f"<dl>{listed}</dl>",
        "<h2>AUC by month</h2>",
        _lines(
            labels,
            [m.auc_healed for m in months],
            [m.auc_frozen for m in months],
            "AUC by month, healed and frozen",
        ),
        "<h2>Log loss by month (lower is better)</h2>",
        _lines(
            labels,
            [m.log_loss_healed for m in months],
            [m.log_loss_frozen for m in months],
            "Log loss by month",
        ),
        _month_table(summary),
        "<h2>The year, day by day</h2><p>Bars: share of late flights. Line: gain in log loss over the frozen model, summed up.</p>",
        _year(days, summary),
        "<h2>What was decided</h2>",
        _events(summary),
        f"<h2>Why did it answer that?</h2><p><code>flyball explain {escape(summary.explain)} --verify</code></p>",
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Flyball: the flights of 2013</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _scale(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.1 or 0.01
    return low - margin, high + margin


def _lines(labels: list[str], healed: list[float], frozen: list[float], title: str) -> str:
    low, high = _scale([*healed, *frozen])
    step = (WIDTH - LEFT - 20) / max(1, len(labels) - 1)

    def place(index: int, value: float) -> str:
        y = TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{LEFT + index * step:.1f},{y:.1f}"

    grid = _grid(low, high)
    names = "".join(
        f"<text x='{LEFT + i * step:.1f}' y='{HEIGHT - 10}' text-anchor='middle'>{escape(label[5:])}</text>"
        for i, label in enumerate(labels)
    )
    dots = "".join(
        f"<circle class='f{kind}' r='3.5' cx='{at[0]}' cy='{at[1]}'/>"
        for kind, values in (("a", healed), ("b", frozen))
        for at in (place(i, v).split(",") for i, v in enumerate(values))
    )
    paths = "".join(
        f"<polyline class='{kind}' points='{' '.join(place(i, v) for i, v in enumerate(values))}'/>"
        for kind, values in (("b", frozen), ("a", healed))
    )
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{escape(title)}'>{grid}{names}{paths}{dots}</svg>"


def _grid(low: float, high: float) -> str:
    rows = []
    for part in range(5):
        value = low + (high - low) * part / 4
        y = TOP + (1 - part / 4) * (HEIGHT - TOP - BOTTOM)
        rows.append(
            f"<line class='grid' x1='{LEFT}' x2='{WIDTH - 10}' y1='{y:.1f}' y2='{y:.1f}'/>"
            f"<text x='4' y='{y + 4:.1f}'>{value:.3f}</text>"
        )
    return "".join(rows)


def _year(days: pl.DataFrame, summary: Summary) -> str:
    dates: list[date] = days["day"].to_list()
    first, span = dates[0], max(1, (dates[-1] - dates[0]).days)
    width = (WIDTH - LEFT - 20) / span
    floor = HEIGHT - BOTTOM

    def x(day: date) -> float:
        return LEFT + (day - first).days * width

    bars = "".join(
        f"<rect class='late' x='{x(day):.1f}' width='{max(width - 0.6, 0.8):.1f}' y='{floor - share * (floor - TOP):.1f}' "
        f"height='{share * (floor - TOP):.1f}'><title>{day}: {share:.0%} late</title></rect>"
        for day, share in zip(dates, days["late"].to_list(), strict=True)
    )
    summed = (days["n"] * (days["frozen"] - days["healed"])).cum_sum().to_list()
    low, high = _scale([0.0, *summed])
    line = " ".join(
        f"{x(day):.1f},{TOP + (high - value) / (high - low) * (floor - TOP):.1f}"
        for day, value in zip(dates, summed, strict=True)
    )
    marks = "".join(
        f"<line class='mark' x1='{x(at):.1f}' x2='{x(at):.1f}' y1='{TOP}' y2='{floor}'/>"
        f"<text x='{x(at) + 3:.1f}' y='{TOP + 10}'>{escape(name)}</text>"
        for at, name in _marks(summary)
    )
    months = "".join(
        f"<text x='{x(day):.1f}' y='{HEIGHT - 10}'>{day:%b}</text>" for day in dates if day.day == 1
    )
    label = "Share of late flights by day, and the summed gain of healing"
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{label}'>{bars}"
        f"<polyline class='a' points='{line}'/>{marks}{months}</svg>"
    )


def _marks(summary: Summary) -> list[tuple[date, str]]:
    return [(one["at"].date(), one["version"].partition("@")[2]) for one in summary.promotions]


def _month_table(summary: Summary) -> str:
    rows = "".join(
        f"<tr><td>{m.month}</td><td class='n'>{m.labelled:,}</td><td class='n'>{m.auc_healed:.3f}</td>"
        f"<td class='n'>{m.auc_frozen:.3f}</td><td class='n'>{m.log_loss_healed:.4f}</td>"
        f"<td class='n'>{m.log_loss_frozen:.4f}</td></tr>"
        for m in summary.months
    )
    head = "".join(
        f"<th class='n'>{name}</th>"
        for name in ("labelled", "AUC healed", "AUC frozen", "log loss healed", "log loss frozen")
    )
    return f"<details open><summary>The numbers</summary><table><tr><th>month</th>{head}</tr>{rows}</table></details>"


def _events(summary: Summary) -> str:
    found = [(one["at"], "promoted", one["version"], one["because"]) for one in summary.promotions]
    found += [(one["at"], "refused", one["version"], one["because"]) for one in summary.refusals]
    found += [(one["at"], "rolled back", one["version"], one["because"]) for one in summary.rollbacks]
    found += [
        (
            one["opened"],
            "incident",
            one["cause"],
            f"until {one['closed']:%d %b %H:%M}" if one["closed"] else "open",
        )
        for one in summary.incidents
    ]
    rows = "".join(
        f"<tr><td class='n'>{at:%d %b %H:%M}</td><td>{what}</td><td>{escape(str(name))}</td><td>{escape(str(why))}</td></tr>"
        for at, what, name, why in sorted(found, key=lambda one: one[0])
    )
    return f"<table><tr><th>at (UTC)</th><th>what</th><th>which</th><th>because</th></tr>{rows}</table>"
