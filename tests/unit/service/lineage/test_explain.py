"""What ``flyball explain`` says of everything, up and down, and that up and down are each other's inverse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from flyball.core.lineage import Graph
from flyball.core.records import KeptCommit
from flyball.errors import Invalid, NotFound, Unavailable
from flyball.service.explain import build, explain
from flyball.service.lineage.reading import Reading
from flyball.service.verb import plain, table
from flyball.service.workspace import Workspace
from flyball.stores.metadata import EDGES, RECORDS
from flyball.versions import data
from tests.unit.service.lineage.story import DECISION, GATE, LATER, PREDICTION, RUN, new_story, say
from tests.workspaces import close


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    opened = new_story(tmp_path_factory.mktemp("story"))
    yield opened
    close(opened)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Workspace]:
    """A story that a test may damage."""
    opened = new_story(tmp_path / "own")
    yield opened
    close(opened)


def graph_of(ws: Workspace, thing: str, **options: object) -> Graph:
    with ws.ledger.reading() as connection:
        return build(ws, Reading(connection), thing, **options)  # type: ignore[arg-type]


def keys(ws: Workspace, thing: str, down: bool = False) -> set[str]:
    return set(graph_of(ws, thing, down=down).nodes)


def test_a_prediction_leads_up_to_data_code_environment_gate_features_and_route(ws: Workspace) -> None:
    found = explain(PREDICTION, verify=True, ws=ws)
    assert found.broken == []
    assert found.verified is True
    text = found.as_text()
    for line in (
        f"ok prediction {PREDICTION}", "ok model delays@1", f"ok gate {GATE}", f"ok run {RUN}", "ok code b3:",
        "ok environment b3:", "ok data flights@1 (input:flights)", "ok file flights.csv", "ok view plane@1",
        "ok features 1 values of delays_in@1", "ok route delays generation 1", "months: 3", "by: person:ann",
    ):  # fmt: skip
        assert line in text, text
    assert "delays@2" not in text


def test_data_leads_down_to_runs_models_endpoints_and_answers(ws: Workspace) -> None:
    found = explain("flights@1", down=True, verify=True, ws=ws)
    assert found.exit_code == 0, found.broken
    reach = {"artifact": 4, "decision": 1, "endpoint": 1, "gate": 1, "model": 2, "predictions": 1, "run": 2}
    assert found.reach == reach
    text = found.as_text()
    assert "endpoint delays (serves now: champion, 100%, since 2013-04-03 00:00)" in text
    assert "served as champion from 2013-04-02 00:00, not now" in text
    assert "predictions 1 prediction at delays" in text


@pytest.mark.parametrize(
    ("thing", "reached"),
    [
        ("plane@1", {"service:delays_in@1", "model:delays@1", "endpoint:delays", "answers:delays/delays@1"}),
        ("plane", {"view:plane@1", "service:delays_in@1", "model:delays@1", "endpoint:delays"}),
        ("flights", {"snapshot:flights@1", "view:plane@1", "model:delays@1", "model:delays@2"}),
        ("numpy==2.0.0", {RUN, LATER, "model:delays@1", "endpoint:delays"}),
        ("package:numpy", {RUN, LATER, "model:delays@2"}),
        ("ab12ab12", {RUN, LATER, "model:delays@1"}),
        (DECISION, {LATER, "model:delays@2", "delays#2", "endpoint:delays"}),
        (GATE, {"model:delays@1", "endpoint:delays"}),
        (RUN, {GATE, "model:delays@1", "endpoint:delays"}),
        ("model:delays", {"model:delays@1", "model:delays@2", "endpoint:delays"}),
    ],
)
def test_who_breaks_when_it_changes(ws: Workspace, thing: str, reached: set[str]) -> None:
    assert reached <= keys(ws, thing, down=True)


def test_a_second_version_is_not_reached_from_the_first(ws: Workspace) -> None:
    assert "model:delays@2" not in keys(ws, "delays@1", down=True)
    assert LATER not in keys(ws, GATE, down=True)  # the decision only cites it


@pytest.mark.parametrize(
    "thing",
    [RUN, GATE, DECISION, "delays@champion", "delays@1", "flights@1", "flights", "plane@1", "delays_in@1", "delays#2",
     "endpoint:delays", "view:plane", "data:flights@1", "run:" + RUN, "alias:delays@champion", f"prediction:{PREDICTION}"],
)  # fmt: skip
def test_everything_has_an_explanation_that_verifies(ws: Workspace, thing: str) -> None:
    found = explain(thing, verify=True, ws=ws)
    assert found.broken == []
    assert found.objects > 1


def test_what_is_above_has_it_below(ws: Workspace) -> None:
    """Up and down are each other's inverse, but for what stands aside, and bytes (whose past is not followed)."""
    for thing in ("delays@2", RUN, "delays_in@1"):
        root = graph_of(ws, thing).root
        for key, node in graph_of(ws, thing).nodes.items():
            aside = node.noun in ("source", "experiment", "report", "code", "environment") or key == root
            if not aside and node.noun in ("run", "snapshot", "model", "view", "service"):
                assert root in keys(ws, key, down=True), (thing, key)


def test_depth_says_how_far_to_look_and_how_much_lies_beyond(ws: Workspace) -> None:
    alone = explain("delays@1", depth=0, ws=ws)
    assert alone.tree.of == []
    assert alone.cut > 0
    assert "more, deeper" in alone.as_text()
    near = explain("delays@1", depth=1, ws=ws)
    assert {branch.what for branch in near.tree.of} == {"model bytes", "gate", "run", "data", "service"}
    assert all(not branch.of for branch in near.tree.of)
    whole, far = (graph_of(ws, "delays@1", depth=depth) for depth in (None, 9))
    assert whole.nodes == far.nodes
    assert set(whole.links) == set(far.links)


def test_a_name_with_several_meanings_names_them(ws: Workspace) -> None:
    with pytest.raises(Invalid, match="'delays' names several things") as raised:
        explain("delays", ws=ws)
    assert raised.value.facts["candidates"] == ["endpoint:delays", "model:delays@2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("delay@1", "did you mean 'delays@1'"),
        ("fligths", "did you mean 'flights'"),
        ("delays@9", "delays has versions 1 to 2"),
        ("flights@9", "flights has"),
        (RUN[:-1] + "9", RUN),
        ("b3:abcdef00", "no digest begins with"),
        ("view:plain@1", "did you mean 'plane@1'"),
        ("rep_nothing", GATE),
        ("p_00000000000000000000000000", "nothing is called nearly so"),
    ],
)
def test_what_is_not_there_names_what_is(ws: Workspace, words: str, said: str) -> None:
    with pytest.raises(NotFound) as raised:
        explain(words, ws=ws)
    assert said in str(raised.value)


def test_a_digest_is_found_by_its_beginning(ws: Workspace) -> None:
    (code,) = ws.ledger.keys("code")
    assert explain(code[:14], ws=ws).tree.name == code
    artifact = ws.ledger.get("model", "delays@1", dict)["artifact"]
    assert keys(ws, artifact[:20], down=True) >= {"model:delays@1", "endpoint:delays"}


def test_what_is_missing_is_said_and_the_rest_is_shown(own: Workspace) -> None:
    with own.ledger.writing() as connection:
        connection.execute(RECORDS.delete().where(RECORDS.c.noun == "code"))
        connection.execute(RECORDS.delete().where(RECORDS.c.key == GATE))
    shown = explain(PREDICTION, ws=own)
    assert shown.exit_code == 0
    text = shown.as_text()
    assert f"MISSING report {GATE}" in text
    assert "data flights@1" in text
    checked = explain(PREDICTION, verify=True, ws=own)
    assert checked.exit_code == 1
    assert any(GATE in one and "gone" in one for one in checked.broken)


def test_a_record_that_is_no_json_any_more_is_shown_as_changed(own: Workspace) -> None:
    with own.ledger.writing() as connection:
        connection.execute(RECORDS.update().where(RECORDS.c.key == RUN).values(content=b'{"id":\xff'))
    found = explain("delays@1", ws=own)
    assert found.as_text().count(f"CHANGED run {RUN}") >= 1
    assert explain("delays@1", verify=True, ws=own).exit_code == 1
    assert explain(".", verify=True, ws=own).exit_code == 1
    assert explain("flights@1", down=True, ws=own).exit_code == 0


def test_a_cycle_in_the_ledger_ends(own: Workspace) -> None:
    with own.ledger.writing() as connection:
        connection.execute(EDGES.insert().values(made="snapshot:flights@1", of=RUN, role="made by", seq=1))
    assert RUN in keys(own, "flights@1")
    assert "snapshot:flights@1" in keys(own, "flights@1", down=True)
    assert explain(RUN, verify=True, ws=own).exit_code == 1  # no event wrote that edge


def test_the_whole_workspace_is_counted_and_rechecked(own: Workspace) -> None:
    found = explain(".", verify=True, ws=own)
    assert found.broken == []
    assert found.tree.facts["run records"] == 2
    assert found.objects > 40
    path = own.blobs.path(own.ledger.get("model", "delays@2", dict)["artifact"])
    assert path is not None
    path.write_bytes(b"another model")
    assert any("has changed" in one for one in explain("workspace", verify=True, ws=own).broken)
    path.unlink()
    assert any("is gone" in one for one in explain(".", verify=True, ws=own).broken)


def test_rows_of_a_run_that_is_not_there_are_found(own: Workspace) -> None:
    with own.ledger.writing() as connection:
        connection.execute(
            sa.text(f"update run_facts set run = 'run_x' where name = 'loss' and run = '{RUN}'")
        )
    assert any("run_x" in one for one in explain(".", verify=True, ws=own).broken)


def test_what_is_over_http_has_no_files_to_write_and_no_address_to_call() -> None:
    assert set(table()["explain"].remote) == {"thing", "verify", "down", "depth", "as"}


def test_the_shape_for_scripts_is_a_tree(ws: Workspace) -> None:
    shape = plain(explain(PREDICTION, ws=ws))
    assert set(shape) == {"id", "direction", "tree", "verified", "broken", "objects", "cut", "reach"}
    assert [one["what"] for one in shape["tree"]["of"]] == ["model", "features", "route"]


def test_as_json_is_the_graph(ws: Workspace, tmp_path: Path) -> None:
    answer = explain("delays@1", as_="json", out=str(tmp_path / "graph.json"), ws=ws)
    assert str(tmp_path / "graph.json") in answer.as_text()
    graph = msgspec.json.decode((tmp_path / "graph.json").read_bytes())
    named = {node["key"] for node in graph["nodes"]}
    assert graph["root"] == "model:delays@1"
    assert all({link["made"], link["of"]} <= named for link in graph["links"])
    with pytest.raises(Invalid, match="no form 'pdf'"):
        explain("delays@1", as_="pdf", ws=ws)


def test_the_same_story_on_each_engine(tmp_path: Path, ledger_url: str) -> None:
    ws = new_story(tmp_path / "engine", ledger_url)
    assert explain(PREDICTION, verify=True, ws=ws).broken == []
    assert explain(".", verify=True, ws=ws).broken == []
    assert explain("flights@1", down=True, ws=ws).reach["model"] == 2
    with ws.ledger.writing() as connection:
        connection.execute(RECORDS.delete().where(RECORDS.c.key == "delays@champion"))
    assert any("alias delays@champion" in one for one in explain("delays@2", verify=True, ws=ws).broken)
    close(ws)


def test_a_name_may_begin_as_an_id_of_mlflow_does(own: Workspace) -> None:
    (own.root / "small.csv").write_text("a\n1\n")
    data.add(own.ledger, own.blobs, "m-small", own.root / "small.csv", actor="x")
    assert explain("m-small@1", verify=True, ws=own).tree.what == "data"


def test_a_picture_is_a_text_for_scripts_and_a_file_for_people(ws: Workspace, tmp_path: Path) -> None:
    picture = plain(explain("delays@1", as_="svg", ws=ws))
    assert picture.startswith("<svg ")
    assert explain("delays@1", verify=True, as_="svg", out=str(tmp_path / "a.svg"), ws=ws).exit_code == 0
    assert (tmp_path / "a.svg").read_text().count("✓ ok") > 5
    with pytest.raises(Unavailable, match="can't be written"):
        explain("delays@1", as_="svg", out=str(tmp_path / "no" / "a.svg"), ws=ws)


def test_who_runs_a_source_file(ws: Workspace) -> None:
    (code,) = ws.ledger.ls("code", dict)
    assert {RUN, LATER, "model:delays@1", "endpoint:delays"} <= keys(ws, code["patch"], down=True)


def test_a_kept_commit_is_rechecked_with_the_packs_it_builds_on(own: Workspace) -> None:
    packs = [own.blobs.put(f"pack {number}".encode()) for number in range(3)]
    commits = ["cd34" * 10, "ef56" * 10, "ab12" * 10]  # the last is that of the story's code
    for number, commit in enumerate(commits):
        base = commits[number - 1] if number else None
        kept = KeptCommit(commit=commit, pack=packs[number], base=base, depth=number)
        say(own, "commit.kept", commit, [("commit", commit, kept)])
    assert explain(PREDICTION, verify=True, ws=own).broken == []
    assert RUN in keys(own, "commit:ab12ab12", down=True)
    for pack in packs:
        path = own.blobs.path(pack)
        assert path is not None
        content = path.read_bytes()
        path.write_bytes(b"other")
        assert explain(PREDICTION, verify=True, ws=own).broken == [f"blob {pack} has changed"]
        path.write_bytes(content)
    with own.ledger.writing() as connection:
        connection.execute(RECORDS.delete().where(RECORDS.c.key == commits[1]))
    assert explain("commit:ab12ab12", ws=own).exit_code == 0
