"""``python -m benchmarks [NAME ...] [--repeats N]``: print the tables that are named, or all of them."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib import import_module

from benchmarks.measure import show
from flyball.errors import FlyballError

NAMES = (
    "imports",
    "features",
    "features_offline",
    "features_online",
    "features_rows",
    "features_feast",
    "features_store",
    "features_filling",
    "serving",
    "ledger",
    "eprocess",
    "size",
    "versions_mlflow",
    "versions_data",
    "versions_runs",
    "versions_capture",
    "lineage",
)


def main() -> int:
    """Measure and print; 1 when something could not be measured. No figure is judged here."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}; all when left out"
    )
    parser.add_argument("--repeats", type=int, default=7, help="pairs of measurements per row (default 7)")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    if asked.repeats < 1:
        parser.error("--repeats is at least 1")
    missed = 0
    for name in asked.names or NAMES:
        started = time.perf_counter()
        try:
            rows = import_module(f"benchmarks.{name}").measured(asked.repeats)
        except (FlyballError, subprocess.CalledProcessError) as error:
            missed += 1
            print(f"{name}: not measured: {error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr)
            continue
        show(name, rows, took_s=time.perf_counter() - started)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
