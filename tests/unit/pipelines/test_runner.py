"""Runs: reuse, conditions, failures, resuming, and what the ledger holds afterwards."""

from __future__ import annotations

import pytest

from flyball.core.events import Edge
from flyball.core.records import Run
from flyball.errors import Conflict, Invalid, NotFound, Refused
from flyball.pipelines import resume
from flyball.pipelines.results import StepResult
from flyball.stores.blobs import Blobs
from tests.unit.pipelines.project import statuses

PROJECT = """
    from datetime import date
    from pathlib import Path

    import polars as pl
    import flyball.pipelines as fb
    from flyball.track.runs import log_metric

    SEEN = Path(__file__).parent / "seen"

    def saw(word):
        with SEEN.open("a") as file:
            file.write(word + "\\n")

    class Verdict:
        def __init__(self, passed):
            self.passed = passed

    @fb.step
    def rows(until: date) -> pl.DataFrame:
        saw("rows")
        return pl.DataFrame({"n": range(until.day)})

    @fb.step
    def split(frame: pl.DataFrame, at: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        saw("split")
        return frame.head(at), frame.tail(frame.height - at)

    @fb.step
    def fit(frame: pl.DataFrame) -> dict:
        saw("fit")
        log_metric("mean", frame["n"].mean())
        return {"mean": frame["n"].mean()}

    @fb.step
    def gate(model, frame) -> Verdict:
        saw("gate")
        return Verdict(model["mean"] < frame["n"].mean())

    @fb.step(cache=False)
    def register(model, *, alias):
        saw("register " + alias)
        context = fb.current()
        context.record_input("weather", "weather@2")
        return f"{context.run_id}/{context.node}/{context.arguments['model']}"

    @fb.step
    def announce(ref, also=None):
        saw("announce")

    @fb.pipeline
    def train(until: date, at: int = 2):
        first, second = split(rows(until), at)
        model = fit(first)
        verdict = gate(model, second)
        with fb.when(verdict.passed):
            ref = register(model, alias="challenger")
            announce(ref)
        with fb.when(~verdict.passed):
            announce("refused", [ref])
"""


@pytest.fixture
def written(project):
    project.write("pipelines.py", PROJECT)
    return project


def seen(project) -> list[str]:
    path = project.root / "seen"
    words = path.read_text().split("\n")[:-1] if path.exists() else []
    path.unlink(missing_ok=True)
    return words


def test_a_run_is_recorded_with_its_steps_outputs_and_lineage(written):
    run = written.run(until="2013-04-10")
    assert run.status == "done"
    assert run.params == {"until": "2013-04-10", "at": 2}
    assert run.metrics == {"mean": 0.5}
    assert run.inputs == {"weather": "weather@2"}
    assert set(run.outputs) == {"rows", "split.0", "split.1", "fit", "gate", "register", "announce"}
    assert statuses(run)["announce-2"] == "skipped"
    ledger, outputs = written.ledger, run.outputs
    assert Edge(outputs["fit"], run.id, "output:fit") in ledger.made_from(outputs["fit"])
    assert Edge(outputs["fit"], outputs["split.0"], "from:frame") in ledger.made_from(outputs["fit"])
    assert Edge(outputs["split.0"], outputs["rows"], "from:frame") in ledger.made_from(outputs["split.0"])
    assert Edge(run.id, "snapshot:weather@2", "input:weather") in ledger.made_from(run.id)
    assert Edge(run.id, run.code, "code") in ledger.made_from(run.id)
    register = written.blobs.get(outputs["register"]).decode()
    assert register == f'"{run.id}/register/{outputs["fit"]}"'
    assert ledger.rebuild() > 0
    assert ledger.get("run", run.id, Run) == run


def test_the_same_again_reuses_all_but_what_must_run_each_time(written):
    first = written.run(until="2013-04-10")
    assert seen(written) == ["rows", "split", "fit", "gate", "register challenger", "announce"]
    again = written.run(until="2013-04-10")
    assert seen(written) == [
        "register challenger",
        "announce",
    ]  # its text names the run, so what follows is new
    assert statuses(again)["gate"] == "reused"
    assert again.metrics == first.metrics
    assert [one.status for one in written.told if one.node == "rows"] == ["reused"]
    assert Edge(again.id, again.outputs["fit"], "reused") in written.ledger.made_from(again.id)


def test_another_parameter_runs_only_what_depends_on_it(written):
    written.run(until="2013-04-10")
    seen(written)
    written.run(until="2013-04-10", at="3")
    assert seen(written)[:2] == ["split", "fit"]


def test_a_changed_helper_runs_the_steps_that_reach_it_and_a_stranger_does_not(written):
    written.run(until="2013-04-10")
    seen(written)
    written.write("pipelines.py", PROJECT + "\n    def stranger():\n        return 1\n")
    assert statuses(written.run(until="2013-04-10"))["fit"] == "reused"
    written.write("pipelines.py", PROJECT.replace("self.passed = passed", "self.passed = bool(passed)"))
    assert statuses(written.run(until="2013-04-10")) | {"announce": ""} == {
        "rows": "reused", "split": "reused", "fit": "reused", "gate": "done", "register": "done",
        "announce": "", "announce-2": "skipped",
    }  # fmt: skip


def test_a_condition_that_fails_skips_its_block_and_what_needs_it(written):
    written.write("pipelines.py", PROJECT.replace('["mean"] <', '["mean"] >'))
    run = written.run(until="2013-04-10")
    assert {node: status for node, status in statuses(run).items() if status == "skipped"} == {
        "register": "skipped",
        "announce": "skipped",
        "announce-2": "skipped",  # its condition holds, and it needs what was skipped
    }
    reasons = {line["node"]: line.get("because") for line in run.steps}
    assert reasons["register"] == "gate.passed is False"
    assert reasons["announce-2"] == "it needs register, which was skipped"


def test_a_step_that_raises_names_step_and_line_and_loses_nothing(written):
    written.write(
        "pipelines.py", PROJECT.replace("return Verdict(", "raise KeyError('mean'); return Verdict(")
    )
    with pytest.raises(Invalid, match="step 'gate' of train raised KeyError") as caught:
        written.run(until="2013-04-10")
    assert caught.value.facts["where"].startswith("pipelines.py:")
    assert "after 3 finished steps" in caught.value.hint
    run = written.last()
    assert (run.status, run.id) == ("failed", caught.value.facts["run"])
    assert "KeyError" in run.error
    assert caught.value.facts["where"] in run.error
    assert [one.status for one in written.told][-1] == "failed"
    seen(written)
    written.write("pipelines.py", PROJECT)
    resumed = resume(run.id, written.definitions().pipelines, written.context())
    assert (resumed.id, resumed.status, resumed.error) == (run.id, "done", "")
    assert seen(written)[0] == "gate"
    with pytest.raises(Invalid, match="is done"):
        resume(run.id, written.definitions().pipelines, written.context())


def test_a_step_that_refuses_ends_the_run_as_refused(written):
    text = PROJECT.replace(
        "return Verdict(", "from flyball.errors import Refused; raise Refused('too bad', score=1); ("
    )
    written.write("pipelines.py", text)
    with pytest.raises(Refused, match="too bad") as caught:
        written.run(until="2013-04-10")
    assert caught.value.facts["node"] == "gate"
    assert caught.value.facts["score"] == 1
    assert (written.last().status, written.last().error) == ("refused", "gate: too bad")


def test_a_pipeline_body_that_raises_is_named_before_a_run_is_opened(written):
    written.write("pipelines.py", PROJECT.replace("model = fit(first)", "model = {}['x']"))
    with pytest.raises(Invalid, match="pipeline train raised KeyError") as caught:
        written.run(until="2013-04-10")
    assert caught.value.facts["where"].startswith("pipelines.py:")
    assert written.ledger.keys("run") == []


@pytest.mark.parametrize(
    ("returned", "said"), [("frame.head(at)", "returned a DataFrame"), ("(1, 2, 3)", "a tuple of 3")]
)
def test_another_number_of_values_than_annotated_is_said(written, returned, said):
    written.write(
        "pipelines.py",
        PROJECT.replace("return frame.head(at), frame.tail(frame.height - at)", f"return {returned}"),
    )
    with pytest.raises(Invalid, match=said):
        written.run(until="2013-04-10")


def test_a_value_that_can_not_be_kept_is_said(written):
    written.write(
        "pipelines.py", PROJECT.replace('return {"mean": frame["n"].mean()}', "return (x for x in [1])")
    )
    with pytest.raises(Invalid, match="generator can't be kept"):
        written.run(until="2013-04-10")


def test_a_kept_result_whose_bytes_are_gone_is_made_again(written):
    written.run(until="2013-04-10")
    seen(written)
    written.blobs = Blobs.open("memory:")
    written.run(until="2013-04-10")
    assert seen(written)[0] == "rows"


def test_changed_bytes_of_a_kept_result_are_refused(written, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blobs")
    written.blobs = Blobs.open(f"file:{folder}")
    digest = written.run(until="2013-04-10").outputs["split.0"]
    place = folder / digest[3:5] / digest[5:]
    data = bytearray(place.read_bytes())
    data[-1] ^= 1
    place.write_bytes(data)
    written.write("pipelines.py", PROJECT.replace('log_metric("mean"', 'log_metric("average"'))
    with pytest.raises(Refused, match="have changed"):
        written.run(until="2013-04-10")


def test_a_step_that_changes_its_argument_in_place_changes_nothing_for_the_others(project):
    project.write(
        "pipelines.py",
        """
        import polars as pl
        import flyball.pipelines as fb

        @fb.step
        def values() -> tuple[list, pl.DataFrame]:
            return [1, 2], pl.DataFrame({"a": [1]})

        @fb.step
        def spoil(numbers, frame):
            numbers.append(3)
            frame.drop_in_place("a")

        @fb.step
        def read(numbers, frame):
            return [numbers, frame.columns]

        @fb.pipeline
        def train():
            numbers, frame = values()
            spoil(numbers, frame)
            read(numbers, frame)
        """,
    )
    run = project.run()
    assert project.blobs.get(run.outputs["read"]) == b'[[1,2],["a"]]'


def test_a_step_with_a_lock_runs_each_time_and_a_warning_says_why(project, caplog):
    project.write(
        "pipelines.py",
        """
        import threading
        import flyball.pipelines as fb
        LOCK = threading.Lock()

        @fb.step
        def guarded():
            with LOCK:
                return 1

        @fb.pipeline
        def train(): guarded()
        """,
    )
    assert [statuses(project.run())["guarded"] for _ in range(2)] == ["done", "done"]
    event = project.ledger.events(kind="step.uncacheable")[0]
    assert "LOCK" in event.body["because"][0]
    assert "not cached" in caplog.text


def test_a_key_of_its_own_decides_when_a_step_runs_again(project):
    project.write("version.txt", "1")
    project.write(
        "pipelines.py",
        """
        from pathlib import Path
        import flyball.pipelines as fb
        HERE = str(Path(__file__).parent)

        def version(name):
            return (Path(HERE) / "version.txt").read_text()

        @fb.step(key=version)
        def use(name):
            fb.current().record_input("data", f"{name}@{version(name)}")
            return name

        @fb.pipeline
        def train(): use("flights")
        """,
    )
    found = []
    for written_version in ("1", "1", "2"):
        project.write("version.txt", written_version)
        run = project.run()
        found.append((statuses(run)["use"], run.inputs["data"]))
    assert found == [("done", "flights@1"), ("reused", "flights@1"), ("done", "flights@2")]


def test_a_run_that_still_goes_on_is_not_resumed(written):
    written.write(
        "pipelines.py",
        """
        import flyball.pipelines as fb

        @fb.step
        def again():
            fb.resume(fb.current().run_id, {"train": train}, fb.current())

        @fb.pipeline
        def train(): again()
        """,
    )
    with pytest.raises(Conflict, match="is running"):
        written.run()


def test_resuming_a_pipeline_that_is_gone_names_those_there_are(written):
    run = written.run(until="2013-04-10")
    with pytest.raises(NotFound, match="no pipeline 'train' any more"):
        resume(run.id, {}, written.context())


def test_a_kept_result_says_what_made_it(written):
    run = written.run(until="2013-04-10")
    line = next(line for line in run.steps if line["node"] == "split")
    result = written.ledger.get("step", line["key"], StepResult)
    assert (result.run, result.node, result.items, len(result.outputs)) == (run.id, "split", True, 2)
    assert result.code == line["code"]
