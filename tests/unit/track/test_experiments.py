"""Experiments: one of each name, Default always, and runs that go and come back with theirs."""

from __future__ import annotations

import pytest

from flyball.errors import Conflict, Invalid, NotFound
from flyball.stores.runs import RunQuery, RunStore
from flyball.track import experiments
from flyball.track.runs import open_run


def test_default_is_there_from_the_first_look_on(ledger):
    assert [(one.id, one.name) for one in experiments.ls(ledger)] == [("0", "Default")]
    assert experiments.ensure(ledger, "Default", actor="a").id == experiments.get(ledger, "0").id == "0"
    with pytest.raises(Invalid, match="can't be deleted"):
        experiments.delete(ledger, "0", actor="a")
    with pytest.raises(Conflict, match="Default"):
        experiments.create(ledger, "Default", actor="a")


def test_a_name_belongs_to_one_experiment_deleted_or_not(ledger):
    made = experiments.create(ledger, "flights", actor="a", tags={"team": "x"})
    assert made.id == "1"
    assert experiments.ensure(ledger, "flights", actor="a") == made
    other = experiments.ensure(ledger, "trains", actor="a")
    for name in ("flights", "Default"):
        with pytest.raises(Conflict, match="there is an experiment"):
            experiments.rename(ledger, other.id, name, actor="a")
    experiments.delete(ledger, made.id, actor="a")
    with pytest.raises(Conflict, match="deleted"):
        experiments.create(ledger, "flights", actor="a")
    assert experiments.ensure(ledger, "flights", actor="a").lifecycle == "active"
    renamed = experiments.rename(ledger, made.id, "planes", actor="a")
    assert experiments.by_name(ledger, "planes") == renamed
    assert experiments.ensure(ledger, "flights", actor="a").id == "3"


def test_tags_are_set_and_taken_away(ledger):
    made = experiments.ensure(ledger, "flights", actor="a")
    experiments.set_tags(ledger, made.id, {"a": "1", "b": "2"}, actor="a")
    assert experiments.untag(ledger, made.id, "a", actor="a").tags == {"b": "2"}
    with pytest.raises(NotFound, match="no tag 'a'"):
        experiments.untag(ledger, made.id, "a", actor="a")
    experiments.delete(ledger, made.id, actor="a")
    with pytest.raises(Invalid, match="is deleted"):
        experiments.set_tags(ledger, made.id, {"a": "1"}, actor="a")
    for act in (experiments.get, lambda ledger, name: experiments.rename(ledger, name, "x", actor="a")):
        with pytest.raises(NotFound, match="no experiment"):
            act(ledger, "99")
    for name in ("", "x" * 501):
        with pytest.raises(Invalid):
            experiments.create(ledger, name, actor="a")


def test_runs_go_with_their_experiment_and_only_those_come_back(ledger):
    made = experiments.ensure(ledger, "flights", actor="a")
    store = RunStore(ledger)
    runs = [
        open_run(ledger, "p", params={}, code="", environment="", actor="a", experiment=made.id).id
        for _ in range(3)
    ]
    ledger.clock._now = ledger.clock.now().replace(microsecond=1)
    store.delete(runs[0], actor="a")
    ledger.clock._now = ledger.clock.now().replace(microsecond=2)
    experiments.delete(ledger, made.id, actor="a")
    assert store.search(RunQuery()).runs == []
    experiments.delete(ledger, made.id, actor="a")
    experiments.restore(ledger, made.id, actor="a")
    assert {one.head.id for one in store.search(RunQuery()).runs} == set(runs[1:])
    assert all(store.verify(run) == [] for run in runs)
