"""Where the artifacts of runs and models are, and which paths lead nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball.compat.mlflow import artifacts, limits
from flyball.compat.mlflow.metrics import spread
from flyball.compat.mlflow.wire import MlflowError


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        ("3/run_abc/artifacts/a/b.txt", ("run_abc", "a/b.txt")),
        ("3/run_abc/artifacts", ("run_abc", "")),
        ("3/run_abc/artifacts/artifacts/x", ("run_abc", "artifacts/x")),
        ("my/artifacts/run_abc/artifacts/x", ("run_abc", "x")),
        ("3/models/m-1/artifacts/MLmodel", ("m-1", "MLmodel")),
        ("models/delays/12/artifacts/MLmodel", ("model:delays@12", "MLmodel")),
        ("models/delays/x/artifacts/MLmodel", ("x", "MLmodel")),
        ("anything/else", ("mlflow-artifacts", "anything/else")),
        ("artifacts", ("mlflow-artifacts", "artifacts")),
        ("", ("mlflow-artifacts", "")),
    ],
)
def test_a_path_of_the_proxy_names_its_owner(path: str, owner: tuple[str, str]) -> None:
    assert artifacts.owner_of(path) == owner


@pytest.mark.parametrize(
    "location", ["", "mlflow-artifacts:/custom/place", "mlflow-artifacts:/my/artifacts/"]
)
def test_a_root_that_the_client_is_told_leads_back_to_its_owner(location: str) -> None:
    assert artifacts.at(artifacts.run_root("run_1", "7", location)) == ("run_1", "")
    assert artifacts.at(artifacts.logged_model_root("m-1", "7", location)) == ("m-1", "")
    assert artifacts.at(artifacts.version_root("delays", 3)) == ("model:delays@3", "")


def test_another_stores_place_is_not_ours() -> None:
    assert artifacts.at("s3://bucket/0/run_1/artifacts") is None
    assert artifacts.run_root("run_1", "7", "s3://bucket/x/") == "s3://bucket/x/run_1/artifacts"


@given(
    st.lists(
        st.sampled_from(["..", ".", "a", "%2e%2e", "%252e%252e", "", "b c", "%2f", "..%2f.."]), max_size=6
    )
)
def test_no_path_leads_upward_however_it_is_written(words: list[str]) -> None:
    path = "/".join(words)
    try:
        kept = limits.artifact_path(path)
    except MlflowError:
        return
    assert not kept.startswith("/")
    assert ".." not in kept.split("/")


@pytest.mark.parametrize("name", ["a//b", "/a", "../a", "a/..", "a/", ".", "a&b", "a\nb", "ä|"])
def test_names_that_mlflow_refuses_are_refused(name: str) -> None:
    with pytest.raises(MlflowError, match="Invalid value"):
        limits.name(name, "key")


@pytest.mark.parametrize("name", ["a", "val/loss", "a b", "a:b", "a.b-c_d", "größe"])
def test_names_that_mlflow_takes_are_taken(name: str) -> None:
    assert limits.name(name, "key") == name


@given(st.integers(0, 5000), st.integers(1, 300))
def test_a_thinned_history_keeps_its_ends_and_its_order(n: int, to: int) -> None:
    places = spread(n, to).tolist()
    assert len(places) == min(n, to)
    assert places == sorted(set(places))
    if n:
        assert places[-1] == n - 1
    if n and to > 1:
        assert places[0] == 0
