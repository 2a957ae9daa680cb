"""Python, the platform and every installed distribution, pinned: read once per process, kept once per digest."""

from __future__ import annotations

import os
import platform
import re
import sys
from functools import cache
from pathlib import Path

from flyball.core.hashing import digest_of
from flyball.core.records import Environment
from flyball.stores.metadata import Ledger

_DIST = re.compile(r"(?P<name>.+?)-(?P<version>[^-]+)(-py[^-]*)?\.(dist|egg)-info$")


def capture(ledger: Ledger | None = None) -> Environment:
    """The environment of this process; written to the ledger when it was not seen before."""
    environment = _here()
    if ledger is not None and ledger.find("environment", environment.digest, Environment) is None:
        with ledger.transaction() as tx:
            tx.append(
                "environment.captured",
                environment.digest,
                actor="flyball",
                sets=[("environment", environment.digest, environment)],
            )
    return environment


@cache
def _here() -> Environment:
    python = platform.python_version()
    machine = f"{sys.platform}-{platform.machine()}"
    packages = installed([Path(entry) for entry in sys.path if entry])
    digest = digest_of({"python": python, "platform": machine, "packages": packages})
    return Environment(digest=digest, python=python, platform=machine, packages=packages)


def installed(folders: list[Path]) -> dict[str, str]:
    """Distributions by normalised name, read from the names of their metadata folders: 2 ms instead of 60.

    The first folder wins, as it does for an import.
    """
    found: dict[str, str] = {}
    for folder in folders:
        try:
            entries = sorted(entry.name for entry in os.scandir(folder))
        except OSError:
            continue  # a zip or a folder that is gone
        here: dict[str, str] = {}
        for entry in entries:
            if match := _DIST.match(entry):
                here[re.sub(r"[-_.]+", "-", match["name"]).lower()] = match["version"]
        found = here | found
    return dict(sorted(found.items()))


def differences(before: Environment, after: Environment) -> dict[str, tuple[str | None, str | None]]:
    """What changed from one environment to another: name to (before, after); ``None`` where it was absent."""
    ours = {"python": before.python, "platform": before.platform, **before.packages}
    theirs = {"python": after.python, "platform": after.platform, **after.packages}
    names = sorted(ours.keys() | theirs.keys())
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}
