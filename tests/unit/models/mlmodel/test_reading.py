"""Folders of MLflow's read without loading anything; what is missing, torn, unknown or reaching out is said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.core.records import Field, Signature
from flyball.errors import Invalid, NotFound, Refused
from flyball.models.mlmodel.folder import Folder, check_path, manifest_of
from flyball.models.mlmodel.reading import read
from flyball.models.mlmodel.signatures import answers_classes, from_schema, is_unnamed, to_schema
from flyball.stores.blobs import Blobs
from tests.unit.models.mlmodel.folders import COLUMNS, Trap, mlmodel, sklearn_folder


def test_a_folder_says_its_flavor_signature_requirements_and_what_runs_code(tmp_path: Path) -> None:
    found = read(sklearn_folder(Trap(tmp_path / "sprung")))
    assert (found.flavor, found.data, found.runs_code) == ("sklearn", "model.pkl", ("model.pkl",))
    assert found.signature is not None
    assert [(field.name, field.datatype) for field in found.signature.inputs] == [
        ("a", "FP64"),
        ("b", "FP64"),
    ]
    assert found.requirements == ("mlflow==3.17.2", "scikit-learn==1.9.1")
    assert found.created == datetime(2026, 11, 24, 22, 15, 32, 276532, tzinfo=UTC)
    assert (found.python, found.uuid[:4], found.mlflow_version) == ("3.11.7", "5f56", "3.17.2")
    assert not (tmp_path / "sprung").exists()


def test_a_folder_on_disk_and_its_digests_in_a_store_read_the_same(tmp_path: Path) -> None:
    files = sklearn_folder({"any": "object"})
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    blobs = Blobs.open("memory:")
    kept = Folder(files).keep(blobs)
    assert read(tmp_path) == read(files) == read(kept, blobs)
    assert Folder.at(tmp_path).keep(blobs) == kept
    assert manifest_of(kept) == manifest_of(dict(reversed(kept.items())))
    assert read(Folder.of_manifest(manifest_of(kept), blobs)) == read(files)


SKLEARN = {"pickled_model": "model.pkl", "serialization_format": "pickle"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no file MLmodel"),
        ({"model/MLmodel": b"flavors: {}"}, "no file MLmodel"),
        ({"MLmodel": b""}, "no settings"),
        ({"MLmodel": b"- 1\n- 2"}, "no settings"),
        ({"MLmodel": b"flavors: {a: [1"}, "not YAML"),
        ({"MLmodel": b"\xff\xfe\x00"}, "not YAML"),
        ({"MLmodel": b"#" * (1 << 21)}, "bytes"),
        ({"MLmodel": b"flavors: {}"}, "no flavors"),
        ({"MLmodel": b"flavors: 7"}, "no flavors"),
        ({"MLmodel": mlmodel({"spark": {}, "h2o": {}})}, "no flavor of h2o, spark"),
        ({"MLmodel": mlmodel({"sklearn": {}})}, "names no file"),
        ({"MLmodel": mlmodel({"python_function": {}})}, "no loader_module"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN})}, "names model.pkl"),
        ({"MLmodel": mlmodel({"pytorch": {"model_data": "data"}}), "data/x": b""}, "model.pth"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN}, "torn"), "model.pkl": b"."}, "not a schema"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN}, [{"type": "quaternion"}]), "model.pkl": b"."}, "quaternion"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN}, [{"type": "tensor"}]), "model.pkl": b"."}, "no shape"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN}, COLUMNS + COLUMNS), "model.pkl": b"."}, "twice"),
        ({"MLmodel": mlmodel({"sklearn": SKLEARN}, signature=7, inputs=None), "model.pkl": b"."}, "not a table"),
    ],
)  # fmt: skip
def test_what_is_no_model_says_why(files: dict[str, bytes], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read(files)


def test_a_folder_one_level_too_high_is_pointed_at() -> None:
    with pytest.raises(Invalid) as caught:
        read({"run/model/MLmodel": b"", "run/x": b""})
    assert "run/model" in caught.value.hint


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a\\b", "c:/x", "", "a//b", "./a", "a\0b"])  # fmt: skip
def test_a_path_that_leaves_its_folder_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="does not stay"):
        Folder({path: b""})
    with pytest.raises(Refused):
        check_path(path)


@pytest.mark.parametrize("named", ["../model.pkl", "/etc/passwd", "a/../../b"])
def test_a_settings_file_that_names_a_path_outside_is_refused(named: str) -> None:
    files = {"MLmodel": mlmodel({"sklearn": {**SKLEARN, "pickled_model": named}}), "model.pkl": b"."}
    with pytest.raises(Refused, match="does not stay"):
        read(files)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    home = tmp_path / "model"
    home.mkdir()
    (home / "inside").write_text("")
    (home / "link").symlink_to("inside")
    assert Folder.at(home).paths == ["inside", "link"]
    (home / "model.pkl").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match="leads out"):
        Folder.at(home)
    with pytest.raises(NotFound, match="no folder"):
        Folder.at(tmp_path / "absent")


def test_yaml_that_would_make_objects_is_not_yaml_here() -> None:
    with pytest.raises(Invalid, match="not YAML"):
        read({"MLmodel": b"flavors: !!python/object/apply:os.system ['touch /tmp/sprung']"})


def test_a_folder_that_lists_digests_is_held_against_them() -> None:
    listed = {"flyball": {"files": {"model.pkl": "b3:" + "0" * 64}}}
    files = sklearn_folder(1, metadata=listed)
    with pytest.raises(Refused, match=r"model\.pkl is not what MLmodel says"):
        read(files)


@pytest.mark.parametrize(
    ("flavor", "settings", "files", "runs"),
    [
        ("sklearn", {"pickled_model": "m", "serialization_format": "skops"}, ["m"], []),
        ("sklearn", {"pickled_model": "m"}, ["m"], ["m"]),
        ("xgboost", {"data": "m"}, ["m"], []),
        ("lightgbm", {"data": "m"}, ["m"], []),
        ("lightgbm", {"data": "m", "model_class": "lightgbm.sklearn.LGBMClassifier"}, ["m"], ["m"]),
        ("onnx", {"data": "m"}, ["m"], []),
        ("pytorch", {"model_data": "data"}, ["data/model.pth"], ["data/model.pth"]),
        ("pytorch", {"model_data": "data"}, ["data/model.pt2"], []),
        ("python_function", {"loader_module": "x"}, ["python_model.pkl"], ["python_model.pkl"]),
        ("python_function", {"loader_module": "x"}, [], ["MLmodel"]),
    ],
)
def test_which_files_run_code_when_they_are_loaded(
    flavor: str, settings: Any, files: list[str], runs: list[str]
) -> None:
    found = read({"MLmodel": mlmodel({flavor: settings}), **dict.fromkeys(files, b".")})
    assert list(found.runs_code) == runs


@pytest.mark.parametrize(
    ("schema", "fields"),
    [
        ([{"type": "long", "name": "n"}], [Field("n", "INT64", nullable=False)]),
        ([{"type": "long", "name": "n", "required": False}], [Field("n", "INT64", nullable=True)]),
        ([{"type": "float"}, {"type": "boolean"}], [Field("f0", "FP32"), Field("f1", "BOOL", nullable=False)]),
        ([{"type": "string", "name": "s"}], [Field("s", "BYTES", nullable=False)]),
        ([{"type": "array", "name": "s", "items": {"type": "long"}}], [Field("s", "BYTES", nullable=False)]),
        ([{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2]}}], [Field("f0", "FP32"), Field("f1", "FP32")]),
        ([{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1, 28, 28]}}], [Field("input", "UINT8", (-1, 28, 28))]),
        ([{"type": "tensor", "name": "x", "tensor-spec": {"dtype": "float64", "shape": [-1]}}], [Field("x", "FP64")]),
    ],
)  # fmt: skip
def test_schemas_of_columns_and_tensors_become_fields(schema: Any, fields: list[Field]) -> None:
    assert list(from_schema({"inputs": json.dumps(schema)}).inputs) == fields


def test_labels_and_quantities_are_told_apart() -> None:
    for kind, labels in (("long", True), ("double", False), ("string", True), ("float", False)):
        assert answers_classes({"outputs": json.dumps([{"type": kind}])}) is labels
    tensor = {"type": "tensor", "tensor-spec": {"dtype": "int64", "shape": [-1]}}
    assert answers_classes({"outputs": json.dumps([tensor])})
    assert not answers_classes({})


NAMES = st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=5, unique=True)


@given(
    names=NAMES,
    kinds=st.lists(st.sampled_from(["FP32", "FP64", "INT64", "INT32", "BOOL"]), min_size=5, max_size=5),
)
def test_a_signature_survives_being_written_as_mlflows(names: list[str], kinds: list[str]) -> None:
    signature = Signature(
        tuple(Field(n, k) for n, k in zip(names, kinds, strict=False)), (Field("p", "FP32"),)
    )
    again = from_schema(to_schema(signature))
    assert [field.name for field in again.inputs] == names
    wider = {"FP32": "FP64"}  # MLflow would refuse doubles for floats
    assert [field.datatype for field in again.inputs] == [
        wider.get(f.datatype, f.datatype) for f in signature.inputs
    ]
    assert is_unnamed(Signature((Field("f0", "FP32"), Field("f1", "FP32")), ()))
