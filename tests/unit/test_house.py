"""The house itself: what importing loads, how long functions are, how much the core install brings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ENGINES = (
    "numpy", "polars", "sqlalchemy", "alembic", "obstore", "lmdb", "granian", "starlette", "jinja2", "sklearn", "scipy",
    "onnxruntime", "onnx", "skl2onnx", "duckdb", "pandas", "pyarrow",
)  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """Top-level modules in ``sys.modules`` of a fresh interpreter after ``code``."""
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; sys.stderr.write('\\n@' + ' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return {name.partition(".")[0] for name in out.stderr.rpartition("@")[2].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import flyball",
        "import flyball; flyball.step; flyball.pipeline; flyball.when",
        "from flyball.cli import main\nassert main(['--help']) == 0",
        "from flyball.cli import main\nassert main(['data', '--help']) == 0",
    ],
)
def test_no_engine_is_loaded_by(code: str) -> None:
    assert not loaded_after(code) & set(ENGINES)


def test_a_serving_worker_loads_no_database_and_no_dataframe() -> None:
    heavy = {
        "polars",
        "sqlalchemy",
        "alembic",
        "pandas",
        "pydantic",
        "sklearn",
        "scipy",
        "typer",
        "rich",
        "starlette",
    }
    assert not loaded_after("import flyball.serve.worker") & heavy


def test_an_unknown_part_is_named_with_those_there_are() -> None:
    import flyball

    with pytest.raises(AttributeError, match=r"no part 'modles'; it has data, .*models"):
        _ = flyball.modles


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_stay_below_a_hundred_lines(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 100, f"{path.name}: {node.name}"


def test_no_module_is_called_by_what_it_is_not() -> None:
    vague = {"utils", "helpers", "common", "base", "manager", "provider", "legacy", "misc"}
    assert not [path for path in SOURCES if path.stem in vague]


def test_the_core_install_brings_at_most_sixty_packages() -> None:
    pins = (ROOT / "requirements" / "core.txt").read_text().split()
    assert all(re.fullmatch(r"[a-z0-9._-]+==[\w.+!-]+", pin) for pin in pins)
    assert len(pins) <= 60


def test_requirement_files_name_no_address() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        assert not re.search(r"https?://|index-url|find-links|@ file", path.read_text()), path.name


def test_every_verb_has_a_sentence_and_typed_parameters() -> None:
    import inspect

    from flyball.service.verb import table

    for words, verb in table().items():
        assert verb.summary.endswith("."), words
        for parameter in verb.parameters:
            assert parameter.annotation is not inspect.Parameter.empty, (words, parameter.name)
