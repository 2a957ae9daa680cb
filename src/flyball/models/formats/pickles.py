"""Pickles: written here, read only where their digest says they were made or trusted here; looked into without loading."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from typing import Any

from flyball.errors import Invalid

_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


def dumps(model: Any) -> bytes:
    """A model's pickle; :class:`Invalid` when it can't be pickled, or not so that another process could read it."""
    try:
        data = pickle.dumps(model, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise Invalid(
            f"a {type(model).__name__} can't be pickled: {error}", "define its class at the top of a module"
        ) from error
    return data


def read(data: bytes) -> Any:
    """The object of a pickle: runs whatever the pickle says."""
    return pickle.loads(data)


def unpickler(find: Callable[[str, str], Any]) -> type[pickle.Unpickler]:
    """A reader of pickles that asks ``find(module, name)`` for a class first, and for what is ``None`` there looks as
    pickles do (old ones call builtins ``__builtin__``)."""

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = find(module, name)
            return super().find_class(module, name) if found is None else found

    return Reader


def renamed(data: bytes, rename: Callable[[str], str]) -> bytes:
    """The same pickle with other names for the modules it imports; the same bytes when none changes.

    >>> import fractions
    >>> b = renamed(pickle.dumps(fractions.Fraction(1, 3), protocol=5), lambda name: f"numbers_of_{name}")
    >>> modules_of(b)
    {'numbers_of_fractions'}
    """
    changed = {one: rename(one) for one in modules_of(data)}
    changed = {before: after for before, after in changed.items() if before != after}
    if not changed:
        return data
    parts: list[bytes] = []
    ops = list(pickletools.genops(data))
    ends = [place for _, _, place in ops[1:]] + [len(data)]
    for (code, argument, start), end in zip(ops, ends, strict=True):
        if code.name == "FRAME":
            continue  # a frame says its length, which is another now; pickles do without
        if code.name in _STRINGS and argument in changed:
            text = changed[str(argument)].encode()
            parts.append(b"X" + len(text).to_bytes(4, "little") + text)  # BINUNICODE
        else:
            parts.append(data[start or 0 : end])
    return b"".join(parts)


def modules_of(data: bytes) -> set[str]:
    """The modules whose names a pickle imports, without running it.

    >>> import fractions
    >>> modules_of(pickle.dumps(fractions.Fraction(1, 3), protocol=5))
    {'fractions'}
    """
    return {module for module, _ in globals_of(data)}


def globals_of(data: bytes) -> set[tuple[str, str]]:
    """Every (module, name) that a pickle imports, without running it; :class:`Invalid` when it is torn."""
    found: set[tuple[str, str]] = set()
    strings: list[str] = []  # in the order in which they were pushed; the last two name a class
    memo: dict[int, str] = {}
    latest: str | None = None  # the string on top, while nothing else was pushed
    size = 0
    try:
        for code, argument, _ in pickletools.genops(data):
            if code.name in _STRINGS:
                latest = str(argument)
                strings.append(latest)
                continue
            if code.name == "MEMOIZE" or code.name in _PUTS:
                place = size if code.name == "MEMOIZE" else int(argument or 0)
                size += 1
                if latest is not None:
                    memo[place] = latest
                else:
                    memo.pop(place, None)
                continue
            latest = None
            if code.name in _GETS:
                if int(argument or 0) in memo:
                    latest = memo[int(argument or 0)]
                    strings.append(latest)
            elif code.name in ("GLOBAL", "INST"):
                module, _, name = str(argument).partition(" ")
                found.add((module, name))
            elif code.name == "STACK_GLOBAL":
                if len(strings) < 2:
                    raise Invalid("the pickle names a class that can't be told", "make it anew")
                found.add((strings[-2], strings[-1]))
    except Invalid:
        raise
    except Exception as error:
        raise Invalid(f"the pickle is torn: {error}", "copy the whole file") from error
    return found
