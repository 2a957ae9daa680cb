"""On-demand functions leave as sources, named by their digest, and run elsewhere without the project."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl
import pytest

from flyball.errors import Invalid, NotFound, Refused
from flyball.features import OnDemand, View, push
from flyball.features.shipping import module_of, packed, take
from flyball.service import features
from flyball.service.workspace import Workspace
from tests import workspaces

DEFINED = """
from flyball.features import RequestField, Service, View
from shop_rates import rate

spend = View("spend", ("shop_id",), "sales", happened="sold_at", columns=("price",))
till = Service("till", ("rate:share",), request=(RequestField("amount"),))
"""
RATES = """
from flyball.features.on_demand import on_demand
from shop_rounding import cut

@on_demand(inputs=("amount", "spend:price"), outputs=("share",))
def rate(amount, price):
    return None if amount is None or not price else cut(amount / price)
"""


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    ws = workspaces.new_workspace(tmp_path / "p")
    (ws.root / "defs.py").write_text(DEFINED)
    (ws.root / "shop_rates.py").write_text(RATES)
    (ws.root / "shop_rounding.py").write_text("def cut(x):\n    return round(x, 1)\n")
    ws.__dict__.pop("definitions", None)
    yield ws
    ws.ledger.close()


WORKER = """
import sys, msgspec
from flyball.core.plan import Plan
from flyball.serve.metrics import Metrics
from flyball.serve.serving import NOTHING, load_plan
plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
serving = load_plan(plan, NOTHING, Metrics())
answer = serving.features.answer("till", b'{"entities": {"shop_id": "a"}, "features": {"amount": 1.0}}')
assert "shop_rates" not in sys.modules and "polars" not in sys.modules
print(answer.decode())
"""


def test_a_worker_elsewhere_runs_the_function_that_was_applied(ws: Workspace, tmp_path: Path) -> None:
    first = {one.name: one for one in features.apply(ws=ws)}
    assert first["rate"].version == "rate@1"
    known = features.known(ws)
    rate, spend = known["rate"], known["spend"]
    assert isinstance(rate, OnDemand)
    assert rate.code
    assert isinstance(spend, View)
    sold = pl.DataFrame({"shop_id": ["a"], "sold_at": [datetime(2020, 1, 1, tzinfo=UTC)], "price": [3.0]})
    push(spend, sold, ws.online)
    plan = ws.plan  # as applying published it
    assert plan.features.on_demand["rate"]["code"] == rate.code
    ran = subprocess.run(
        [sys.executable, "-c", WORKER],
        input=msgspec.json.encode(plan),
        capture_output=True,
        cwd=tmp_path,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()[-2000:]
    assert msgspec.json.decode(ran.stdout)["values"] == {"rate:share": 0.3}


def test_another_function_is_another_version(ws: Workspace) -> None:
    features.apply(ws=ws)
    (ws.root / "shop_rounding.py").write_text("def cut(x):\n    return round(x, 2)\n")
    ws.__dict__.pop("definitions", None)
    again = {one.name: one for one in features.apply(ws=ws)}
    assert (again["rate"].version, again["rate"].differs) == ("rate@2", ("code",))
    assert again["till"].change == "changed"


def test_what_can_not_be_shipped_is_refused_when_it_is_applied() -> None:
    def inner(x: float) -> float:
        return x

    from flyball.features.on_demand import on_demand

    with pytest.raises(Invalid, match="defined inside a function"):
        packed(on_demand(inputs=("x",), outputs=("y",))(inner))
    with pytest.raises(Invalid, match="script or notebook"):
        packed(OnDemand("x", python="__main__:f", inputs=("x",), outputs=("y",)))
    with pytest.raises(Invalid, match="not of the project"):
        packed(OnDemand("x", python="json:dumps", inputs=("x",), outputs=("y",)))


def test_bytes_of_another_digest_never_run() -> None:
    one = OnDemand("x", python="m:f", inputs=("x",), outputs=("y",), code="b3:" + "0" * 64)
    with pytest.raises(Refused, match="is not b3:000"):
        take([one], lambda _digest: b"something else")
    with pytest.raises(NotFound, match="was not loaded"):
        module_of(one.code, "m")
