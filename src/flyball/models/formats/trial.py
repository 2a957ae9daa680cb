"""Read a file from elsewhere in a process of its own first.

XGBoost 3.2 and LightGBM 4.7 end the process that reads a torn file (a segmentation fault, or ``terminate``): a file with a
few bytes changed would take a worker with it. What the workspace wrote is known by its digest and needs no trial.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from flyball.core.hashing import digest_bytes
from flyball.errors import Invalid, Unavailable

FATAL = ("xgboost", "lightgbm")
_MOST_S = 300.0
_survived: set[str] = set()  # digests of what was read once
_CODE = """
import sys
from flyball.errors import FlyballError
from flyball.models.formats import decode
try:
    decode(sys.argv[1], sys.stdin.buffer.read())
except FlyballError as error:
    sys.stdout.write(type(error).__name__ + "\\n" + error.what + "\\n" + error.hint)
except Exception as error:
    sys.stdout.write("Invalid\\n" + type(error).__name__ + ": " + str(error)[:300] + "\\n")
"""


def survive(format: str, data: bytes) -> None:
    """:class:`Invalid` for bytes that can't be read, also when trying it ends the process that tries."""
    if format not in FATAL or (digest := digest_bytes(data)) in _survived:
        return
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, format],
            input=data,
            capture_output=True,
            timeout=_MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Invalid(
            f"reading the {format} file took over {_MOST_S:g} s", "is it what it says it is?"
        ) from error
    except OSError as error:
        raise Unavailable(f"no process to try the file in: {error}", "try again") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise Invalid(
            f"the {format} file is torn, or made to do harm: reading it ends the process ({name})",
            "copy the whole file",
        )
    said = done.stdout.decode(errors="replace").split("\n")
    kinds: dict[str, type[Exception]] = {"Invalid": Invalid, "Unavailable": Unavailable}
    found = next((place for place, line in enumerate(said) if line in kinds), None)
    if found is not None and len(said) > found + 2:
        raise kinds[said[found]](said[found + 1], said[found + 2])
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()
        raise Invalid(
            f"the {format} file can't be read: {last[-1] if last else 'no word'}", "copy the whole file"
        )
    _survived.add(digest)
