"""The table of verbs: one function each; command line, HTTP and reference are derived from it.

A verb is a plain function with a keyword ``ws``; without it, the workspace of the folder you stand in is taken, so
``fb.data.ls()`` in a notebook, ``flyball data ls`` in a shell and ``POST /api/data/ls`` are the same call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from flyball.errors import Internal

if TYPE_CHECKING:
    from flyball.service.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")

# Modules that define verbs, in the order of the help page. They import no engine at their top.
MODULES = (
    "project",
    "data",
    "runs",
    "models",
    "vouching",
    "model_files",
    "checks",
    "features",
    "online_features",
    "sources",
    "filling",
    "streaming",
    "training",
    "verifying",
    "feast",
    "pipelines",
    "serving",
    "explain",
    "unused",
    "skew",
    "watching",
    "incidents",
    "reproduce",
    "backup",
    "restore",
    "gc",
    "migrate",
)


class Verb(msgspec.Struct, frozen=True):
    """One verb: its words (``"data add"``), its function, and whether it only reads."""

    words: str
    function: Callable[..., Any]
    reads: bool
    anywhere: bool = False  # works outside of a project too: its workspace may be missing
    local: tuple[
        str, ...
    ] = ()  # parameters that only this machine's callers have: files to write, addresses to call

    @property
    def group(self) -> str:
        return self.words.rpartition(" ")[0]

    @property
    def name(self) -> str:
        return self.words.rpartition(" ")[2]

    @property
    def takes_workspace(self) -> bool:
        return "ws" in inspect.signature(self.function).parameters

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """What a caller gives: everything but the workspace."""
        found = inspect.signature(self.function, eval_str=True).parameters.values()
        return [parameter for parameter in found if parameter.name != "ws"]

    @property
    def remote(self) -> dict[str, inspect.Parameter]:
        """What a caller over HTTP may give, by name; ``as_`` is called ``as`` there."""
        return {one.name.rstrip("_"): one for one in self.parameters if one.name not in self.local}


_TABLE: dict[str, Verb] = {}


def verb(
    words: str, *, reads: bool = False, local: tuple[str, ...] = (), anywhere: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Enter a function in the table of verbs, and give it the current workspace when the caller gives none."""

    def enter(function: Callable[P, R]) -> Callable[P, R]:
        takes_workspace = "ws" in inspect.signature(function).parameters

        @wraps(function)
        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            if takes_workspace and kwargs.get("ws") is None and not anywhere:
                from flyball.service.workspace import Workspace

                kwargs["ws"] = Workspace.current()
            return function(*args, **kwargs)

        other = _TABLE.get(words)
        if other is not None and other.function.__module__ != function.__module__:
            where = f"{other.function.__module__} and {function.__module__}"
            raise Internal(f"two functions are verb {words!r}, in {where}", "rename one")
        _TABLE[words] = Verb(words, bound, reads, local=local, anywhere=anywhere)
        return bound

    return enter


def table() -> dict[str, Verb]:
    """Every verb by its words."""
    for module in MODULES:
        import_module(f"flyball.service.{module}")
    return _TABLE


def plain(content: Any) -> Any:
    """A verb's answer as JSON's own types: the stable shape that ``--json`` and HTTP give."""
    return msgspec.to_builtins(content, enc_hook=_plain_other)


def _plain_other(value: Any) -> Any:
    if hasattr(value, "result"):  # an answer that wraps its record to say it in words
        return msgspec.to_builtins(value.result, enc_hook=_plain_other)
    if hasattr(value, "to_dicts"):  # a Polars frame
        return value.to_dicts()
    if hasattr(value, "tolist"):  # NumPy
        return value.tolist()
    return str(value)


if TYPE_CHECKING:
    CURRENT: Workspace
else:
    CURRENT = None  # the default of a verb's ``ws``: the workspace of the folder you stand in
