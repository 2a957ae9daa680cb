"""Verbs on the project itself: begin one, look at its settings, see whether it is well."""

from __future__ import annotations

import os
import shutil
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.config import FILE
from flyball.errors import Conflict
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace


@verb("init")
def init(folder: str = ".") -> Made:
    """Make a project that runs: configuration, features, a pipeline, a policy and a little data."""
    place = Path(folder).resolve()
    if (place / FILE).exists():
        raise Conflict(f"{place} is a Flyball project already", "flyball status shows how it is")
    place.mkdir(parents=True, exist_ok=True)
    template = files("flyball.service") / "template"
    for item in template.iterdir():
        name = item.name.removesuffix(".txt").replace("gitignore", ".gitignore")
        target = place / name
        if name == "__pycache__" or target.exists():
            continue  # the user's own file stays
        target.write_text(item.read_text().replace("PROJECT_NAME", place.name))
    steps = [] if folder == "." else [f"cd {folder}"]
    if find_spec("sklearn") is None:
        steps.append("pip install 'flyball[sklearn]'")
    return Made(
        str(place), [*steps, "flyball data add customers customers.csv", "flyball run train", *_SERVE]
    )


_SERVE = (
    "flyball deploy churn@challenger --endpoint churn",
    "flyball up &",
    "flyball predict churn --feature months=3 --feature monthly_charge=90 --feature support_calls=4",
)


class Made(msgspec.Struct, frozen=True):
    """A project, and the commands that come next."""

    project: str
    next: list[str]

    def as_text(self) -> str:
        """For people: where it is, and what to type."""
        return "\n".join([f"made {self.project}; next:", *(f"  {one}" for one in self.next)])


@verb("config show", reads=True)
def config_show(*, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show every setting, its value (no secrets), and what gave it: a default, a file, the environment, --set."""
    return [{"setting": one.name, "value": one.value, "origin": one.origin} for one in ws.settings.items()]


@verb("status", reads=True)
def status(*, ws: Workspace = CURRENT) -> dict[str, Any]:
    """Show what serves, what runs, what is wrong and what was decided last."""
    from flyball.core.records import Decision, Incident, Route

    decisions = ws.ledger.ls("decision", Decision)
    return {
        "project": ws.config.project.name,
        "profile": ws.settings.profile,
        "processes": processes(ws),
        "endpoints": {
            route.endpoint: " ".join(f"{arm.model} {arm.weight:.0%}" for arm in route.arms)
            for route in ws.ledger.ls("route", Route)
        },
        "open_incidents": [
            f"{one.id} {one.cause}: {one.because}"
            for one in ws.ledger.ls("incident", Incident)
            if one.closed is None
        ],
        "last_decision": f"{decisions[-1].action} {decisions[-1].because}" if decisions else None,
    }


def processes(ws: Workspace) -> dict[str, str]:
    """The processes of this workspace by name: their pid, or "down"."""
    found = {}
    for name in ("up", "serve", "console", "govern"):
        pid = _pid(ws.state / "run" / f"{name}.pid")
        found[name] = f"pid {pid}" if pid else "down"
    return found


def _pid(path: Path) -> int | None:
    try:
        pid = int(path.read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


@verb("doctor", reads=True)
def doctor(*, ws: Workspace = CURRENT) -> list[dict[str, str]]:
    """Check that each part of this workspace can be reached, and say how to mend what can't."""
    from flyball.errors import FlyballError

    rows = []

    def look(part: str, open_it: Any) -> None:
        try:
            said = str(open_it())
            rows.append({"part": part, "well": "yes", "says": said})
        except FlyballError as error:
            rows.append({"part": part, "well": "no", "says": f"{error.what}; {error.hint}"})

    look("ledger", lambda: f"{len(ws.ledger.keys('model'))} model versions")
    look("blobs", lambda: ("b3:" + "0" * 64 in ws.blobs, ws.blobs.url)[1])  # asks the store, not only its URL
    look("online", lambda: (ws.online, ws.online_url)[1])
    look("definitions", lambda: f"{len(ws.definitions.pipelines)} pipelines")
    look("disk", lambda: f"{shutil.disk_usage(ws.root).free / 2**30:.1f} GiB free")
    return rows
