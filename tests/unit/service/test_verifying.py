"""``flyball features verify``: exit 0 where a definition has one meaning, 1 with the first row where it has two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flyball.errors import Invalid, NotFound
from flyball.service import verifying
from flyball.service.workspace import Workspace
from tests import workspaces

DEFINED = """
from flyball.features import OnDemand, RequestField, Service, View, Window, col
from flyball.features.on_demand import on_demand

flights = View("flights", ("carrier",), "landed", "at", columns=("late",), derived={"late": col("delay") > 15},
               windows=(Window("delay", "delay", "mean", 3600),))
rate = OnDemand("rate", {"share": col("amount") / col("flights:delay")})

@on_demand(inputs=("amount", "rate:share"), outputs=("odd",), batch=lambda frame: frame["amount"])
def odd(amount, share):
    return None if amount is None else abs(amount)
"""


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = workspaces.new_workspace(tmp_path / "p")
    (ws.root / "defs.py").write_text(DEFINED)
    ws.__dict__.pop("definitions", None)
    yield ws
    ws.ledger.close()


def test_views_and_on_demand_views_are_proved(ws: Workspace) -> None:
    view, rate = verifying.verify("flights", rows=60, ws=ws), verifying.verify("rate", rows=60, ws=ws)
    assert (view.exit_code, rate.exit_code) == (0, 0)
    assert view.as_text().startswith("flights has one meaning: 3 computations agree by row, polars")
    assert "online and offline as of 60 moments" in view.as_text()


def test_a_batch_form_of_another_meaning_is_shown_small(ws: Workspace) -> None:
    found = verifying.verify("odd", rows=200, ws=ws)
    assert found.exit_code == 1
    assert found.as_text().startswith("odd has two meanings.\nodd:odd: defs:odd\n  of amount = -")
    assert verifying.verify("odd", rows=200, ws=ws) == found


def test_what_is_not_there_names_the_nearest(ws: Workspace) -> None:
    with pytest.raises(NotFound, match="did you mean 'flights'"):
        verifying.verify("flihgts", ws=ws)
    with pytest.raises(Invalid, match="at least one row"):
        verifying.verify("rate", rows=0, ws=ws)
