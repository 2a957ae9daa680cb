"""The command line: exit codes, stable JSON, and errors that say what to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flyball.cli import main


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    return tmp_path


def test_a_new_project_takes_data_checks_it_and_says_so(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["data", "add", "customers", "customers.csv", "-q"]) == 0
    assert capsys.readouterr().out == "customers@1\n"
    assert main(["checks", "run", "customers"]) == 0
    assert "6 expectations hold on 3000 rows" in capsys.readouterr().out
    assert main(["data", "verify", "customers@1"]) == 0


def test_data_that_breaks_its_contract_exits_1_and_names_the_column(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (project / "customers.csv").read_text().splitlines()
    (project / "bad.csv").write_text("\n".join([lines[0], *lines[2:], lines[5]]) + "\n")  # one customer twice
    assert main(["data", "add", "customers", "bad.csv"]) == 0
    assert main(["checks", "run", "customers"]) == 1
    assert "unique" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["models", "show", "churm"], 3, "no model 'churm'"),
        (["data", "show", "nope"], 3, "flyball data add nope PATH makes it"),
        (["data", "add", "x", "missing.parquet"], 3, "missing.parquet"),
        (["run", "trian"], 3, "did you mean 'train'"),
        (["run", "train", "-p", "sed=1"], 2, "did you mean 'seed'"),
        (["run", "train", "-p", "seed"], 2, "write -p seed=VALUE"),
        (["run", "train"], 3, "flyball data add customers PATH makes it"),
        (["deploy", "churn@1", "--endpoint", "churn"], 3, "no model 'churn'"),
        (["rollback", "churn"], 3, "no endpoint 'churn'"),
        (["explain", "p_nothing"], 3, "no prediction 'p_nothing'"),
        (["init"], 4, "is a Flyball project already"),
        (["down"], 3, "flyball up starts it"),
        (["incidents", "show", "inc_x"], 3, "no incident 'inc_x'"),
        (["nonsense"], 2, "No such command"),
        (["deploy"], 2, "Missing"),
    ],
)
def test_a_mistake_has_its_exit_code_and_says_what_to_do_next(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    capsys.readouterr()
    assert main(words) == code
    shown = capsys.readouterr()
    assert said in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_an_error_in_json_has_the_shape_every_face_gives(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["models", "show", "x", "--json"]) == 3
    error = json.loads(capsys.readouterr().err)
    assert set(error) == {"error", "what", "hint", "facts"}
    assert error["error"] == "NotFound"


def test_without_a_project_it_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 3
    assert "flyball init makes a project here" in capsys.readouterr().err


def test_definitions_that_do_not_parse_name_the_file_and_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "pipelines.py").write_text("import flyball as fb\n\ndef broken(:\n")
    assert main(["pipelines", "ls"]) == 2
    assert "pipelines.py" in capsys.readouterr().err


def test_every_verb_that_only_reads_answers_in_json(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flyball.service.verb import table

    main(["data", "add", "customers", "customers.csv"])
    for words, verb in table().items():
        if verb.reads and all(one.default is not one.empty for one in verb.parameters):
            capsys.readouterr()
            assert main([*words.split(), "--json"]) == 0, words
            json.loads(capsys.readouterr().out)


def test_what_only_a_later_row_has_is_a_column_too(capsys: pytest.CaptureFixture[str]) -> None:
    from flyball.cli.show import show
    from flyball.service.features import Change

    changes = [
        Change("a", "view", "a@1", "none"),
        Change("b", "view", "b@2", "changed", affects=("model:m@1",)),
    ]
    show("features apply", changes, as_json=False, quiet=False)
    assert "model:m@1" in capsys.readouterr().out


def test_the_reference_is_up_to_date() -> None:
    import runpy
    import sys

    tools = Path(__file__).parents[3] / "tools" / "reference.py"
    sys_argv, sys.argv = sys.argv, [str(tools), "--check"]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(tools), run_name="__main__")
    finally:
        sys.argv = sys_argv
    assert ended.value.code == 0, "run `make docs`"
