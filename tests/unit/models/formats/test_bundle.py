"""Any object with its code: loaded side by side, from the bundle alone, without a trace on the process."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.errors import Invalid, Unavailable
from flyball.models.formats import bundle, decode, encode, pickles

ROWS = np.arange(6.0).reshape(3, 2)
Project = Callable[..., Any]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """``project(files)`` writes a project and puts it on the path; ``project()`` takes it away, with its modules."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("shop", "loose")]:
            del sys.modules[name]
        sys.path[:] = [one for one in sys.path if one != str(tmp_path)]
        importlib.invalidate_caches()

    def write(files: dict[str, str] | None = None) -> Any:
        forget()
        if files is None:
            return None
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        sys.path.insert(0, str(tmp_path))
        return importlib.import_module

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield write
    forget()


SHOP = {
    "shop/__init__.py": "",
    "shop/rates/__init__.py": "from .vat import VAT\nfrom . import vat as module\n",
    "shop/rates/vat.py": "VAT = 2.0\n",
    "shop/later.py": "def plus(x):\n    return x + 1\n",
    "shop/model.py": (
        "from __future__ import annotations\n"
        "from dataclasses import dataclass, field\n"
        "import typing\n"
        "import shop.rates\n"
        "from shop import rates as r\n"
        "from .rates.vat import VAT as V\n"
        "from shop.rates import *\n"
        "@dataclass\n"
        "class Price:\n"
        "    factor: float = 1.0\n"
        "    kind: typing.ClassVar[str] = 'price'\n"
        "    seen: list[int] = field(default_factory=list)\n"
        "    def predict(self, rows):\n"
        "        from shop.later import plus\n"
        "        import shop.rates.vat as v\n"
        "        assert shop.rates.VAT == r.VAT == V == v.VAT == r.module.VAT\n"
        "        return plus(rows[:, 0] * self.factor * V)\n"
    ),
}


def test_an_object_loads_where_its_project_is_not(project: Project) -> None:
    price = project(SHOP)("shop.model").Price(3.0)
    encoded = encode(price)
    assert encoded.format == "python"
    assert encoded.facts["class"] == "shop.model.Price"
    assert set(encoded.facts["modules"]) == {
        "shop",
        "shop.later",
        "shop.model",
        "shop.rates",
        "shop.rates.vat",
    }
    project()
    before, path = set(sys.modules), list(sys.path)
    again = decode("python", encoded.data)
    assert again.predict(ROWS).tolist() == [1.0, 13.0, 25.0]
    assert sys.path == path
    new = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
    assert new <= {bundle.namespace(bundle.unpack(encoded.data)[0])}
    assert "shop" not in sys.modules


def test_two_versions_of_one_module_answer_side_by_side_and_beside_the_projects_own(project: Project) -> None:
    first = encode(project(SHOP)("shop.model").Price(1.0)).data
    second = encode(project({**SHOP, "shop/rates/vat.py": "VAT = 10.0\n"})("shop.model").Price(1.0)).data
    own = project({**SHOP, "shop/rates/vat.py": "VAT = 100.0\n"})("shop.model").Price(1.0)
    one, two = decode("python", first), decode("python", second)
    assert [float(model.predict(ROWS)[1]) for model in (one, two, own)] == [5.0, 21.0, 201.0]


def test_the_same_code_is_loaded_once_and_gives_the_same_bytes(project: Project) -> None:
    price = project(SHOP)("shop.model").Price
    assert encode(price(1.0)).data == encode(price(1.0)).data
    one, two = decode("python", encode(price(1.0)).data), decode("python", encode(price(2.0)).data)
    assert type(one) is type(two)


def test_what_was_loaded_can_be_registered_again_without_its_project(project: Project) -> None:
    encoded = encode(project(SHOP)("shop.model").Price(3.0))
    project()
    again = encode(decode("python", encoded.data))
    assert again.facts["code"] == encoded.facts["code"]
    assert again.facts["class"] == "shop.model.Price"
    assert pickles.modules_of(bundle.unpack(again.data)[1]) == {"shop.model"}
    assert decode("python", again.data).predict(ROWS).tolist() == [1.0, 13.0, 25.0]


def test_a_module_imported_only_by_the_model_when_it_answers_is_in_the_bundle_too(project: Project) -> None:
    text = "class Late:\n    def __call__(self, rows):\n        import shop.later as l\n        return l.plus(rows[:, 0])\n"
    files = {"loose.py": text}
    late = project({**SHOP, **files})("loose").Late()
    encoded = encode(late)
    project()
    assert decode("python", encoded.data)(ROWS).tolist() == [1.0, 3.0, 5.0]


def test_libraries_are_named_not_bundled(project: Project) -> None:
    text = "import numpy as np\nimport msgspec.json\nclass Sum:\n    def __call__(self, rows):\n        return np.sum(rows, 1)\n"
    files = {"loose.py": text}
    encoded = encode(project(files)("loose").Sum())
    assert encoded.facts["modules"] == ["loose"]
    assert sorted(encoded.facts["requires"]) == ["msgspec", "numpy"]


def test_a_traceback_shows_the_bundled_line(project: Project) -> None:
    import traceback

    files = {"loose.py": "class Odd:\n    def __call__(self, rows):\n        return rows / self.nothing\n"}
    encoded = encode(project(files)("loose").Odd())
    project()
    try:
        decode("python", encoded.data)(ROWS)
    except AttributeError:
        assert "return rows / self.nothing" in traceback.format_exc()
    else:
        raise AssertionError


def test_a_library_that_is_missing_when_it_loads_is_named(project: Project) -> None:
    encoded = encode(project({"loose.py": "class One:\n    pass\n"})("loose").One())
    project()
    sources, pickled = bundle.unpack(encoded.data)
    text = {"loose.py": "import absent_library\nclass One:\n    pass\n"}
    with pytest.raises(Unavailable, match="absent_library"):
        decode("python", bundle.pack(bundle.Sources(sources.files, text), pickled))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"loose.py": "class One:\n    pass\n"}, "defined in the script or notebook"),
        ({"loose.py": "class One:\n    pass\n" + "#" * (bundle.MOST_BYTES + 1)}, "8 MiB"),
    ],
)
def test_what_nobody_else_could_import_is_refused(project: Project, files: dict[str, str], said: str) -> None:
    module = project(files)("loose")
    with pytest.raises(Invalid, match=said):
        bundle.collect({"__main__"} if "script" in said else {module.__name__})


def test_a_class_of_the_script_itself_is_refused_with_what_to_do(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "from flyball.models.formats import encode\n"
        "class Mine:\n    def predict(self, rows):\n        return rows\n"
        "encode(Mine(), 'python')\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert "put it into a module of the project" in done.stderr


def test_a_pickle_is_looked_into_without_running_it(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    for protocol in range(6):
        data = pickle.dumps([Trap(), np.float64(1), np.arange(3), "words"], protocol=protocol)
        assert "pathlib" in pickles.modules_of(data), protocol
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(Invalid, match="torn"):
        pickles.modules_of(pickle.dumps(list(range(100)))[:-20])


def test_modules_are_renamed_inside_a_pickle_and_nothing_else_is() -> None:
    data = pickle.dumps({"pathlib": Path("a"), "b": ["x" * 300, Path("c")]}, protocol=5)
    assert pickles.renamed(data, lambda name: name) == data
    moved = pickles.renamed(
        data, lambda name: "elsewhere_with_a_much_longer_name" if name == "pathlib" else name
    )
    sys.modules["elsewhere_with_a_much_longer_name"] = sys.modules["pathlib"]
    try:
        found = pickle.loads(moved)
    finally:
        del sys.modules["elsewhere_with_a_much_longer_name"]
    assert list(found.values()) == [Path("a"), ["x" * 300, Path("c")]]


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_any_age_are_read_beside_code(protocol: int) -> None:
    data = pickle.dumps([set, range(3), np.float64(1), slice(1, 2)], protocol=protocol)
    sources = bundle.Sources({"elsewhere": "elsewhere.py"}, {"elsewhere.py": ""})
    assert bundle.loads(data, sources) == [set, range(3), np.float64(1), slice(1, 2)]
