"""Counts of a worker, and the text that Prometheus reads.

Each worker keeps its own counts and writes them beside the others' once a second; whichever worker is asked adds them
up, those of dead workers included, so that a counter never falls while the server lives.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path

import msgspec

_BOUNDS_US = (500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000)
_BUCKETS = len(_BOUNDS_US) + 1
_HELP = {
    "shadow_dropped": "Rows that were not scored by a shadow, since its queue was full.",
    "shadow_scored": "Rows that a shadow scored.",
    "online_store_absent": "Requests answered with defaults or nulls, since the online store did not answer.",
    "online_store_failures": "Reads of the online store that failed or took too long.",
    "labels": "Labels received.",
    "log_failures": "Requests refused, since the prediction log could not be written.",
    "refused": "Requests refused, since they were wrong.",
    "failed": "Requests that no model could answer.",
    "breaker_trips": "Candidates cut off by a worker.",
}


class Series(msgspec.Struct, array_like=True):
    """Counts of one endpoint, arm and model."""

    rows: int = 0
    errors: int = 0
    fallbacks: int = 0
    latency_us: int = 0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * _BUCKETS)


class Metrics(msgspec.Struct):
    """All counts of one worker."""

    series: dict[str, Series] = {}
    counts: dict[str, int] = {}

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def answered(
        self, endpoint: str, arm: str, model: str, *, rows: int, error: bool, fallback: bool, latency_us: int
    ) -> None:
        """One request of one arm."""
        key = f"{endpoint}\t{arm}\t{model}"
        series = self.series.get(key) or self.series.setdefault(key, Series())
        series.rows += rows
        series.errors += error
        series.fallbacks += fallback
        series.latency_us += latency_us
        series.buckets[bisect_left(_BOUNDS_US, latency_us)] += 1

    def save(self, folder: Path) -> None:
        """Put the counts where the other workers find them."""
        staged = folder / f".{os.getpid()}.metrics"
        staged.write_bytes(msgspec.json.encode(self))
        staged.replace(folder / f"{os.getpid()}.metrics")


def together(own: Metrics, folder: Path) -> Metrics:
    """The sum over all workers, with this one's counts as they are now."""
    total = Metrics()
    parts = [own]
    for file in folder.glob("*.metrics"):
        if file.stem != str(os.getpid()) and not file.name.startswith("."):
            try:
                parts.append(msgspec.json.decode(file.read_bytes(), type=Metrics))
            except (OSError, msgspec.DecodeError):
                continue
    for part in parts:
        for name, value in part.counts.items():
            total.count(name, value)
        for key, series in part.series.items():
            sums = total.series.setdefault(key, Series())
            sums.rows += series.rows
            sums.errors += series.errors
            sums.fallbacks += series.fallbacks
            sums.latency_us += series.latency_us
            sums.buckets = [a + b for a, b in zip(sums.buckets, series.buckets, strict=True)]
    return total


def exposition(metrics: Metrics, generation: int) -> str:
    """The Prometheus text format, version 0.0.4."""
    lines: list[str] = []

    def family(name: str, kind: str, help_text: str) -> None:
        lines.append(f"# HELP flyball_{name} {help_text}")
        lines.append(f"# TYPE flyball_{name} {kind}")

    labelled = [(_labels(key), series) for key, series in sorted(metrics.series.items())]
    family("predictions_total", "counter", "Rows answered, by the arm they were assigned to.")
    lines += [f"flyball_predictions_total{{{labels}}} {series.rows}" for labels, series in labelled]
    family("errors_total", "counter", "Requests whose model failed.")
    lines += [f"flyball_errors_total{{{labels}}} {series.errors}" for labels, series in labelled]
    family("fallbacks_total", "counter", "Requests that the champion answered for the candidate.")
    lines += [f"flyball_fallbacks_total{{{labels}}} {series.fallbacks}" for labels, series in labelled]
    family("latency_seconds", "histogram", "From the request read to the answer written ahead.")
    for labels, series in labelled:
        below = 0
        for bound, count in zip((*_BOUNDS_US, None), series.buckets, strict=True):
            below += count
            le = "+Inf" if bound is None else f"{bound / 1e6:g}"
            lines.append(f'flyball_latency_seconds_bucket{{{labels},le="{le}"}} {below}')
        lines.append(f"flyball_latency_seconds_sum{{{labels}}} {series.latency_us / 1e6:.6f}")
        lines.append(f"flyball_latency_seconds_count{{{labels}}} {below}")
    for name, help_text in _HELP.items():
        family(f"{name}_total", "counter", help_text)
        lines.append(f"flyball_{name}_total {metrics.counts.get(name, 0)}")
    family("plan_generation", "gauge", "The generation of the plan that answers.")
    lines.append(f"flyball_plan_generation {generation}")
    return "\n".join(lines) + "\n"


def _labels(key: str) -> str:
    quoted = (part.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for part in key.split("\t"))
    return ",".join(
        f'{name}="{value}"' for name, value in zip(("endpoint", "arm", "model"), quoted, strict=True)
    )
