"""The settings of a project as a run saw them: values, the origin of each, and no secret."""

from __future__ import annotations

from typing import Any

from flyball.core.config import Resolved
from flyball.core.hashing import digest_of
from flyball.core.records import Configuration


def capture(settings: Resolved) -> Configuration:
    """The resolved configuration as a record. Values are as they were written: a relative path stays one."""
    before = _last.get("settings")
    if (
        before is not None and before[0] is settings
    ):  # a workspace's never change; 0.3 ms of each run otherwise
        return before[1]
    items = settings.items()
    values = {one.name: one.value for one in items}
    record = Configuration(
        digest=digest_of({"profile": settings.profile, "values": values}),
        profile=settings.profile,
        values=values,
        origins={one.name: one.origin for one in items if one.origin != "default"},
    )
    _last["settings"] = (settings, record)
    return record


_last: dict[str, tuple[Resolved, Configuration]] = {}


def differences(
    before: Configuration, after: Configuration, *, but: tuple[str, ...] = ()
) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same: name to (before, after). Tables named in ``but`` are passed over."""
    names = sorted(before.values.keys() | after.values.keys())
    return {
        name: (before.values.get(name), after.values.get(name))
        for name in names
        if before.values.get(name) != after.values.get(name) and name.partition(".")[0] not in but
    }
