"""Approvals: who is missing is named, on every way by which an alias moves; they are good for exactly these bytes."""

from __future__ import annotations

import pytest

from flyball.errors import Invalid, NotFound, Refused
from flyball.models import approvals, catalogue, refs, registry
from tests.unit.models.registering import add, draft, new_ledger, serve


@pytest.fixture
def opened():
    ledger, clock = new_ledger()
    for _ in range(3):
        add(ledger)
    yield ledger, clock
    ledger.close()


def ask(ledger, **given):
    approvals.require(ledger, "delays", ["risk", "lead"], actor="a", **given)


WAYS = {
    "alias": lambda ledger, clock: registry.set_alias(ledger, "delays", "champion", 2, because="", actor="a"),
    "deploy": lambda ledger, clock: serve(ledger, clock, "delays@2"),
    "stage": lambda ledger, clock: catalogue.transition(ledger, "delays@2", "production", actor="a"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_protected_alias_names_who_is_missing(opened, way):
    ledger, clock = opened
    ask(ledger)
    for missing in (["risk", "lead"], ["lead"]):
        with pytest.raises(Refused) as caught:
            WAYS[way](ledger, clock)
        assert caught.value.facts["missing"] == missing
        assert f"approve delays@2 --as {missing[0]}" in caught.value.hint
        approvals.approve(ledger, "delays@2", missing[0], actor="person:bob")
    WAYS[way](ledger, clock)


def test_a_version_registered_with_a_protected_alias_is_refused_and_takes_no_number(opened):
    ledger, _ = opened
    ask(ledger)
    with pytest.raises(Refused, match="not approved"):
        registry.add(ledger, draft(), actor="a", aliases=["champion"])
    assert [one.number for one in refs.versions(ledger, "delays")] == [1, 2, 3]
    assert add(ledger).number == 4


def test_an_alias_that_is_not_protected_waits_for_no_one(opened):
    ledger, _ = opened
    ask(ledger, protected=["production"])
    registry.set_alias(ledger, "delays", "champion", 1, because="", actor="a")
    registry.set_alias(ledger, "delays", "challenger", 2, because="", actor="a")
    with pytest.raises(Refused):
        catalogue.transition(ledger, "delays@1", "Production", actor="a")


def test_an_approval_is_good_for_the_bytes_that_were_approved(opened):
    ledger, _ = opened
    approvals.require(ledger, "delays", ["risk"], actor="a")
    approvals.approve(ledger, "delays@1", "risk", actor="a")
    version = refs.resolve(ledger, "delays@1")
    assert approvals.missing(ledger, version, "champion") == ()
    other = add(ledger, data=b"other bytes")
    assert approvals.missing(ledger, other, "champion") == ("risk",)


def test_going_back_to_what_served_waits_for_no_one_unless_its_approval_was_withdrawn(opened):
    ledger, clock = opened
    serve(ledger, clock, "delays@1")
    ask(ledger)
    for role in ("risk", "lead"):
        approvals.approve(ledger, "delays@2", role, actor="a")
    serve(ledger, clock, "delays@2")
    serve(ledger, clock, "delays@1", going_back=True)
    approvals.withdraw(ledger, "delays@2", "risk", actor="a", note="bias found")
    with pytest.raises(Refused, match="not approved by risk"):
        serve(ledger, clock, "delays@2", going_back=True)


def test_requiring_no_roles_ends_it(opened):
    ledger, clock = opened
    ask(ledger)
    approvals.require(ledger, "delays", [], actor="a")
    serve(ledger, clock, "delays@3")


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda ledger: approvals.approve(ledger, "delays@1", "chef", actor="a"), Invalid),
        (lambda ledger: approvals.approve(ledger, "delays@9", "risk", actor="a"), NotFound),
        (lambda ledger: approvals.withdraw(ledger, "delays@1", "risk", actor="a"), NotFound),
        (lambda ledger: approvals.require(ledger, "nothing", ["risk"], actor="a"), NotFound),
        (lambda ledger: approvals.require(ledger, "delays", ["a/b"], actor="a"), Invalid),
        (lambda ledger: approvals.require(ledger, "delays", ["risk"], protected=[], actor="a"), Invalid),
    ],
)
def test_what_can_not_be_approved_says_why(opened, act, error):
    ledger, _ = opened
    ask(ledger)
    with pytest.raises(error):
        act(ledger)
