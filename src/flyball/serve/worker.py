"""One worker process: loads the plan, answers on the socket it was given, follows the plan, and drains on SIGTERM.

``python -m flyball.serve.worker --fd 3 --plan PATH --log DIR``; the supervisor starts it. Imports no database, no
dataframe, no validation library (a test looks at ``sys.modules``).
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from pathlib import Path

from flyball.core.clock import SystemClock
from flyball.core.plan import Plan, publish, read
from flyball.errors import FlyballError
from flyball.serve.answering import Answering
from flyball.serve.app import App
from flyball.serve.listening import run_rsgi
from flyball.serve.logs import to_stderr
from flyball.serve.metrics import Metrics
from flyball.serve.publish import Ack, write_ack
from flyball.serve.serving import Serving, load_plan
from flyball.stores.prediction_log import LogWriter

log = logging.getLogger(__name__)
_LOOK_S = 0.05  # how soon a new plan is seen
_TEND_S = 1.0  # fsync, counts, idle segments


class Worker:
    """What lives as long as the process: the app, the log, and the threads that follow the plan and the clock."""

    def __init__(self, plan_file: Path, log_dir: Path) -> None:
        self._plan_file = plan_file
        self.run_dir = log_dir.resolve().parent / "run" / "workers"
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self._good_file = self.run_dir.parent / "plan.last-good.json"
        self.metrics = Metrics()
        self.writer = LogWriter(log_dir)
        self.answering = Answering(self.writer, self.metrics, on_trip=self._say)
        self.app = App(self.answering, self.metrics, self.run_dir, self.close)
        self._seen: tuple[int, int, int] | None = None
        self._tried = 0
        self._error = ""
        self._loaded_at = SystemClock().now()
        self._parent = os.getppid()
        self._ended = threading.Event()

    def start(self) -> None:
        """Load the plan in force, then follow it from a thread, beside the answers."""
        self.look()
        threading.Thread(target=self._follow, name="plan", daemon=True).start()
        threading.Thread(target=self._tend, name="tend", daemon=True).start()

    def look(self) -> None:
        """Swap to the plan on disk if it is another one than before."""
        seen = _stamp(self._plan_file)
        if seen == self._seen and self._loaded_once:
            return
        self._seen = seen
        try:
            plan = read(self._plan_file)
        except FlyballError as error:
            self._error = error.what
            log.error("the plan can't be read; the old one stays in force", extra={"because": error.what})
            self._say()
            return
        self._swap_to(plan)

    @property
    def _loaded_once(self) -> bool:
        return self._tried > 0 or self._seen is not None

    def _swap_to(self, plan: Plan) -> None:
        before = self.app.serving
        loaded = load_plan(plan, before, self.metrics)
        self._tried = plan.generation
        self._error = "; ".join(f"{name}: {why}" for name, why in loaded.failures.items())
        if loaded.failures:
            log.error("generation %d does not load whole: %s", plan.generation, self._error)
            if not before.endpoints:
                self._put_in_force(self._last_good(plan) or loaded)
        else:
            self._put_in_force(loaded)
            self._keep_as_good(plan)
        self._say()

    def _put_in_force(self, loaded: Serving) -> None:
        self.app.serving = loaded  # one assignment: a request sees the old plan or the new one
        self._loaded_at = SystemClock().now()
        log.info("generation %d is in force", loaded.plan.generation)

    def _last_good(self, plan: Plan) -> Serving | None:
        """What workers served before, for one that starts into a plan that does not load."""
        try:
            good = read(self._good_file)
        except FlyballError:
            return None
        if not 0 < good.generation < plan.generation:
            return None
        loaded = load_plan(good, self.app.serving, self.metrics)
        return None if loaded.failures else loaded

    def _keep_as_good(self, plan: Plan) -> None:
        try:
            publish(plan, self._good_file)
        except OSError as error:
            log.error("could not keep the plan as the last good one", extra={"because": str(error)})

    def _say(self) -> None:
        serving = self.app.serving
        tripped = {
            name: endpoint.router.candidate or ""
            for name, endpoint in serving.endpoints.items()
            if endpoint.breaker.tripped
        }
        ack = Ack(
            pid=os.getpid(),
            generation=serving.plan.generation,
            loaded_at=self._loaded_at,
            tried=self._tried,
            error=self._error,
            tripped=tripped,
        )
        try:
            write_ack(self.run_dir, ack)
        except OSError as error:
            log.error("could not say what is loaded", extra={"because": str(error)})

    def _follow(self) -> None:
        while not self._ended.wait(_LOOK_S):
            try:
                self.look()
            except Exception:  # the edge of a thread: answers go on with the old plan
                log.exception("following the plan failed; the old one stays in force")

    def _tend(self) -> None:
        while not self._ended.wait(_TEND_S):
            try:
                self.writer.tend()
                self.metrics.save(self.run_dir)
            except OSError as error:
                log.error("could not flush", extra={"because": str(error)})
            if os.getppid() != self._parent:
                log.error("the supervisor is gone; ending")
                os.kill(os.getpid(), 15)
                return

    def close(self) -> None:
        """After the last answer: score what waits, flush, let the segment go."""
        self._ended.set()
        self.answering.shadows.close()
        self.writer.close()
        self.metrics.save(self.run_dir)
        (self.run_dir / f"{os.getpid()}.json").unlink(missing_ok=True)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="flyball.serve.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    asked = parser.parse_args(arguments)
    to_stderr()
    sys.setswitchinterval(0.001)  # a shadow's thread hands over within 1 ms, not 5
    started = time.monotonic()
    worker = Worker(asked.plan, asked.log)
    worker.start()
    log.info("ready after %.0f ms", (time.monotonic() - started) * 1000)
    run_rsgi(worker.app, asked.fd)


if __name__ == "__main__":
    main()
