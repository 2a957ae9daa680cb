"""Who answers: assignment by weights with a known probability, sticky by a key when the route says so. Pure."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from flyball.core.records import Route
from flyball.errors import Invalid

_SPAN = 2.0**64


class Router:
    """Draws an arm for a request.

    >>> from datetime import UTC, datetime
    >>> from flyball.core.records import Arm
    >>> arms = (Arm(model="m@1", weight=9.0, role="champion"), Arm(model="m@2", weight=1.0, role="candidate"))
    >>> router = Router(Route(endpoint="m", generation=1, arms=arms, set_at=datetime.now(UTC)))
    >>> router.rho, router.goes_to_candidate(0.05), router.goes_to_candidate(0.5)
    (0.1, True, False)
    """

    def __init__(self, route: Route) -> None:
        champions = [arm for arm in route.arms if arm.role == "champion"]
        candidates = [arm for arm in route.arms if arm.role == "candidate"]
        if len(champions) != 1 or len(candidates) > 1 or any(arm.weight < 0 for arm in route.arms):
            raise Invalid(
                f"the route of {route.endpoint!r} needs one champion, at most one candidate, weights from 0",
                "flyball route shows and sets it",
                endpoint=route.endpoint,
            )
        self.champion = champions[0].model
        self.candidate = candidates[0].model if candidates else None
        total = sum(arm.weight for arm in route.arms)
        self.rho = candidates[0].weight / total if candidates and total > 0 else 0.0
        self.sticky_key = route.sticky_key
        # Another candidate or endpoint cuts the same keys elsewhere, so that no key is always the one exposed.
        self._salt = blake2b(f"{route.endpoint}\0{self.candidate}".encode(), digest_size=16).digest()

    def goes_to_candidate(self, draw: float, rho: float | None = None) -> bool:
        """The decision for a draw in [0, 1)."""
        return draw < (self.rho if rho is None else rho)

    def draw_for(self, key: Any) -> float:
        """A draw in [0, 1) that is always the same for this key."""
        digest = blake2b(str(key).encode(), digest_size=8, key=self._salt).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2048.0 / _SPAN
