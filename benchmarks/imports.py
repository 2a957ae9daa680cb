"""What it costs to start: ``import flyball`` beside ``import numpy``, and the help of the command line.

CPU of fresh processes; every figure contains the start of the interpreter, which is the first line. Bytecode is
compiled first into a folder of this run, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable

from benchmarks.measure import Row, compare, in_turns

_NUMPY = "import numpy"
_CASES = (
    ("python -c pass", ["-c", "pass"]),
    ("import flyball", ["-c", "import flyball"]),
    ("import flyball.serve.worker", ["-c", "import flyball.serve.worker"]),
    ("flyball --help", ["-m", "flyball", "--help"]),
)


def measured(repeats: int) -> list[Row]:
    """Each case beside ``import numpy``."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {key: text for key, text in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = folder
        numpy = _starter(["-c", _NUMPY], environment)
        return [_case(what, _starter(words, environment), numpy, repeats) for what, words in _CASES]


def _case(what: str, ours: Callable[[], float], numpy: Callable[[], float], repeats: int) -> Row:
    ours()  # compiles
    numpy()
    return compare(f"{what}, beside {_NUMPY}", "ms CPU", in_turns(ours, numpy, repeats))


def _starter(words: list[str], environment: dict[str, str]) -> Callable[[], float]:
    """One process from start to end, in milliseconds of its CPU."""

    def start() -> float:
        before = _children_s()
        subprocess.run(
            [sys.executable, *words],
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return (_children_s() - before) * 1000.0

    return start


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
