"""Practice 1, runs: who ran what, with which parameters, and what it measured.

``runs`` (begin, measure, end), ``liveness`` (whose process died). ``fb.track.start`` and the other verbs, bound to the
current workspace, are the service's.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from flyball import bound

    return bound("track", name)
