from __future__ import annotations

import sys

import pytest

from flyball.stores.blobs import Blobs
from flyball.stores.metadata import Ledger
from tests.unit.pipelines.project import Project


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files are rewritten within one tick of a clock
    ledger = Ledger.open("sqlite://")
    yield Project(tmp_path, ledger, Blobs.open("memory:"))
    ledger.close()
