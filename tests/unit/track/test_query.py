"""The language that runs are searched in: read, refused with the place of the mistake, and the same in SQL as in Python."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flyball.errors import Invalid
from flyball.stores.runs import Order, Point, RunStore
from flyball.track.query import (
    EXPERIMENT,
    LOGGED_MODEL,
    MODEL_VERSION,
    REGISTERED_MODEL,
    All,
    Compare,
    Either,
    Not,
    matches,
    parse,
    parse_order,
    run_query,
)
from flyball.track.runs import open_run, update

START = datetime(2026, 3, 1, tzinfo=UTC)


def only(text: str, **more) -> Compare:
    found = parse(text, **more)
    assert isinstance(found, All)
    (one,) = found.of
    return one


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.auc > 0.7", Compare("metric", "auc", ">", 0.7)),
        ("metric.a/b-c.d<=-1e-3", Compare("metric", "a/b-c.d", "<=", -0.001)),
        ("params.\"my param\" = 'it''s'", Compare("param", "my param", "=", "it's")),
        ('parameters.`a.b` != "x y"', Compare("param", "a.b", "!=", "x y")),
        ("params.trees >= 100", Compare("param", "trees", ">=", 100)),
        ("tags.mlflow.source.name like '%x_'", Compare("tag", "mlflow.source.name", "LIKE", "%x_")),
        ("status = 'FINISHED'", Compare("attribute", "status", "=", "FINISHED")),
        ("run.start_time > 12", Compare("attribute", "start_time", ">", 12)),
        ("attributes.`Run name` = 'x'", Compare("attribute", "run_name", "=", "x")),
        ("created > 1", Compare("attribute", "start_time", ">", 1)),
        ("tags.a is not null", Compare("tag", "a", "IS NOT NULL", None)),
        ("run_id NOT IN ('a', 'b')", Compare("attribute", "run_id", "NOT IN", ("a", "b"))),
        ("datasets.name = 'flights'", Compare("dataset", "name", "=", "flights")),
        ("started > '2026-03-01'", Compare("attribute", "started", ">", 1772323200000000)),
        ("`metrics`.`größe` == 1", Compare("metric", "größe", "=", 1)),
    ],
)
def test_a_comparison_is_read(text, expected):
    assert only(text) == expected


def test_people_may_say_or_not_and_parentheses():
    found = parse("metrics.a > 1 and (not tags.b = 'x' or params.c = 3)")
    a, b, c = Compare("metric", "a", ">", 1), Compare("tag", "b", "=", "x"), Compare("param", "c", "=", 3)
    assert found == All((a, Either((Not(b), c))))
    assert parse("") == parse("  ") == All()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrics.auc", "something is missing"),
        ("metrics.auc > ", "something is missing"),
        ("metrics.auc > 'high'", "compared with a number"),
        ("foo.a = 1", "no 'foo'"),
        ("statu = 'x'", "did you mean 'status'"),
        ("metrics.a > 1 metrics.b > 2", "not expected"),
        ("metrics.a > 1 and", "something is missing"),
        ("(metrics.a > 1", "not closed"),
        ("metrics.a ~ 1", "can't be read"),
        ("metrics.a LIKE 'x'", "compared with a number"),
        ("tags.a > 5", "holds words"),
        ("tags.a = b", "not a value"),
        ("run_id IN 'a'", "a list"),
        ("metrics.a IN ('1')", "not compared with a list"),
        ("start_time IN ('1')", "is a number"),
        ("started > 'yesterday'", "not a time"),
        ("datasets.size = 1", "datasets have no"),
        ("'a' = 'b'", "not a name"),
        ("metrics.a BETWEEN 1", "does not compare"),
        ("(" * 5000, "nested too deeply"),
        ("not " * 5000, "nested too deeply"),
    ],
)
def test_a_mistake_says_where_it_is(text, said):
    with pytest.raises(Invalid) as caught:
        parse(text)
    assert said in str(caught.value)
    assert "at" in caught.value.facts


@pytest.mark.parametrize(
    "text",
    [
        "params.trees = 100",
        "params.trees > '100'",
        "metrics.a > 1 or metrics.b > 1",
        "not metrics.a > 1",
        "(metrics.a > 1)",
        "tags.a IN ('x')",
        "status > 'x'",
        "seconds > 3",
        "metrics.a IS NULL",
        "run_name IS NULL",
        "start_time LIKE 'x'",
    ],
)
def test_mlflow_s_grammar_is_stricter(text):
    parse(text) if text != "start_time LIKE 'x'" else None
    with pytest.raises(Invalid):
        parse(text, strict=True)


def test_each_noun_has_its_words():
    assert only("name ILIKE 'Fl%'", names=EXPERIMENT).name == "name"
    assert only("experiment_id IN ('1')", names=EXPERIMENT, strict=True).value == ("1",)
    assert only("name IN ('a')", names=REGISTERED_MODEL, strict=True).op == "IN"
    assert only("source_path = 'x' ", names=MODEL_VERSION, strict=True).name == "source_path"
    assert only("metrics.rmse < 1", names=LOGGED_MODEL, strict=True).kind == "metric"
    for text, names in (
        ("metrics.a > 1", EXPERIMENT),
        ("run_id = 'x'", REGISTERED_MODEL),
        ("x.y = 'z'", EXPERIMENT),
    ):
        with pytest.raises(Invalid):
            parse(text, names)


def test_an_order_is_read():
    assert parse_order("metrics.`my loss` DESC") == Order("metric", "my loss", True)
    assert parse_order("-metrics.a") == Order("metric", "a", True)
    assert parse_order("params.trees") == Order("param", "trees", False, as_number=True)
    assert parse_order("params.trees", strict=True) == Order("param", "trees")
    assert parse_order("start_time asc") == Order("attribute", "started_us")
    for wrong in ("metrics.a sideways", "", "datasets.name", "metrics.a desc desc"):
        with pytest.raises(Invalid):
            parse_order(wrong)
    with pytest.raises(Invalid, match="twice"):
        run_query("", ["metrics.a", "metrics.a desc"])


NAMES = ["a", "b c"]
NUMBERS = [-1.0, 0.0, 0.5, 2.0, 100.0, math.nan, math.inf]
TEXTS = ["", "a", "A", "ab", "a%b", "a_b", "[a]*?", "0.5", "2", "100", "x\\y", "ä", "nan"]
PATTERNS = ["%", "a", "a%", "%b", "a_b", "A%", "_", "[a]%", "%*%", "%\\y", "", "%?", "a\\%b"]
RUN = st.fixed_dictionaries(
    {
        "params": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS)),
        "metrics": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(NUMBERS)),
        "tags": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(TEXTS)),
        "name": st.sampled_from(["run one", "Run", "x"]),
        "status": st.sampled_from(["running", "done", "failed", "refused", "killed"]),
        "started": st.integers(0, 5),
    }
)
ORDERED = st.sampled_from(["=", "!=", ">", ">=", "<", "<="])
SAME = st.sampled_from(["=", "!=", "IN", "NOT IN"])


def quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@st.composite
def comparisons(draw) -> str:
    kind = draw(st.sampled_from(["metrics", "params", "tags", "attributes", "time"]))
    name = f"`{draw(st.sampled_from(NAMES))}`"
    if kind == "attributes":
        left = draw(st.sampled_from(["run_name", "status", "user_id", "name"]))
    elif kind == "time":
        op, at = draw(ORDERED), START + timedelta(seconds=draw(st.integers(0, 6)))
        if draw(st.booleans()):
            return f"start_time {op} {int(at.timestamp() * 1000)}"
        return f"started {op} '{at.isoformat()}'"
    else:
        left = f"{kind}.{name}"
        if draw(st.integers(0, 6)) == 0:
            return f"{left} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if kind == "metrics" or (kind == "params" and draw(st.booleans())):
        number = draw(st.sampled_from([-1.0, 0.0, 0.5, 1, 2, 100]))
        return f"{left} {draw(ORDERED)} {number}"
    words = TEXTS if kind != "attributes" else ["Run", "x", "done", "FINISHED", "FAILED", "ann"]
    choice = draw(st.integers(0, 2))
    if choice == 0:
        return f"{left} {draw(st.sampled_from(['LIKE', 'ILIKE']))} {quoted(draw(st.sampled_from(PATTERNS)))}"
    if choice == 1:
        return (
            f"{left} {draw(st.sampled_from(['IN', 'NOT IN']))} ({quoted(draw(st.sampled_from(words)))}, 'x')"
        )
    return f"{left} {draw(ORDERED)} {quoted(draw(st.sampled_from(words)))}"


FILTERS = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("not {}".format, inner),
    ),
    max_leaves=4,
)
WORDS = {
    "running": "RUNNING",
    "done": "FINISHED",
    "failed": "FAILED",
    "refused": "FAILED",
    "killed": "KILLED",
}


def values_of(run):
    """What the run says, for the evaluator in Python; a status compares by the word it is compared with."""

    def values(kind, name):
        if kind == "attribute":
            at = START + timedelta(seconds=run["started"])
            return {
                "run_name": run["name"],
                "name": run["name"],
                "user_id": "ann",
                "start_time": int(at.timestamp() * 1000),
                "started": int(at.timestamp() * 1_000_000),
            }[name]
        return run[{"metric": "metrics", "param": "params", "tag": "tags"}[kind]].get(name)

    return values


def expected(expression, run) -> bool:
    if isinstance(expression, All):
        return all(expected(one, run) for one in expression.of)
    if isinstance(expression, Either):
        return any(expected(one, run) for one in expression.of)
    if isinstance(expression, Not):
        return not expected(expression.of, run)
    if (expression.kind, expression.name) == ("attribute", "status"):
        ours = expression.value in WORDS
        said = run["status"] if ours else WORDS[run["status"]]
        return matches(expression, lambda *_: said)
    return matches(expression, values_of(run))


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RUN, min_size=1, max_size=4), st.lists(FILTERS, min_size=1, max_size=8))
def test_sql_finds_what_python_says_it_should(ledger, runs, filters):
    store = RunStore(ledger)
    experiment = str(len(ledger.keys("run")))
    ids = {}
    for run in runs:
        active = open_run(
            ledger,
            "p",
            params=run["params"],
            tags=run["tags"],
            name=run["name"],
            experiment=experiment,
            code="",
            environment="",
            actor="person:ann",
            at=START + timedelta(seconds=run["started"]),
            remote=True,
        )
        store.write(active.id, metrics=[Point(name, value) for name, value in run["metrics"].items()])
        if run["status"] != "running":
            update(ledger, active.id, status=run["status"], actor="a")
        ids[active.id] = run
    for text in filters:
        expression = parse(text)
        query = run_query(text, ["metrics.a desc", "params.a"], experiments=[experiment], limit=None)
        found = {one.head.id for one in store.search(query).runs}
        assert found == {key for key, run in ids.items() if expected(expression, run)}, text
        assert store.count(query) == len(found)


def test_a_long_or_hostile_filter_is_data(ledger):
    store = RunStore(ledger)
    open_run(ledger, "p", params={"x": "1"}, code="", environment="", actor="a", remote=True)
    evil = "x'; drop table runs; --"
    assert store.search(run_query(f"params.`{evil}` = '{evil.replace(chr(39), chr(39) * 2)}'")).runs == []
    long = " or ".join(f"params.x = '{number}'" for number in range(300))
    assert len(store.search(run_query(long)).runs) == 1
