"""A project's files are imported once, under their own names, and their mistakes are named by file and line."""

from __future__ import annotations

import sys

import msgspec
import pytest

from flyball.errors import Invalid, NotFound
from flyball.pipelines import load_definitions
from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from tests.unit.pipelines.project import Project


class Window(msgspec.Struct, frozen=True):
    name: str
    hours: int


def test_pipelines_steps_and_objects_of_the_types_asked_for_are_collected(project):
    project.write(
        "features.py",
        """
        from tests.unit.pipelines.test_discovery import Window
        late = Window("late", 3)
        more = [Window("a", 1), Window("b", 2)]
        """,
    )
    project.write(
        "pipelines.py",
        """
        import flyball.pipelines as fb
        from features import late

        @fb.step
        def one(): return 1

        @fb.pipeline(name="nightly")
        def train(): one()
        """,
    )
    found = load_definitions(project.root, ("features.py", "pipelines.py"), (Window,))
    assert list(found.pipelines) == ["nightly"]
    assert list(found.steps) == ["one"]
    assert found.of(Window) == {"late": Window("late", 3), "a": Window("a", 1), "b": Window("b", 2)}


def test_unchanged_files_are_imported_once_and_changed_ones_again(project):
    project.write("pipelines.py", "import flyball.pipelines as fb\n@fb.step\ndef one(): return 1\n")
    first = project.definitions()
    assert project.definitions() is first
    project.write("pipelines.py", "import flyball.pipelines as fb\n@fb.step\ndef another(): return 1\n")
    assert list(project.definitions().steps) == ["another"]


def test_two_projects_in_one_process_keep_apart(project, tmp_path_factory):
    ledger = Ledger.open("sqlite://")
    other = Project(tmp_path_factory.mktemp("other"), ledger, Blobs.open("memory:"))
    for one, value in ((project, 1), (other, 2)):
        one.write("settings.py", f"VALUE = {value}\n")
        one.write(
            "pipelines.py",
            "import flyball.pipelines as fb\nfrom settings import VALUE\n@fb.step\ndef one(): return VALUE\n",
        )
    assert project.definitions().steps["one"]() == 1
    assert other.definitions().steps["one"]() == 2
    assert project.definitions().steps["one"]() == 1
    assert str(other.root) not in sys.path
    ledger.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef broken(:\n", "pipelines.py:2"),
        (
            "x = 1\n\nimport no_such_module\n",
            "pipelines.py:3: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("def f():\n    return 1 / 0\nf()\n", "pipelines.py:2: ZeroDivisionError"),
    ],
)
def test_an_error_in_a_file_is_named_by_file_and_line(project, text, said):
    project.write("pipelines.py", text)
    with pytest.raises(Invalid) as caught:
        project.definitions()
    assert caught.value.what.startswith(said)


def test_an_error_in_an_imported_file_names_that_one(project):
    project.write("helpers.py", "\n\n\nraise RuntimeError('no')\n")
    project.write("pipelines.py", "import helpers\n")
    with pytest.raises(Invalid, match=r"helpers\.py:4: RuntimeError: no"):
        project.definitions()


def test_a_name_that_is_taken_is_said(project):
    project.write("json.py", "")
    with pytest.raises(Invalid, match=r"json\.py is taken"):
        project.definitions("json.py")


def test_the_same_name_twice_with_other_content_is_invalid(project):
    project.write("a.py", "from tests.unit.pipelines.test_discovery import Window\nx = Window('w', 1)\n")
    project.write("b.py", "from tests.unit.pipelines.test_discovery import Window\nx = Window('w', 2)\n")
    with pytest.raises(Invalid, match="'w' a second time"):
        load_definitions(project.root, ("a.py", "b.py"), (Window,))


def test_no_file_at_all_is_not_found(project):
    with pytest.raises(NotFound, match=r"none of pipelines\.py"):
        project.definitions()
