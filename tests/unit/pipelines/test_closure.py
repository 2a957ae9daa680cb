"""What makes a step run again: its own code and whatever of the project it reaches, and nothing else."""

from __future__ import annotations

import functools
import logging
import threading

import pytest

from flyball.pipelines.closure import closure_of
from flyball.pipelines.definition import Step

HELPERS = """
    import functools
    import inner.deep as deep
    from inner.deep import scale as factor_of

    RATE = 0.5

    class Model:
        depth = 3
        def fit(self, rows):
            return deep.base(rows) * self.depth

    @functools.cache
    def slow(n):
        return n + 1

    def prepare(rows):
        return factor_of(rows) * RATE

    def unrelated():
        return 1
"""
DEEP = """
    def base(rows):
        return rows + 1

    def scale(rows):
        return base(rows)

    def lonely():
        return 1
"""
PIPELINES = """
    import flyball.pipelines as fb
    import helpers

    @fb.step
    def fit(rows):
        from inner.late import finish
        return finish(helpers.Model().fit(helpers.prepare(rows)), helpers.slow(1))

    @fb.step
    def other(rows):
        return rows
"""
LATE = """
    def finish(value, slow):
        return value + slow
"""


@pytest.fixture
def written(project):
    project.write("helpers.py", HELPERS)
    project.write("inner/__init__.py", "")
    project.write("inner/deep.py", DEEP)
    project.write("inner/late.py", LATE)
    project.write("pipelines.py", PIPELINES)
    return project


def digest(project, step: str = "fit") -> str:
    closure = closure_of(project.definitions().steps[step].function, project.root)
    assert closure.opaque == ()
    return closure.digest


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("pipelines.py", "helpers.slow(1)", "helpers.slow(2)"),  # the step itself
        ("helpers.py", "RATE = 0.5", "RATE = 0.6"),  # a constant
        ("helpers.py", "depth = 3", "depth = 4"),  # a class's attribute
        ("helpers.py", "* self.depth", "- self.depth"),  # a method
        ("helpers.py", "return n + 1", "return n + 2"),  # behind functools.cache
        ("inner/deep.py", "rows + 1", "rows + 2"),  # two calls away, and through a module's attribute
        ("inner/late.py", "value + slow", "value - slow"),  # imported inside the function
        ("helpers.py", "import scale as", "import lonely as"),  # the same name bound to something else
    ],
)
def test_a_change_that_the_step_reaches_changes_its_digest(written, file, old, new):
    before, other = digest(written), digest(written, "other")
    text = (written.root / file).read_text()
    assert old in text
    written.write(file, text.replace(old, new))
    assert digest(written) != before
    assert digest(written, "other") == other


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("helpers.py", "return 1", "return 2"),  # a function it does not call
        ("inner/deep.py", "return 1", "return 2"),
        ("pipelines.py", "    return rows\n", "    return rows * 2\n"),  # another step
        (
            "helpers.py",
            "def prepare(rows):\n",
            'def prepare(rows):\n    """Say what it does."""\n    # and why\n\n',
        ),
        (
            "helpers.py",
            "return factor_of(rows) * RATE",
            "return (\n        factor_of(rows)\n        * RATE\n    )",
        ),
        ("helpers.py", "RATE = 0.5", "NEW = 1\n\nRATE = 5e-1"),
        ("helpers.py", "def prepare(rows):", "def prepare(rows: object) -> object:"),
    ],
)
def test_a_change_that_it_does_not_reach_or_of_form_only_keeps_its_digest(written, file, old, new):
    before = digest(written)
    text = (written.root / file).read_text()
    assert old in text
    written.write(file, text.replace(old, new))
    assert digest(written) == before


def test_the_closure_says_what_it_covers(written):
    covers = closure_of(written.definitions().steps["fit"].function, written.root).covers
    assert {"fit", "prepare", "Model", "Model.fit", "base", "scale", "finish", "slow"} <= set(covers)
    assert "unrelated" not in covers


def test_the_digest_is_the_same_in_another_process_whatever_its_hash_seed(written):
    import os
    import subprocess
    import sys

    written.write(
        "pipelines.py",
        PIPELINES + "\n    @fb.step\n    def late(x):\n        return x in {'a', 'b', 'c', 'd'}\n",
    )
    code = (
        "import sys; from pathlib import Path; from flyball.pipelines import load_definitions;"
        "from flyball.pipelines.closure import closure_of; root = Path(sys.argv[1]);"
        "d = load_definitions(root, ['pipelines.py']);"
        "sys.stdout.write(' '.join(closure_of(d.steps[n].function, root).digest for n in ('fit', 'late')))"
    )
    found = [
        subprocess.run(
            (sys.executable, "-c", code, str(written.root)),
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] == f"{digest(written)} {digest(written, 'late')}"


def made(factor: float, tmp_path):
    def scaled(x: float) -> float:
        return x * factor

    return closure_of(scaled, tmp_path)


def test_free_variables_count_by_value(tmp_path):
    assert made(2.0, tmp_path).digest == made(2.0, tmp_path).digest
    assert made(2.0, tmp_path).digest != made(3.0, tmp_path).digest


def test_lambdas_defaults_and_partials_count(tmp_path):
    def digest_of(function):
        return closure_of(function, tmp_path).digest

    assert digest_of(lambda x: x + 1) != digest_of(lambda x: x + 2)
    assert digest_of(lambda x, y=1: x + y) != digest_of(lambda x, y=2: x + y)

    def using(power: int):
        raised = functools.partial(pow, exp=power)
        return lambda x: raised(x) + 1

    assert digest_of(using(2)) != digest_of(using(3))
    assert digest_of(using(2)) == digest_of(using(2))


def test_what_can_not_be_written_down_makes_a_step_uncacheable(tmp_path):
    lock = threading.Lock()

    def guarded(x: int) -> int:
        with lock:
            return x

    assert closure_of(guarded, tmp_path).opaque == (
        f"{guarded.__module__}:{guarded.__qualname__} (free variable lock): a lock",
    )


def test_a_logger_does_not_count(tmp_path):
    log = logging.getLogger("some")

    def noisy(x: int) -> int:
        log.info("hello")
        return x

    assert closure_of(noisy, tmp_path).opaque == ()


def test_mutual_recursion_ends(tmp_path):
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n > 0 and even(n - 1)

    assert set(closure_of(even, tmp_path).covers) >= {even.__qualname__, odd.__qualname__}
    assert Step(even).name == "even"
