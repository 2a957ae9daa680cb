"""Practice 2, test: what data has promised (``expectations``), and whether a model may take over (``gate``).

``fb.checks.require`` and the other verbs, bound to the current workspace, are the service's.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    from flyball import bound

    return bound("checks", name)
