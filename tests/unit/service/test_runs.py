"""Runs by their verbs: as fb.track starts them, as the command line finds, compares and draws them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest

import flyball as fb
from flyball.cli import main
from flyball.errors import Invalid, NotFound, Refused, Unavailable
from flyball.service import runs
from flyball.service.workspace import Workspace
from flyball.track import sweeps


@pytest.fixture
def ws(tmp_path, monkeypatch):
    (tmp_path / "flyball.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    opened = Workspace.open(tmp_path).use()
    yield opened
    opened.ledger.close()
    Workspace._opened.clear()
    from flyball.service import workspace

    workspace._current.set(None)


def three(ws: Workspace) -> list[str]:
    ids = []
    for number in range(3):
        params = {"trees": 100 + number, "kind": "rf", "deep": number > 0}
        with fb.track.start("train", params, run_name=f"n{number}", tags={"team": "a"}) as run:
            for step in range(50):
                run.metric("loss", math.exp(-step / 20), step)
            run.metrics({"auc": 0.7 + number / 100, "odd": math.nan})
            run.artifact(b"hello", "notes/a.txt")
            run.note("# What it was for")
        ids.append(run.id)
    return ids


def test_a_run_names_its_code_environment_and_experiment(ws):
    with fb.track.start("train", {"a": 1}) as outer, fb.track.start("child") as inner:
        fb.track.log_metric("x", 1.0)
    shown = runs.show(outer.id)
    assert (shown["experiment"], shown["children"], shown["params"]) == ("train", [inner.id], {"a": 1})
    assert shown["code"].startswith("b3:")
    assert shown["environment"].startswith("b3:")
    assert runs.show(inner.id)["metrics"] == {"x": 1.0}
    assert [(one["name"], one["runs"]) for one in runs.experiments()] == [
        ("Default", 0),
        ("train", 1),
        ("child", 1),
    ]


def test_a_failed_run_goes_on_under_its_id(ws):
    with pytest.raises(ZeroDivisionError), fb.track.start("train", {"a": 1}) as run:
        run.metric("x", 1.0, 1)
        _ = 1 / 0
    assert runs.show(run.id)["error"] == "ZeroDivisionError: division by zero"
    with fb.track.resume(run.id) as again:
        again.param("a", 1)
        again.metric("x", 2.0, 2)
    assert again.id == run.id
    shown = runs.show(run.id)
    assert (shown["status"], shown["metrics"], "error" in shown) == ("done", {"x": 2.0}, False)
    assert fb.track.history(run.id, "x")["value"].to_list() == [1.0, 2.0]
    with pytest.raises(Invalid, match="is done"):
        fb.track.resume(run.id).begin()


def test_runs_are_searched_as_rows_and_as_a_frame(ws):
    ids = three(ws)
    assert [one["id"] for one in runs.ls("metrics.auc > 0.7 and params.trees >= 101", "-metrics.auc")] == ids[
        :0:-1
    ]
    assert [one["id"] for one in runs.ls(experiment="train", limit=1)] == [ids[2]]
    assert runs.ls(pipeline="other") == []
    frame = fb.track.search("metrics.auc > 0.7", "metrics.auc")
    assert frame["id"].to_list() == ids[1:]
    assert frame["params.trees"].to_list() == [101, 102]
    assert frame["params.deep"].to_list() == [True, True]
    assert frame["params.kind"].to_list() == ["rf", "rf"]
    assert frame["tags.team"].to_list() == ["a", "a"]
    assert all(map(math.isnan, frame["metrics.odd"]))
    assert frame["experiment"].unique().to_list() == ["train"]
    assert frame["seconds"].dtype == pl.Float64
    with fb.track.start("other", {"trees": "many"}):
        pass
    frame = fb.track.search()
    assert frame.height == 4
    assert frame["params.trees"].to_list() == ["many", "102", "101", "100"]
    assert frame["metrics.auc"].null_count() == 1
    assert fb.track.search(experiment="other").height == 1
    assert fb.track.search("metrics.none > 1").height == 0
    with pytest.raises(NotFound, match="did you mean 'train'"):
        fb.track.search(experiment="trains")


def test_only_what_differs_is_compared(ws):
    one, two, three_ = three(ws)
    rows = {row["what"]: (row[one], row[two], row[three_]) for row in runs.compare([one, two, three_])}
    assert rows == {
        "name": ("n0", "n1", "n2"),
        "params.deep": (False, True, True),
        "params.trees": (100, 101, 102),
        "metrics.auc": (0.7, 0.71, 0.72),
    }
    with pytest.raises(Invalid, match="one run"):
        runs.compare([one])


def test_curves_are_thinned_and_drawn(ws):
    run = three(ws)[0]
    found = runs.curves(run, "loss", points=20)
    (curve,) = found.result
    assert (curve.points, len(curve.values) <= 20, curve.steps[-1]) == (50, True, 49)
    assert "█" in found.as_text()
    assert "50 points" in found.as_text()
    picture = runs.curves(run, svg=True).as_text()
    assert picture.startswith("<svg")
    assert "<polyline" in picture
    assert "nan" not in picture
    with pytest.raises(NotFound, match="did you mean 'loss'"):
        runs.curves(run, "los")


def test_tags_notes_deleting_and_verifying(ws):
    run = three(ws)[0]
    assert runs.tag(run, "x", "1")["x"] == "1"
    assert "x" not in runs.tag(run, "x", remove=True)
    with pytest.raises(NotFound, match="no tag"):
        runs.tag(run, "x", remove=True)
    runs.note(run, "better")
    assert runs.show(run)["tags"]["mlflow.note.content"] == "better"
    assert runs.delete([run]) == [{"id": run, "state": "deleted"}]
    assert run in [one["id"] for one in runs.ls(deleted=True)]
    runs.restore([run])
    assert runs.verify(run)["verified"]
    blob = ws.root / ".flyball" / "blobs"
    digest = runs.artifacts(run)[0]["digest"]
    place = blob / digest[3:5] / digest[5:]
    place.chmod(0o644)
    place.write_bytes(b"hellO")
    with pytest.raises(Refused, match=r"notes/a\.txt"):
        runs.verify(run)


def test_the_command_line_finds_draws_and_exports(ws, capfd):
    ids = three(ws)

    def said(*words: str, code: int = 0) -> str:
        assert main(["runs", *words]) == code
        return capfd.readouterr().out

    assert said("ls", "-q", "--where", "metrics.auc > 0.7", "--order", "metrics.auc").split() == ids[1:]
    assert json.loads(said("show", ids[0], "--json"))["params"]["trees"] == 100
    assert "params.trees" in said("compare", *ids)
    assert json.loads(said("curves", ids[0], "--metric", "loss", "--json"))[0]["points"] == 50
    assert said("curves", ids[0], "--metric", "loss", "--svg").startswith("<svg")
    assert "notes/a.txt" in said("artifacts", ids[0])
    said("tag", ids[0], "x", "--value", "y")
    said("note", ids[0], "words")
    said("download", ids[0], "--into", "out")
    assert Path("out/notes/a.txt").read_bytes() == b"hello"
    for ending, read in (("parquet", pl.read_parquet), ("csv", pl.read_csv), ("ndjson", pl.read_ndjson)):
        said("export", "--to", f"runs.{ending}")
        assert read(f"runs.{ending}").height == 3
    said("export", "--to", "runs.xyz", code=2)
    said("ls", "--where", "metrics.auc >", code=2)
    said("show", "run_none", code=3)


def test_a_sweep_is_a_run_and_each_trial_one_inside_it(ws):
    pytest.importorskip("optuna")

    def objective(params, trial):
        fb.track.log_metric("x_squared", params["x"] ** 2)
        if params["kind"] == "odd":
            return math.nan
        return -abs(params["x"] - 2)

    space = {"x": (0.0, 4.0), "kind": ["even", "odd"], "n": range(0, 10, 5), "rate": (1e-3, 1.0, "log")}
    done = fb.track.sweep(objective, space, trials=10, seed=3, name="look")
    assert len(done.trials) == 10
    assert done.best is not None
    assert done.best.value == max(one.value for one in done.trials if one.value is not None)
    assert "best" in done.as_text()
    assert runs.sweep(done.run) == done
    assert runs.show(done.best.run)["parent"] == done.run
    with pytest.raises(NotFound, match="is no sweep"):
        runs.sweep(done.best.run)
    with pytest.raises(Invalid, match="is done"):
        fb.track.sweep(objective, resume_run=done.run)


@pytest.mark.parametrize("space", [{}, {"x": (1, 2, "lin")}, {"x": 3}, {"x": (3, 1)}, {"x": []}])
def test_a_space_that_is_none_is_said(ws, space):
    pytest.importorskip("optuna")
    with pytest.raises(Invalid, match="space"):
        fb.track.sweep(lambda params: 1.0, space, trials=2)
    with pytest.raises(Invalid, match="trials=0"):
        sweeps.sweep_params({"x": (1, 2)}, 0, "maximize", 0)


def test_without_optuna_the_error_names_the_line_to_install_it(ws, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(Unavailable, match="Optuna") as caught:
        fb.track.sweep(lambda params: 1.0, {"x": (1, 2)})
    assert "flyball[sweeps]" in str(caught.value)


def test_a_model_registered_in_a_run_names_the_run_and_the_data_it_read(ws):
    sklearn = pytest.importorskip("sklearn.linear_model")
    rows = pl.DataFrame({"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]})
    fb.data.add("rows", rows)
    with fb.track.start("train") as run:
        frame = fb.data.use("rows")
        model = sklearn.LinearRegression().fit(frame[["a"]].to_numpy(), frame["b"].to_numpy())
        first = fb.models.register("line", model, sample=frame[["a"]])
        second = fb.models.register("line", model, sample=frame[["a"]])
    assert (first.run, first.training, second.number) == (run.id, {"rows": "rows@1"}, 2)
    assert runs.show(run.id)["inputs"] == {"rows": "rows@1"}
