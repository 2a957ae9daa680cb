"""What the machine does while a run goes on, measured on a thread: CPU, memory, disk, network, and GPUs if there are any.

The names are MLflow's, so that its pages draw them where they are expected. It never disturbs the run: a figure that
can't be read is left out.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import psutil as _psutil

from flyball.errors import FlyballError, Invalid

if TYPE_CHECKING:
    from flyball.track.runs import ActiveRun

psutil: Any = _psutil  # untyped
_MEGA = 1e6
_SMI = ("utilization.gpu", "memory.used", "memory.total", "power.draw")


class Sampler(threading.Thread):
    """Measures every so many seconds until it is stopped. Steps count the samples."""

    def __init__(self, run: ActiveRun, every_s: float) -> None:
        if not 0.05 <= every_s < 86_400:
            raise Invalid(f"system_s={every_s} is no interval", "seconds between two samples, like 10")
        super().__init__(name=f"flyball-system-{run.id}", daemon=True)
        self._run = run
        self._every_s = every_s
        self._stopping = threading.Event()
        self._gpus = gpu_reader()
        self._rates = _Rates()

    def run(self) -> None:
        """Sample until stopped; one last sample when it is, so that a short run has one too."""
        psutil.cpu_percent()  # the first answer is since never: 0
        step = 0
        while True:
            stopped = self._stopping.wait(self._every_s)
            try:
                self._run.metrics(self.sample(), step)
            except FlyballError:
                return  # the run is over, or its writer says so to the caller itself
            step += 1
            if stopped:
                return

    def sample(self) -> dict[str, float]:
        """One look at the machine."""
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage("/")
        found = {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / _MEGA,
            "system/system_memory_usage_percentage": memory.percent,
            "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / _MEGA,
            "system/disk_usage_megabytes": disk.used / _MEGA,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_available_megabytes": disk.free / _MEGA,
        }
        return found | self._rates.since_last() | self._gpus()

    def stop(self) -> None:
        """Take the last sample and end."""
        self._stopping.set()
        if self is not threading.current_thread():
            self.join(timeout=5.0)


class _Rates:
    """Bytes through network and disk since the last look, in megabytes."""

    def __init__(self) -> None:
        self._before = self._now()

    def since_last(self) -> dict[str, float]:
        now = self._now()
        found = {name: now[name] - self._before.get(name, now[name]) for name in now}
        self._before = now
        return found

    @staticmethod
    def _now() -> dict[str, float]:
        network, disk = psutil.net_io_counters(), psutil.disk_io_counters()
        found: dict[str, float] = {}
        if network is not None:
            found["system/network_receive_megabytes"] = network.bytes_recv / _MEGA
            found["system/network_transmit_megabytes"] = network.bytes_sent / _MEGA
        if disk is not None:
            found["system/disk_read_megabytes"] = disk.read_bytes / _MEGA
            found["system/disk_write_megabytes"] = disk.write_bytes / _MEGA
        return found


def gpu_reader() -> Callable[[], dict[str, float]]:
    """How to read the GPUs here: by NVML, by nvidia-smi, or not at all."""
    try:
        pynvml = import_module("pynvml")
    except ImportError:
        pass
    else:
        try:
            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            handles = []
        if handles:
            return lambda: _by_nvml(pynvml, handles)
    if shutil.which("nvidia-smi"):
        return _by_smi
    return dict


def _by_nvml(pynvml: Any, handles: list[Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for number, handle in enumerate(handles):
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            used = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        except pynvml.NVMLError:
            continue
        found |= _of_gpu(number, used, memory.used / _MEGA, memory.total / _MEGA, watts)
    return found


def _by_smi() -> dict[str, float]:
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found: dict[str, float] = {}
    for number, line in enumerate(said.splitlines()):
        try:
            used, memory, total, watts = (float(part) for part in line.split(","))
        except ValueError:
            continue  # "[N/A]"
        found |= _of_gpu(number, used, memory * 1.048576, total * 1.048576, watts)
    return found


def _of_gpu(number: int, used: float, memory: float, total: float, watts: float) -> dict[str, float]:
    return {
        f"system/gpu_{number}_utilization_percentage": used,
        f"system/gpu_{number}_memory_usage_megabytes": memory,
        f"system/gpu_{number}_memory_usage_percentage": 100 * memory / total if total else 0.0,
        f"system/gpu_{number}_power_usage_watts": watts,
    }
