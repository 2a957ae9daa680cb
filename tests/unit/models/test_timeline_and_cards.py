"""Who served what, when and why; and the card that says it, the same text each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flyball.core.records import Code, Decision, Environment, Report, Run, Snapshot
from flyball.errors import NotFound
from flyball.heal import traffic
from flyball.models import approvals, cards, catalogue, refs, registry, timeline
from flyball.models.comparing import differences
from tests.unit.models.registering import START, add, draft, new_ledger, serve


@pytest.fixture
def opened():
    ledger, clock = new_ledger()
    yield ledger, clock
    ledger.close()


def test_every_move_of_an_alias_is_told_whatever_moved_it(opened):
    ledger, clock = opened
    add(ledger)
    add(ledger)
    registry.set_alias(ledger, "delays", "champion", 1, because="the first", actor="person:ann")
    clock.advance(timedelta(hours=1))
    serve(ledger, clock, "delays@2", because="dec_1")
    clock.advance(timedelta(hours=1))
    catalogue.transition(ledger, "delays@2", "Production", actor="person:bob", because="asked")
    clock.advance(timedelta(hours=1))
    registry.delete_alias(ledger, "delays", "champion", because="tidied", actor="person:bob")
    told = [(one.alias, one.version, one.because) for one in timeline.changes(ledger, "delays")]
    assert told == [
        ("champion", "delays@1", "the first"),
        ("champion", "delays@2", "dec_1"),
        ("stage Production", "delays@2", "asked"),
        ("champion", None, "tidied"),
    ]
    first, second, stage, gone = timeline.changes(ledger, "delays")
    assert first.until == second.at == START + timedelta(hours=1)
    assert (second.until, stage.until, gone.until) == (gone.at, None, None)
    assert [one.version for one in timeline.changes(ledger, "delays", "champion")] == [
        "delays@1",
        "delays@2",
        None,
    ]


@pytest.mark.parametrize(
    ("hours", "champion"),
    [(0, "delays@1"), (0.5, "delays@1"), (1, "delays@2"), (99, "delays@2")],
)
def test_who_served_at_a_time_is_known(opened, hours, champion):
    ledger, clock = opened
    add(ledger)
    add(ledger)
    serve(ledger, clock, "delays@1")
    clock.advance(timedelta(hours=1))
    serve(ledger, clock, "delays@2")
    found = timeline.served_at(ledger, "delays", START + timedelta(hours=hours))
    assert found.champion == champion


def test_before_the_first_route_nothing_served_and_an_unknown_endpoint_is_named(opened):
    ledger, clock = opened
    add(ledger)
    clock.advance(timedelta(hours=1))
    serve(ledger, clock, "delays@1")
    with pytest.raises(NotFound, match="its first route was set"):
        timeline.served_at(ledger, "delays", START)
    with pytest.raises(NotFound, match="no endpoint 'delay'"):
        timeline.served_at(ledger, "delay", clock.now())


def test_spans_of_a_version_say_as_what_it_served_and_the_decision_behind_it(opened):
    ledger, clock = opened
    add(ledger)
    add(ledger)
    route = serve(ledger, clock, "delays@1")
    clock.advance(timedelta(hours=1))
    decision = Decision(
        id="dec_1", at=clock.now(), policy="canary", subject="delays", action="canary.start",
        arguments={}, because="it passed its gate", evidence={},
    )  # fmt: skip
    new = traffic.with_candidate(route, "delays@2", 0.25, at=clock.now(), because="dec_1")
    with ledger.transaction() as tx:
        sets = [*traffic.changes(tx, new, at=clock.now()), ("decision", "dec_1", decision)]
        tx.append("route.canary.start", "delays", actor="governor", sets=sets)
    (one,) = timeline.served(ledger, model="delays@2")
    assert (one.candidate, one.share, one.actor, one.until) == ("delays@2", 0.25, "governor", None)
    assert one.because == "dec_1: it passed its gate"
    assert [span.until for span in timeline.served(ledger, "delays")] == [one.since, None]


def told_in_full(ledger, clock):
    """A version with everything that a card can say."""
    gate = Report(
        id="rep_1", kind="gate", subject="delays", at=START, passed=True, summary="passed: auc 0.76 is >= 0.7",
        since=START, until=START + timedelta(days=7),
        evidence={
            "because": ["auc 0.7600 is >= 0.7"], "rows": 12000, "days": 8, "champion": "delays@0",
            "champion_metrics": {"auc": 0.74},
            "slices": [
                {"name": "origin=JFK", "rows": 4000, "loss": 0.11, "refused": False, "because": "",
                 "difference": {"mean": -0.01, "low": -0.02, "high": -0.001, "n": 4000, "blocks": 8}},
                {"name": "origin=LGA", "rows": 40, "loss": 0.2, "difference": None, "refused": False,
                 "because": "not enough data: 40 rows, 200 are needed"},
            ],
        },
    )  # fmt: skip
    snapshot = Snapshot(
        name="flights", number=3, digest="b3:" + "5" * 64, files=(), created=START, made_by="person:ann",
        schema={"departed": "Datetime(time_unit='us')", "delay": "Float64"}, rows=27004,
        statistics={"departed": {"min": "2013-01-01 05:00:00", "max": "2013-03-31 23:00:00"}},
    )  # fmt: skip
    code = Code(digest="b3:" + "6" * 64, commit="abc123", branch="main", patch="b3:" + "7" * 64)
    environment = Environment(
        digest="b3:" + "8" * 64, python="3.11.7", platform="linux", packages={"numpy": "2"}
    )
    run = Run(
        id="run_1", pipeline="train_delays", started=START, status="done", params={"trees": 200},
        code=code.digest, environment=environment.digest, actor="person:ann", seeds={"seed": 7},
    )  # fmt: skip
    with ledger.transaction() as tx:
        tx.append(
            "made", "all", actor="a",
            sets=[("report", "rep_1", gate), ("snapshot", "flights@3", snapshot), ("run", "run_1", run),
                  ("code", code.digest, code), ("environment", environment.digest, environment)],
        )  # fmt: skip
    version = registry.add(
        ledger,
        draft(gate="rep_1", run="run_1", training={"flights": "flights@3"}, metrics={"auc": 0.76},
              description="first of the year", example={"a": 0.25}),
        actor="person:ann",
    )  # fmt: skip
    catalogue.describe(ledger, "delays", "Will a flight be late?", actor="a")
    catalogue.tag(ledger, "delays", put={"team": "ops"}, actor="a")
    approvals.require(ledger, "delays", ["risk", "lead"], actor="a")
    approvals.approve(ledger, "delays@1", "risk", actor="person:bob", note="read | it")
    approvals.approve(ledger, "delays@1", "lead", actor="person:eve")
    serve(ledger, clock, "delays@1")
    return refs.resolve(ledger, version.ref)


def test_a_card_says_what_the_ledger_knows(opened):
    ledger, clock = opened
    text = cards.card(ledger, told_in_full(ledger, clock))
    for said in (
        "# delays@1",
        "Will a flight be late?",
        "first of the year",
        "team=ops",
        "| `a` | FP32 | n × 1 | yes | 0.25 |",
        "| flights | `flights@3` | 27,004 | departed 2013-01-01 to 2013-03-31 |",
        "| auc | 0.76 | 0.74 |",
        "**Passed its gate** (rep_1) on 2013-04-01 00:00:00 UTC to 2013-04-08 00:00:00 UTC, 12,000 rows of 8 days:",
        "- auc 0.7600 is >= 0.7",
        "| origin=JFK | 4,000 | 0.11 | -0.0100 (-0.0200 to -0.0010, 95 % of 8 blocks) |",
        "not enough data: 40 rows, 200 are needed",
        "`abc123` on main",
        "| `trees` | 200 |",
        "seed=7",
        "`flyball reproduce run_1`",
        "Aliases: `champion`.",
        "| risk | approved | person:bob | 2013-04-01 00:00:00 UTC | read \\| it |",
        "| delays | champion | 2013-04-01 00:00:00 UTC | now | person:ann |",
        "- Not enough data to judge: origin=LGA.",
        "- It was trained with code that was not committed (the patch is kept).",
        "- It is not signed.",
    ):
        assert said in text, said


def test_the_same_ledger_gives_the_same_card_also_later_and_folded_again(opened):
    ledger, clock = opened
    version = told_in_full(ledger, clock)
    text = cards.card(ledger, version)
    clock.advance(timedelta(days=30))
    ledger.rebuild()
    assert cards.card(ledger, refs.resolve(ledger, "delays@1")) == text


def test_a_card_of_a_bare_version_says_what_is_not_known(opened):
    ledger, _ = opened
    add(ledger)
    catalogue.rename(ledger, "delays", "late", actor="a")
    catalogue.delete_version(ledger, "late@1", actor="a")
    text = cards.card(ledger, refs.resolve(ledger, "late@1", deleted=True))
    for said in (
        "the model is called `late` now",
        "**Deleted**",
        "No description",
        "nothing is known of how well it answers",
        "outside of any run",
        "It has not served.",
        "Its training data is not recorded.",
    ):
        assert said in text, said


def test_comparing_shows_only_what_differs(opened):
    ledger, clock = opened
    first = told_in_full(ledger, clock)
    assert differences(ledger, first, first) == []
    other = registry.add(ledger, draft(data=b"other", metrics={"auc": 0.71, "brier": 0.1}), actor="a")
    told = {what: (before, after) for what, before, after in differences(ledger, first, other)}
    assert told["metric auc"] == (0.76, 0.71)
    assert told["metric brier"] == (None, 0.1)
    assert told["training flights"] == ("flights@3", None)
    assert set(told) == {
        "artifact", "gate", "run", "description", "metric auc", "metric brier", "training flights",
    }  # fmt: skip


def test_times_of_cards_are_utc():
    assert cards._time(datetime(2013, 7, 4, 12, tzinfo=UTC)) == "2013-07-04 12:00:00 UTC"
