"""Runs' data: written whole or not at all, searched in SQL, sealed so that one flipped byte is found."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.core.clock import to_us
from flyball.core.records import Run
from flyball.errors import Invalid, NotFound
from flyball.stores.metadata import Ledger
from flyball.stores.points import TAIL, sampled, series_of
from flyball.stores.run_tables import ARTIFACTS, FACTS, POINTS, RUNS, SUMMARIES
from flyball.stores.runs import Latest, Order, Point, RunQuery, RunStore
from flyball.track.runs import open_run, reopen

AT = to_us(datetime(2013, 4, 1, tzinfo=UTC))


@pytest.fixture
def store(ledger: Ledger) -> RunStore:
    return RunStore(ledger)


def begin(ledger: Ledger, name: str = "train", **more) -> str:
    return open_run(ledger, name, params={}, code="", environment="", actor="person:ann", **more).id


def end(ledger: Ledger, run: str) -> None:
    from flyball.track.runs import update

    update(ledger, run, status="done", actor="person:ann")


def test_the_latest_of_a_metric_is_by_step_then_time_then_order(ledger, store):
    run = begin(ledger)
    store.write(run, metrics=[Point("a", 1.0, 5, 10), Point("a", 2.0, 3, 99), Point("a", 3.0, 5, 9)])
    assert store.facts([run])[run].metrics["a"] == Latest(1.0, 5, 10, 3)
    store.write(run, metrics=[Point("a", 4.0, 5, 10)])
    assert store.facts([run])[run].metrics["a"] == Latest(4.0, 5, 10, 4)
    store.write(run, metrics=[Point("a", 5.0, 4, 11)])
    assert store.facts([run])[run].metrics["a"] == Latest(4.0, 5, 10, 5)


def test_a_param_is_written_once_and_a_batch_that_contradicts_writes_nothing(ledger, store):
    run = begin(ledger)
    store.write(run, params={"trees": 10})
    store.write(run, params={"trees": "10"})
    with pytest.raises(Invalid, match="trees is 10"):
        store.write(run, params={"depth": 3, "trees": 11}, metrics=[Point("a", 1.0)], tags={"t": "x"})
    facts = store.facts([run])[run]
    assert (facts.params, facts.metrics, facts.tags) == ({"trees": "10"}, {}, {})


def test_nan_and_infinities_are_values_like_others(ledger, store):
    run = begin(ledger)
    values = [1.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308]
    store.write(run, metrics=[Point(f"m{i}", value) for i, value in enumerate(values)])
    latest = store.facts([run])[run].metrics
    assert [repr(latest[f"m{i}"].value) for i in range(len(values))] == [repr(value) for value in values]
    end(ledger, run)
    assert store.verify(run) == []
    latest = store.search(RunQuery()).runs[0].facts.metrics
    assert [repr(latest[f"m{i}"].value) for i in range(len(values))] == [repr(value) for value in values]


def test_a_value_of_a_megabyte_is_kept_and_a_larger_one_is_refused_with_the_limit(ledger, store):
    run = begin(ledger)
    store.write(run, params={"big": "x" * 1_000_000}, tags={"big": "ä" * 1_000_000})
    assert len(store.facts([run])[run].params["big"]) == 1_000_000
    with pytest.raises(Invalid, match="1,048,576 are kept"):
        store.write(run, params={"bigger": "x" * 1_048_577})
    end(ledger, run)
    assert store.verify(run) == []
    assert len(ledger.get("run", run, Run).params["big"]) < 4100


@pytest.mark.parametrize("name", ["", "x" * 251, "a\x00b", "\ud800"])
def test_a_name_no_engine_can_hold_is_said(ledger, store, name):
    run = begin(ledger)
    for one in ({"params": {name: 1}}, {"tags": {name: 1}}, {"metrics": [Point(name, 1.0)]}):
        with pytest.raises(Invalid, match="name of a"):
            store.write(run, **one)
    with pytest.raises(Invalid, match=r"NUL|Unicode"):
        store.write(run, params={"ok": "a\x00b"})


@pytest.mark.parametrize("name", ["a b", "größe/ü", "q\"`'", "%_[*]?", "😀", ".", "a.b.c", "x" * 250, "-1"])
def test_odd_names_are_names(ledger, store, name):
    run = begin(ledger)
    store.write(run, params={name: 1}, metrics=[Point(name, 2.0)], tags={name: "3"})
    facts = store.facts([run])[run]
    assert (facts.params[name], facts.metrics[name].value, facts.tags[name]) == ("1", 2.0, "3")
    assert store.search(RunQuery(order=[Order("metric", name)])).runs[0].head.id == run


def test_histories_fill_blocks_up_and_are_read_in_parts(ledger, store):
    run = begin(ledger)
    for start in range(0, 1300, 13):
        store.write(run, metrics=[Point("a", float(i), i, AT + i) for i in range(start, start + 13)])
    assert store.history(run, "a").values.tolist() == [float(i) for i in range(1300)]
    assert store.history(run, "a", after=509, limit=7).steps.tolist() == list(range(509, 516))
    assert store.history(run, "a", after=1299).steps.tolist() == [1299]
    assert len(store.history(run, "a", after=1300)) == len(store.history(run, "b")) == 0
    with ledger.reading() as connection:
        sizes = connection.execute(sa.select(POINTS.c.n).order_by(POINTS.c.block)).scalars().all()
    assert len(sizes) <= 1300 / TAIL + 1
    assert store.verify(run) == []


def test_a_batch_sent_twice_counts_once_when_asked(ledger, store):
    run = begin(ledger)
    batch = [Point("a", float(i % 3), i, AT + i // 2) for i in range(700)] + [Point("b", math.nan, 0, AT)]
    for _ in range(2):
        store.write(run, metrics=batch, once=True)
    store.write(run, metrics=[batch[0], batch[0], Point("a", 9.0, 0, AT)], once=True)
    assert (len(store.history(run, "a")), len(store.history(run, "b"))) == (701, 1)
    store.write(run, metrics=batch[:5])
    assert len(store.history(run, "a")) == 706


def test_an_ended_run_is_sealed_again_by_whoever_writes_it(ledger, store):
    run = begin(ledger)
    store.write(run, metrics=[Point("a", 1.0)])
    end(ledger, run)
    first = ledger.get("run", run, Run).seal
    store.write(run, tags={"x": "1"}, actor="person:bob")
    assert store.verify(run) == []
    assert ledger.get("run", run, Run).seal != first
    event = ledger.events(kind="run.amended")[0]
    assert (event.subject, event.actor) == (run, "person:bob")
    assert store.untag(run, ["x", "y"]) == 1
    assert ledger.get("run", run, Run).seal == first


def test_a_deleted_run_is_out_of_sight_refuses_writes_and_comes_back_whole(ledger, store):
    run, other = begin(ledger), begin(ledger)
    store.delete(run, actor="a")
    store.delete(run, actor="a")
    assert [one.head.id for one in store.search(RunQuery()).runs] == [other]
    assert [one.head.id for one in store.search(RunQuery(view="deleted")).runs] == [run]
    assert store.count(RunQuery(view="all")) == 2
    with pytest.raises(Invalid, match="is deleted"):
        store.write(run, tags={"x": "1"})
    store.restore(run, actor="a")
    store.write(run, tags={"x": "1"})
    assert len(ledger.events(kind="run.deleted")) == len(ledger.events(kind="run.restored")) == 1
    for act in (store.delete, store.restore):
        with pytest.raises(NotFound, match="no run"):
            act("run_none", actor="a")
    with pytest.raises(NotFound, match="no run"):
        store.write("run_none", tags={"x": "1"})


def test_pages_follow_one_another_without_gaps(ledger, store):
    runs = {begin(ledger) for _ in range(7)}
    seen: list[str] = []
    token = ""
    while True:
        page = store.search(RunQuery(limit=3, token=token, order=[Order("metric", "none")]))
        seen += [one.head.id for one in page.runs]
        token = page.token
        if not token:
            break
    assert len(seen) == 7
    assert set(seen) == runs
    with pytest.raises(Invalid, match="page token"):
        store.search(RunQuery(token="nonsense"))


def test_runs_without_the_metric_come_last_and_nan_before_them(ledger, store):
    values = {"one": 1.0, "two": 2.0, "nan": math.nan, "inf": math.inf, "none": None}
    ids = {}
    for name, value in values.items():
        ids[begin(ledger, run_name(name))] = name
        if value is not None:
            store.write(list(ids)[-1], metrics=[Point("a", value)])
    for descending, expected in (
        (False, ["one", "two", "inf", "nan", "none"]),
        (True, ["inf", "two", "one", "nan", "none"]),
    ):
        found = store.search(RunQuery(order=[Order("metric", "a", descending)])).runs
        assert [ids[one.head.id] for one in found] == expected


def run_name(name: str) -> str:
    return f"pipeline-{name}"


FLIPS = {
    "a point": (POINTS, "content", lambda value: value[:-1] + bytes([value[-1] ^ 1])),
    "a block's bound": (POINTS, "last_step", lambda value: value + 1),
    "a block's chain": (POINTS, "chain", lambda value: value[:-1] + bytes([value[-1] ^ 1])),
    "a param": (FACTS, "text", lambda value: value + "x"),
    "a fact's time": (FACTS, "at_us", lambda value: value + 1),
    "a fact's name": (FACTS, "name", lambda value: value + "x"),
    "a count": (FACTS, "points", lambda value: value + 1),
    "a head": (RUNS, "name", lambda value: value + "x"),
    "a status": (RUNS, "status", lambda value: "failed"),
    "an artifact": (ARTIFACTS, "digest", lambda value: value[:-1] + ("0" if value[-1] != "0" else "1")),
    "an artifact's path": (ARTIFACTS, "path", lambda value: value + "x"),
    "a summary": (SUMMARIES, "content", lambda value: value[:-1] + bytes([value[-1] ^ 1])),
}


@pytest.mark.parametrize("what", FLIPS)
def test_one_flipped_byte_is_found_in(ledger, store, what):
    from flyball.stores.artifacts import ArtifactStore
    from flyball.stores.blobs import Blobs

    run = begin(ledger)
    ArtifactStore(ledger, Blobs.open("memory:")).put(run, "a/b", b"hello")
    store.write(run, params={"p": "1"}, tags={"t": "x"}, metrics=[Point("a", float(i), i) for i in range(9)])
    end(ledger, run)
    assert store.verify(run) == []
    table, column, flip = FLIPS[what]
    with ledger.writing() as connection:
        row = connection.execute(sa.select(table).where(table.c[column].is_not(None))).mappings().first()
        keys = [table.c[one.name] == row[one.name] for one in table.primary_key]
        connection.execute(table.update().where(*keys).values({column: flip(row[column])}))
    assert store.verify(run) != []


def test_a_lost_block_and_a_lost_fact_are_found(ledger, store):
    run = begin(ledger)
    store.write(run, metrics=[Point("a", float(i), i) for i in range(TAIL)])
    store.write(run, metrics=[Point("a", 1.0, TAIL), Point("b", 1.0)])
    with ledger.writing() as connection:
        connection.execute(POINTS.delete().where(POINTS.c.block == 1))
        connection.execute(FACTS.delete().where(FACTS.c.name == "b"))
    assert len(store.verify(run)) == 2


def test_a_run_that_goes_on_is_read_from_its_facts_again(ledger, store):
    active = open_run(ledger, "p", params={"x": 1}, code="", environment="", actor="a")
    active.metric("a", 1.0)
    active.end("failed")
    again = reopen(ledger, active.id, code="", environment="", actor="a")
    again.metric("a", 2.0, 1)
    again.flush()
    assert store.search(RunQuery()).runs[0].facts.metrics["a"].value == 2.0
    assert store.columns(RunQuery())[1][0].metrics == {"a": (2.0,)}
    again.end()
    assert store.verify(active.id) == []
    assert ledger.get("run", active.id, Run).params == {"x": 1}


class Model:
    """What a run store is, as dicts."""

    def __init__(self) -> None:
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.histories: dict[str, list[tuple[int, int, str]]] = {}

    def write(self, params, tags, points) -> bool:
        if any(self.params.get(name, value) != value for name, value in params.items()):
            return False
        self.params |= params
        self.tags |= tags
        for name, value, step, at in points:
            self.histories.setdefault(name, []).append((step, at, repr(value)))
        return True

    def latest(self) -> dict[str, tuple[int, int, str]]:
        found = {}
        for name, history in self.histories.items():
            found[name] = max(enumerate(history), key=lambda one: (one[1][0], one[1][1], one[0]))[1]
        return found


NAMES = st.sampled_from(["a", "B", "ä b", "x/y"])
TEXTS = st.sampled_from(["1", "two", "", "nan", "1e5", "✓"])
STEPS = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)
POINT = st.tuples(NAMES, st.floats(allow_nan=True), STEPS, st.integers(0, 5) | st.integers(0, 2**60))
WRITE = st.tuples(
    st.dictionaries(NAMES, TEXTS, max_size=2),
    st.dictionaries(NAMES, TEXTS, max_size=2),
    st.lists(POINT, max_size=6),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WRITE, max_size=6), st.booleans())
def test_any_writes_leave_what_a_dict_would(ledger, writes, ended):
    store = RunStore(ledger)
    run, model = begin(ledger), Model()
    for params, tags, points in writes:
        try:
            store.write(run, params=params, tags=tags, metrics=[Point(*one) for one in points])
            accepted = True
        except Invalid:
            accepted = False
        assert accepted == model.write(params, tags, points)
    if ended:
        end(ledger, run)
    for facts in (
        store.facts([run])[run],
        next(o for o in store.search(RunQuery(limit=None)).runs if o.head.id == run).facts,
    ):
        assert (facts.params, facts.tags) == (model.params, model.tags)
        assert {n: (m.step, m.at_us, repr(m.value)) for n, m in facts.metrics.items()} == model.latest()
        assert {n: m.points for n, m in facts.metrics.items()} == {
            n: len(h) for n, h in model.histories.items()
        }
    for name, history in model.histories.items():
        assert [(s, a, repr(v)) for s, a, v in store.history(run, name).rows()] == history
    assert store.verify(run) == []


@pytest.mark.parametrize("values", [[-0.0], [0.0, -0.0], [-0.0, 0.0], [float("-inf")], [float("nan")]])
def test_a_value_that_a_column_of_numbers_changes_is_kept_and_is_no_change(ledger, values):
    store, run = RunStore(ledger), begin(ledger)
    store.write(run, metrics=[Point("loss", value, step, 0) for step, value in enumerate(values)])
    end(ledger, run)
    assert repr(store.facts([run])[run].metrics["loss"].value) == repr(values[-1])
    assert store.verify(run) == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=300), st.integers(2, 60))
def test_thinning_keeps_the_ends_the_extremes_and_the_order(values, to):
    series = series_of(values)
    thin = sampled(series, to)
    assert len(thin) <= max(to, 4)
    assert [thin.steps[0], thin.steps[-1]] == [0, len(values) - 1]
    assert sorted(thin.steps.tolist()) == thin.steps.tolist()
    finite = [value for value in values if not math.isnan(value)]
    if finite:
        kept = [value for value in thin.values.tolist() if not math.isnan(value)]
        assert (min(kept), max(kept)) == (min(finite), max(finite))


@pytest.mark.parametrize(
    ("values", "steps", "times", "said"),
    [
        (["a"], None, 0, "numbers"),
        ([[1.0]], None, 0, "dimensions"),
        ([1.0], [1, 2], 0, "steps of shape"),
        ([1.0], [0.5], 0, "whole numbers"),
        ([1.0], [2**63], 0, "2\\^63"),
        ([1.0], [1e30], 0, "2\\^63"),
        ([1.0], ["x"], 0, "whole numbers"),
        ([1.0], None, [1, 2], "times of shape"),
    ],
)
def test_columns_that_are_no_series_are_said(values, steps, times, said):
    with pytest.raises(Invalid, match=said):
        series_of(values, steps, times)
