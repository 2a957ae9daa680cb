"""An S3 for tests: moto's server in a process of its own, which may be killed and frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from types import TracebackType

from flyball.service.supervise import _end_with_parent
from tests.postgres import free_port


class S3:
    """A server on a port of its own; :meth:`new` is the URL of an empty bucket."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._buckets = 0
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 (no threads that hold locks here)
        )
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=2).close()
                return
            except OSError:
                assert time.monotonic() < until
                assert self._process.poll() is None
                time.sleep(0.1)

    def __enter__(self) -> S3:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Freeze it (SIGSTOP), let it go on, or kill it."""
        self._process.send_signal(number)

    def new(self, options: str = "") -> str:
        """The URL of a prefix in a new bucket."""
        self._buckets += 1
        bucket = f"bucket-{self._buckets}"
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return (
            f"s3://{bucket}/some/prefix?endpoint={self.endpoint}&region=us-east-1"
            f"&access_key_id=one&secret_access_key=hidden{options}"
        )
