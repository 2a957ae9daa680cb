"""The code of on-demand functions: the project's sources that a function needs, as one blob named by its digest.

As a model's own classes do (decision 010), they come as sources, are loaded under a name of their own
(``flyball_code_<digest>``) beside whatever else the process has imported, and run only where the version that names
them was applied: a worker takes bytes by the digest in its plan, and bytes that have another digest are refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import msgspec

from flyball.core.hashing import digest_bytes
from flyball.errors import Invalid, NotFound, Refused
from flyball.features.services import OnDemand
from flyball.models.formats import bundle

_taken: dict[str, bundle.Sources] = {}
_lock = threading.Lock()


def packed(one: OnDemand) -> tuple[OnDemand, bytes]:
    """The on-demand view with the digest of its code, and that code; what can't be shipped is refused, with what to do.

    >>> packed(OnDemand("rate", python="__main__:rate", inputs=("a",), outputs=("b",)))
    Traceback (most recent call last):
    flyball.errors.Invalid: on-demand view 'rate' is a function of the script or notebook that runs
      put it into a module of the project and import it from there
    """
    held = one.__dict__.get("packed")
    if held is not None:
        return held  # type: ignore[no-any-return]  # what this function put there
    module, _, path = one.python.partition(":")
    if module == "__main__":
        raise Invalid(
            f"on-demand view {one.name!r} is a function of the script or notebook that runs",
            "put it into a module of the project and import it from there",
        )
    if "<" in path:
        raise Invalid(
            f"on-demand view {one.name!r} is {one.python}, defined inside a function or a lambda",
            "define it with def at the top of a module",
        )
    sources = bundle.collect([module])
    if module not in sources.files:
        raise Invalid(
            f"on-demand view {one.name!r} is {one.python}, and {module} is not of the project",
            "a small function of the project that calls it can be shipped",
        )
    data = bundle.pack(sources, b"")
    coded = msgspec.structs.replace(one, code=digest_bytes(data))
    coded.__dict__.update(
        {name: one.__dict__[name] for name in ("function", "batch") if name in one.__dict__}
    )
    one.__dict__["packed"] = coded.__dict__["packed"] = coded, data
    return coded, data


def take(definitions: Iterable[Any] | Mapping[str, Any], get: Callable[[str], bytes]) -> None:
    """Make the code of these definitions ready; ``get`` reads a blob by its digest. Runs nothing yet."""
    one: Any
    for one in definitions.values() if isinstance(definitions, Mapping) else definitions:
        code = one.code if isinstance(one, OnDemand) else str(one.get("code", ""))
        if not code or code in _taken:
            continue
        data = get(code)
        if digest_bytes(data) != code:
            raise Refused(
                f"the code of an on-demand view is not {code}", "flyball features apply stores it anew"
            )
        _taken[code] = bundle.unpack(data)[0]


def module_of(code: str, name: str) -> ModuleType:
    """A module of this code; runs it when it is first asked for."""
    if code not in _taken:
        raise NotFound(
            f"the code {code} of an on-demand view was not loaded",
            "flyball features apply, and restart the worker",
        )
    with _lock:
        return import_module(f"{bundle.namespace(_taken[code])}.{name}")
