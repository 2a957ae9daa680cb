"""How much the core install brings, beside what the design allows: 60 packages and 350 MB."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, compare

_ROOT = Path(__file__).parents[1]
_PACKAGES, _MB = 60, 350


def measured(repeats: int) -> list[Row]:
    """Install requirements/core.txt into a fresh environment with uv, once; files are counted by their length."""
    uv = Path(sys.executable).parent / "uv"
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        core = _ROOT / "requirements" / "core.txt"
        for words in (
            ["venv", "--quiet", "--python", sys.executable, folder],
            ["pip", "install", "--quiet", "--python", python, "--compile-bytecode", "-r", core],
        ):
            subprocess.run([uv, *words], check=True, capture_output=True, text=True)
        (site,) = Path(folder).glob("lib/python*/site-packages")
        packages = 1 + len(list(site.glob("*.dist-info")))  # and Flyball
        files = [path for top in (site, _ROOT / "src") for path in top.rglob("*") if path.is_file()]
        ours = [path for path in files if path.suffix != ".pyc" or path.is_relative_to(site)]
        whole = sum(path.stat().st_size for path in ours) / 1e6
        compiled = sum(path.stat().st_size for path in ours if path.suffix == ".pyc") / 1e6
    return [
        compare("packages, with flyball, beside the limit", "", [(packages, _PACKAGES)]),
        compare("on disk, beside the limit", "MB", [(whole, _MB)]),
        compare("on disk without bytecode, beside the limit", "MB", [(whole - compiled, _MB)]),
    ]
