"""Hardware with the limits of a container, and what makes chance repeat."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from flyball.versions import hardware, seeds


def test_this_machine_has_a_processor_cores_and_memory() -> None:
    found = hardware.capture()
    assert found.cpu
    assert found.cores >= 1
    assert found.memory_bytes > 2**26
    assert hardware.capture() is found  # read once per process


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "contents", "limits"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, (1.5, 2**30)),
        ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, (None, None)),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000"}, (2.0, None)),
        ("0::/of/the/host\n", {"memory.max": "4096\n"}, (None, 4096)),
        (
            "4:memory:/c\n3:cpu,cpuacct:/c\n",
            {
                "cpu/c/cpu.cfs_quota_us": "50000\n",
                "cpu/c/cpu.cfs_period_us": "100000\n",
                "memory/c/memory.limit_in_bytes": "8192\n",
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            (0.5, 8192),
        ),
    ],
)
def test_the_narrowest_limit_of_the_containers_counts(tmp_path, membership, contents, limits) -> None:
    root = files(tmp_path / "cgroup", contents)
    said = files(tmp_path, {"self": membership}) / "self"
    assert hardware.cgroup_limits(root, said) == limits


def test_gpus_are_read_from_the_drivers_own_files(tmp_path) -> None:
    files(
        tmp_path,
        {
            "gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H100\nIRQ: 1\n",
            "gpus/0000:02:00.0/information": "Model: \t\t NVIDIA H100\nIRQ: 2\n",
            "version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.90.07  Fri May\nGCC version: 12\n",
        },
    )
    assert hardware.gpus(tmp_path) == ("NVIDIA H100, driver 550.90.07",) * 2


@pytest.fixture
def _states():
    before, numpys, named = random.getstate(), np.random.get_state(), dict(seeds._set)
    yield
    random.setstate(before)
    np.random.set_state(numpys)
    seeds._set.clear()
    seeds._set.update(named)


@pytest.mark.usefixtures("_states")
def test_a_seed_repeats_chance_and_is_told() -> None:
    def draw() -> tuple[float, float]:
        seeds.seed(7)
        return random.random(), float(np.random.rand())

    assert draw() == draw()
    seeds.seed(7)
    told = seeds.capture({"seed": 3, "random_state": None, "trees": 5, "fit.random_seed": 1})
    assert told["random"] == told["numpy"] == 7
    assert {name for name in told if name.startswith("param")} == {
        "param seed", "param random_state", "param fit.random_seed",
    }  # fmt: skip
    again = seeds.capture()
    assert again["random state"] == told["random state"]
    random.random()
    assert seeds.capture()["random state"] != told["random state"]


def test_the_hash_seed_of_the_process_is_told(monkeypatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    assert seeds.capture()["PYTHONHASHSEED"] == "random"
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    assert seeds.capture()["PYTHONHASHSEED"] == "0"
