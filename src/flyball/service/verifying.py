"""``flyball features verify``: one definition, every way to compute it, over rows made to break things."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flyball.errors import Invalid, NotFound, nearest
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    from flyball.features.verifying import Verified


class Proof(msgspec.Struct, frozen=True):
    """What was compared; the first disagreement, if there is one."""

    result: Verified

    @property
    def exit_code(self) -> int:
        return 1 if self.result.disagreement else 0

    def as_text(self) -> str:
        """For people."""
        found = self.result
        if found.disagreement is not None:
            return f"{found.name} has two meanings.\n{found.disagreement.as_text()}"
        ways = f" by {', '.join(found.engines)} over {found.rows} rows" if found.engines else ""
        asked = (
            f"{',' if ways else ''} online and offline as of {found.questions} moments"
            if found.questions
            else ""
        )
        return f"{found.name} has one meaning: {len(found.checked)} computations agree{ways}{asked}"


@verb("features verify", reads=True)
def verify(name: str, rows: int = 1000, seed: int = 0, *, ws: Workspace = CURRENT) -> Proof:
    """Prove that a view or on-demand view gives the same per row, in batch, online and offline; exit 1 when it does not.

    --rows are generated from values that break things (nulls, NaN, ends of integers, days on which clocks change), the
    same ones for the same --seed. The first disagreement is shown as small as it can be made.
    """
    from flyball.features import verifying
    from flyball.features.services import OnDemand, resolve, service_for
    from flyball.service.features import known

    if rows < 1:
        raise Invalid(f"--rows {rows}", "verify at least one row")
    defined = known(ws, [f"{name}:"] if "@" in name else [])
    if name not in defined:
        raise NotFound(f"no view or on-demand view {name!r}", nearest(name, list(defined)))
    one = defined[name]
    vector = None
    if isinstance(one, OnDemand):
        needed = [need for need in one.needs if ":" in need]
        asked = service_for(one.features, known(ws, needed))
        vector = resolve(asked, known(ws, needed))
    return Proof(verifying.verify(one, rows=rows, seed=seed, vector=vector))
