"""What a worker and a client must not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "polars pandas sqlalchemy alembic pydantic sklearn scipy typer rich starlette jinja2 pyarrow duckdb"


@pytest.mark.parametrize(
    "module", ["flyball.serve.worker", "flyball.serve.client", "flyball.serve.supervisor"]
)
def test_the_data_plane_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(set('{HEAVY}'.split()) & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == ""


def test_a_worker_with_features_and_a_model_imports_nothing_heavy() -> None:
    code = (
        "import sys, granian.server.mp, onnxruntime, flyball.serve.worker, flyball.features.online,"
        "flyball.features.vectors, flyball.features.on_demand, flyball.features.shipping,"
        "flyball.stores.online, flyball.stores.online_lmdb, flyball.stores.online_redis;"
        f"print(' '.join(set('{HEAVY}'.split()) & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert found == ""
