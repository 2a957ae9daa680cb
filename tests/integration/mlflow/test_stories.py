"""Told the same story, our console and MLflow's own server answer the same: modulo ids, times and words about filters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.mlflow.conftest import Console, Peer

pytestmark = [pytest.mark.integration, pytest.mark.differential, pytest.mark.timeout(180)]
STORIES = (
    "experiments",
    "found_experiments",
    "runs",
    "batches",
    "histories",
    "found_runs",
    "random_searches",
    "inputs",
    "logged_models",
)


@pytest.mark.parametrize("story", STORIES)
def test_the_same_story_has_the_same_answers(console: Console, peer: Peer, story: str) -> None:
    differences: list[Any] = peer("raw", "both", url=console.url, name=story)
    shown = "\n\n".join(f"MLflow: {theirs}\nours:   {ours}" for theirs, ours in differences)
    assert not differences, shown
