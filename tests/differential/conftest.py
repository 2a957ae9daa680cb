"""Peers that are started once for all tests that compare with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from benchmarks.peers.feast import Feast


@pytest.fixture(scope="session")
def feast() -> Iterator[Feast]:
    """Real Feast in a process of its own; starting it takes seconds."""
    with Feast() as child:
        yield child
