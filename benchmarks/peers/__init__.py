"""What we are measured beside and tested with: the least code that does the same, or the real tool in a venv of its own.

The tools' requirements conflict with ours and with one another's, so each is pinned in ``NAME.txt`` and installed when a
benchmark or a test first asks for it. ``FLYBALL_PEERS`` names another folder to keep the venvs in.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
UV = Path(sys.executable).with_name("uv")


def python_of(name: str) -> Path:
    """The Python of a peer's own venv, made (once, whoever asks first) from ``NAME.txt``; minutes when it is new."""
    pins = HERE / f"{name}.txt"
    folder = Path(os.environ.get("FLYBALL_PEERS", HERE / ".venvs"))
    folder.mkdir(parents=True, exist_ok=True)
    venv = folder / f"{name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = venv / ".ready"
        if not ready.exists():
            python = venv / "bin" / "python"
            _run(UV, "venv", "--quiet", "--clear", "--python", sys.executable, venv)
            _run(UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, "-r", pins)
            ready.touch()
    return venv / "bin" / "python"


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
