"""Where the practices meet: the :class:`Workspace`, and the table of verbs that every face is derived from."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flyball.service.workspace import Workspace

__all__ = ["Workspace"]


def __getattr__(name: str) -> Any:
    if name == "Workspace":
        from flyball.service.workspace import Workspace

        return Workspace
    raise AttributeError(f"flyball.service has no {name!r}")
