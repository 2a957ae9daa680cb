"""Where pieces of a large job run: processes of this machine, or a Ray cluster. Both survive the death of a worker.

A job is split twice: each *piece* of the input is read and cut into *parts* by key, and each part is finished from its
share of all pieces, in their order. Pieces travel as files here and as Ray's objects there, which Ray makes again when
the machine that held them is gone.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from flyball.core.redaction import redacted_text
from flyball.errors import FlyballError, Invalid, Unavailable, nearest

TRIES = 4  # of one piece or part whose process dies

Cut = Callable[[], list[pl.DataFrame]]  # reads a piece; one frame per part
Finish = Callable[[list[pl.DataFrame]], Any]  # a part's frames, in order of the pieces


class Pool(Protocol):
    """Runs jobs of pieces and parts. Functions must be importable by name (or partials of such)."""

    workers: int

    def run(self, cuts: Sequence[Cut], finishes: Sequence[Finish]) -> list[Any]:
        """What each part gave, in order. An error of one ends all."""
        ...


@contextmanager
def opened(compute: str) -> Iterator[Pool]:
    """``processes``, ``processes:4``, ``ray`` (the cluster of ``RAY_ADDRESS``, else one on this machine) or
    ``ray://host:10001``.
    """
    kind, _, rest = compute.partition(":")
    if kind == "processes":
        if rest and not (rest.isdecimal() and int(rest)):
            raise Invalid(f"compute {compute!r}: {rest!r} is no number of processes", "like processes:4")
        with tempfile.TemporaryDirectory(prefix="flyball-parts-", ignore_cleanup_errors=True) as folder:
            pool = Processes(int(rest or os.cpu_count() or 1), Path(folder))
            try:
                yield pool
            finally:
                pool.close()
    elif kind == "ray":
        yield Ray(compute if rest else "")
    else:
        raise Invalid(f"nothing computes on {compute!r}", nearest(kind, ["processes", "ray"]))


class Processes:
    """Processes of this machine."""

    def __init__(self, workers: int, folder: Path) -> None:
        self.workers = workers
        self._folder = folder
        self._jobs = 0
        self._started: ProcessPoolExecutor | None = None

    @property
    def _executor(self) -> ProcessPoolExecutor:
        """The processes, started at the first call and again after some died."""
        if self._started is None:
            context = multiprocessing.get_context("spawn")
            self._started = ProcessPoolExecutor(self.workers, mp_context=context)
        return self._started

    def close(self) -> None:
        """Let the processes go; what waits is not begun."""
        if self._started is not None:
            self._started.shutdown(wait=True, cancel_futures=True)
            self._started = None

    def run(self, cuts: Sequence[Cut], finishes: Sequence[Finish]) -> list[Any]:
        self._jobs += 1
        folder = self._folder / str(self._jobs)
        folder.mkdir()
        self._each([(_cut_to_files, (cut, folder, number)) for number, cut in enumerate(cuts)])
        return self._each(
            [
                (_finish_from_files, (finish, folder, number, len(cuts)))
                for number, finish in enumerate(finishes)
            ]
        )

    def _each(self, calls: list[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
        """All calls, those again whose process died. One that dies alone is not blamed on the others."""
        answers: dict[int, Any] = {}
        for _ in range(TRIES):
            left = [number for number in range(len(calls)) if number not in answers]
            if not left:
                break
            waiting: dict[Future[Any], int] = {}
            try:
                for number in left:
                    function, arguments = calls[number]
                    waiting[self._executor.submit(function, *arguments)] = number
                _collect(waiting, answers)
            except BrokenProcessPool:
                self.close()
        if len(answers) < len(calls):
            raise Unavailable(
                f"processes died {TRIES} times while {len(calls) - len(answers)} parts were computed",
                "is there enough memory? fewer processes at once take less: processes:2",
            )
        return [answers[number] for number in range(len(calls))]


def _collect(waiting: dict[Future[Any], int], answers: dict[int, Any]) -> None:
    """Take what is done; when the pool breaks, first all that was done before."""
    broken: BrokenProcessPool | None = None
    while waiting:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            number = waiting.pop(future)
            try:
                answers[number] = future.result()
            except BrokenProcessPool as error:
                broken = error
    if broken is not None:
        raise broken


def _cut_to_files(cut: Cut, folder: Path, piece: int) -> None:
    for part, frame in enumerate(cut()):
        if frame.height:
            path = folder / f"{part}-{piece}.arrow"
            staged = path.with_suffix(f".{os.getpid()}")
            frame.write_ipc(staged, compression="uncompressed")
            staged.replace(path)


def _finish_from_files(finish: Finish, folder: Path, part: int, pieces: int) -> Any:
    paths = [folder / f"{part}-{piece}.arrow" for piece in range(pieces)]
    there = [path for path in paths if path.exists()]
    answer = finish([pl.read_ipc(path) for path in there])
    return answer


class Ray:
    """A Ray cluster. What workers read must be reachable from each of them: buckets, databases, a shared folder."""

    def __init__(self, address: str = "") -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise Invalid(
                "compute 'ray' needs Ray, which is not installed", "pip install 'flyball[ray]'"
            ) from error
        self._ray: Any = ray
        if not ray.is_initialized():
            place = address or os.environ.get("RAY_ADDRESS") or None
            try:
                ray.init(address=place, include_dashboard=None if place else False, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise Unavailable(
                    f"no Ray cluster answers at {redacted_text(str(place))}: {error}",
                    "ray start --head starts one; without an address one is started on this machine",
                ) from error
        resources: dict[str, float] = self._ray.cluster_resources()
        self.workers = max(int(resources.get("CPU", 1)), 1)

    def run(self, cuts: Sequence[Cut], finishes: Sequence[Finish]) -> list[Any]:
        ray = self._ray
        parts = len(finishes)
        remote_cut = ray.remote(num_returns=parts, max_retries=TRIES)(_call)
        remote_finish = ray.remote(max_retries=TRIES)(_finish)
        pieces = [remote_cut.remote(cut) for cut in cuts]
        pieces = [[one] for one in pieces] if parts == 1 else pieces
        shares: list[list[Any]] = [[piece[part] for piece in pieces] for part in range(parts)]
        del pieces
        waiting = [
            remote_finish.remote(parts == 1, finish, *share)
            for finish, share in zip(finishes, shares, strict=True)
        ]
        del shares
        try:
            return list(ray.get(waiting))
        except ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, FlyballError):
                raise cause from error
            raise
        except ray.exceptions.RayError as error:
            raise Unavailable(
                f"the Ray cluster did not finish: {str(error).strip().partition(chr(10))[0]}",
                "are its nodes up, with enough memory? the same call may be repeated",
            ) from error


def _call(cut: Cut) -> Any:
    found = cut()
    return found[0] if len(found) == 1 else found


def _finish(single: bool, finish: Finish, *frames: Any) -> Any:
    return finish([frame for frame in frames if frame.height])
