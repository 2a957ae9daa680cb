"""What a run runs on: processor, cores, memory, GPUs, and the limits of its container. Read once per process."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from flyball.core.hashing import digest_of
from flyball.core.records import Hardware

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
MIB = 1024 * 1024
_GPU_WAIT_S = 2.0


@cache
def capture() -> Hardware:
    """The hardware of this machine, as this process may use it; about 1 ms, and nothing the second time."""
    cpu_limit, memory_limit = cgroup_limits()
    facts = {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": _memory_bytes(),
        "gpus": gpus(),
        "cpu_limit": cpu_limit,
        "memory_limit_bytes": memory_limit,
    }
    return Hardware(digest=digest_of(facts), **facts)  # type: ignore[arg-type]  # one dict, hashed and kept


def _cpu(cpuinfo: Path = PROC / "cpuinfo") -> str:
    try:
        with cpuinfo.open() as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() in {"model name", "Hardware", "cpu model"}:
                    return " ".join(value.split())
    except OSError:
        pass
    if sys.platform == "darwin":
        return _said(["sysctl", "-n", "machdep.cpu.brand_string"]).strip() or platform.machine()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    """In whole MiB: what the kernel keeps for itself differs a little from boot to boot."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB * MIB
    except (AttributeError, ValueError, OSError):
        return 0


def gpus(driver: Path = PROC / "driver" / "nvidia") -> tuple[str, ...]:
    """One line a GPU. The driver's own files are read where they are (under 1 ms); else ``nvidia-smi`` is asked."""
    models = []
    for found in sorted(driver.glob("gpus/*/information")):
        try:
            text = found.read_text()
        except OSError:
            continue
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        models.append(facts.get("Model", "NVIDIA GPU").strip())
    if models:
        try:
            version = (driver / "version").read_text().split("Kernel Module")[-1].split()[0]
        except (OSError, IndexError):
            version = ""
        return tuple(f"{model}, driver {version}" if version else model for model in models)
    if shutil.which("nvidia-smi") is None:
        return ()
    said = _said(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return tuple(line.strip().replace(", ", ", driver ") for line in said.splitlines() if line.strip())


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_GPU_WAIT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def cgroup_limits(
    root: Path = CGROUP, membership: Path = PROC / "self" / "cgroup"
) -> tuple[float | None, int | None]:
    """Cores and bytes that the container may use, by cgroup 2 or 1; ``None`` where there is no limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None, None
    places = {one.split(":", 2)[1]: one.split(":", 2)[2] for one in lines if one.count(":") >= 2}
    cores: list[float] = []
    size_bytes: list[int] = []
    for folder in _upwards(root, places.get("", "/")):
        quota, period, *_ = [*_words(folder / "cpu.max"), "", ""]
        if quota.isdigit() and period.isdigit() and int(period):
            cores.append(int(quota) / int(period))
        size_bytes += [int(word) for word in _words(folder / "memory.max") if word.isdigit()]
    for names, place in places.items():
        for controller in set(names.split(",")) & {"cpu", "memory"}:
            for folder in _upwards(root / controller, place):
                quota = "".join(_words(folder / "cpu.cfs_quota_us"))
                period = "".join(_words(folder / "cpu.cfs_period_us"))
                if quota.isdigit() and period.isdigit() and int(period):
                    cores.append(int(quota) / int(period))
                limits = _words(folder / "memory.limit_in_bytes")
                size_bytes += [int(word) for word in limits if word.isdigit() and int(word) < 2**60]
    return min(cores, default=None), min(size_bytes, default=None)


def _upwards(root: Path, place: str) -> list[Path]:
    """The cgroup and those above it: each may set a limit. In a container the path is often not what it sees."""
    inside = root / place.strip("/")
    return [folder for folder in (inside, *inside.parents) if folder == root or root in folder.parents] or [
        root
    ]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
