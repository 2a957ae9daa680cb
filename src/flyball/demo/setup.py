"""The demo's project: copied from the package into a folder, as a user would have written it, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path

from flyball.core.clock import Clock
from flyball.errors import Conflict, Unavailable
from flyball.service import Workspace

MARKER = "demo.json"


def require_extras() -> None:
    """Say what to install before anything is begun."""
    missing = [name for name in ("sklearn", "skl2onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"the demo trains models and needs {', '.join(missing)}", "pip install 'flyball[demo]'"
        )


def make_project(folder: Path, clock: Clock) -> Workspace:
    """A fresh project; a demo's folder of before is replaced, any other folder is left alone."""
    folder = folder.resolve()
    marker = folder / ".flyball" / MARKER
    if folder.exists() and any(folder.iterdir()):
        if not marker.exists():
            raise Conflict(f"{folder} exists and is no demo of ours", "flyball demo --into ANOTHER-FOLDER")
        _stop_old(folder)
        shutil.rmtree(folder)
    with as_file(files("flyball.demo") / "project") as template:
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("__pycache__"))
    settings = folder / "flyball.toml"
    text = settings.read_text() + f"port = {free_port(8080)}\n\n[console]\nport = {free_port(7070)}\n"
    settings.write_text(text)
    marker.parent.mkdir()
    marker.write_text(json.dumps({"made_by": "flyball demo"}))
    return Workspace.open(folder, clock=clock).use()


def _stop_old(folder: Path) -> None:
    try:
        pid = int((folder / ".flyball" / "run" / "up.pid").read_text())
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    until = time.monotonic() + 20
    while time.monotonic() < until and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)


def free_port(wish: int) -> int:
    """``wish`` when nobody listens there, else any free port."""
    for port in (wish, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unavailable("no free port on 127.0.0.1", "end what holds them")


def start_up(ws: Workspace, parts: tuple[str, ...], *, detached: bool) -> subprocess.Popen[bytes]:
    """Start ``flyball up`` for the project, as a user would."""
    command = [sys.executable, "-m", "flyball", "up", "--project", str(ws.root)]
    for part in parts:
        command += ["--only", part]
    log = ws.state / "run" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=detached
        )
