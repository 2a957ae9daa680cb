"""The error tree: what happened, what to do next, and facts for machines.

The same error has the same JSON on every face: ``{"error", "what", "hint", "facts"}``. Retrying asks the type:
only :class:`Unavailable` is worth a second attempt without a change.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FlyballError(Exception):
    """An error a person can act on.

    >>> error = NotFound("no model 'delay'", hint="known: delays", model="delay")
    >>> error.as_json()["error"], error.exit_code, error.facts
    ('NotFound', 3, {'model': 'delay'})
    """

    exit_code: ClassVar[int] = 70
    http_status: ClassVar[int] = 500

    def __init__(self, what: str, hint: str = "", **facts: Any) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what

    def __reduce__(self) -> tuple[Any, ...]:  # survives a process pool: facts are keyword arguments
        return (_rebuild, (type(self), self.what, self.hint, self.facts))

    def as_json(self) -> dict[str, Any]:
        """The body every face answers with."""
        return {"error": type(self).__name__, "what": self.what, "hint": self.hint, "facts": self.facts}


def _rebuild(kind: type[FlyballError], what: str, hint: str, facts: dict[str, Any]) -> FlyballError:
    return kind(what, hint, **facts)


class Invalid(FlyballError, ValueError):
    """The caller can fix it: a wrong value, type, name or shape."""

    exit_code, http_status = 2, 400


class NotFound(FlyballError, LookupError):
    """Nothing by that name; the hint names what does exist."""

    exit_code, http_status = 3, 404


class Conflict(FlyballError):
    """Someone else changed it first, or holds it; reload and try again."""

    exit_code, http_status = 4, 409


class Refused(FlyballError):
    """A gate, a contract or a policy said no; the facts hold the verdict."""

    exit_code, http_status = 1, 422


class Unavailable(FlyballError, ConnectionError):
    """Transient: the thing is down, slow or full. Safe to retry."""

    exit_code, http_status = 5, 503


class Internal(FlyballError):
    """Our bug. The hint says what to report."""

    exit_code, http_status = 70, 500


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the closest known word, or all of them.

    >>> nearest("delay", ["delays", "fares"])
    "did you mean 'delays'? known: delays, fares"
    """
    from difflib import get_close_matches

    shown = ", ".join(sorted(known)[:20]) or "nothing yet"
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}? known: {shown}" if close else f"known: {shown}"
