"""The unit suites whose parts write to the ledger, once more with every ledger on a real PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
# Its ledger is opened by a child process, which knows nothing of the server.
NOT_THERE = "killed_around_its_act"


@pytest.mark.parametrize("suite", ["track", "models", "pipelines", "versions", "heal", "monitor"])
def test_the_suite_passes_on_a_server_too(suite: str) -> None:
    command = [
        sys.executable, "-m", "pytest", f"tests/unit/{suite}", "--ledger", "postgres", "-q", "-k", f"not {NOT_THERE}",
        "--ignore", "tests/unit/models/formats", "--ignore", "tests/unit/models/mlmodel",
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
