"""A candidate on trial: evidence from the prediction log, and one of three verdicts that hold however often they are asked.

HARM (roll back), SAFE (promote), or neither yet. Errors come from the randomised arms, each request with its own logged
probability (F1, F2 and F3 at each share); latency is shown, and decides only through the deadline. Quality comes from
both models' losses on the same request (the arm that did not answer is scored as a shadow), so a label's own variance
cancels. See ``docs/decisions/004-shadowed-canary.md`` and ``statistics.md``'s section 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec

from flyball.core.clock import to_us
from flyball.core.records import Route
from flyball.heal.policy import Canary
from flyball.stats.betting import EProcess, contrast, safety
from flyball.stats.combine import log_mean_e
from flyball.stats.counts import log_e_errors
from flyball.stores.prediction_log import Label, Prediction, Record, Shadow

Kind = Literal["harm", "safe", "ramp", "overdue", "wait"]


class Verdict(msgspec.Struct, frozen=True):
    """What the evidence says now; ``share`` is the next step when it says ramp."""

    kind: Kind
    because: str
    evidence: dict[str, Any]
    share: float = 0.0


class _Step:
    """One share's evidence: counts for F3, bets for F2. Evidence of several shares multiplies: each is an e-process."""

    def __init__(self, rho: float, safe_errors: float) -> None:
        self.rho = rho
        self.requests = self.exposed = self.candidate_errors = self.champion_errors = 0
        self.harm = EProcess.harm([rho])
        self.safe = EProcess.safe([rho], safe_errors)


class Trial:
    """The evidence on one candidate since it was let in. Sums only: order does not matter, replaying gives it again.

    Feed it every record of the log; it takes what belongs to it. An id counts once.
    """

    def __init__(self, route: Route, policy: Canary, started: datetime) -> None:
        if route.candidate is None:
            raise ValueError("a trial needs a candidate in the route")
        self.endpoint = route.endpoint
        self.candidate = route.candidate.model
        self.champion = route.champion
        self.started = started
        self._policy = policy
        self._loss_harm = EProcess(1.0)  # the difference of two Brier losses lies in [-1, 1]
        self._loss_safe = EProcess(1.0 - policy.safe_loss)
        self._steps: dict[float, _Step] = {}
        self._seen: set[tuple[str, str]] = set()
        self._answers: dict[
            str, tuple[float | None, float | None]
        ] = {}  # id -> (champion, candidate) outputs
        self._labels: dict[str, float] = {}
        self.paired = 0
        self._loss_sum = 0.0
        self._latencies: tuple[list[int], list[int]] = ([], [])

    def feed(self, records: Iterable[Record]) -> None:
        """Take in what is new in the log."""
        since = to_us(self.started)
        seen: dict[
            tuple[str, str], Prediction
        ] = {}  # one observation a request and arm: its rows fail together
        for record in records:
            if isinstance(record, Label):
                # What is no outcome of a yes-or-no question says nothing about a probability.
                if record.id in self._answers and 0.0 <= record.value <= 1.0:
                    self._labels.setdefault(record.id, record.value)
                    self._pair(record.id)
            elif record.endpoint != self.endpoint or record.at_us < since:
                continue
            elif isinstance(record, Shadow):
                self._note(record.id, record.model, record.output)
            elif 0.0 < record.rho < 1.0:
                self._note(record.id, record.model, record.output)
                request = (_request_of(record.id), record.arm)
                if request not in self._seen and (request not in seen or record.error):
                    seen[request] = record
        self._seen.update(seen)
        for record in seen.values():
            self._count(record)

    def _count(self, record: Prediction) -> None:
        if record.rho not in self._steps:
            self._steps[record.rho] = _Step(record.rho, self._policy.safe_errors)
        step = self._steps[record.rho]
        step.requests += 1
        y, w = float(bool(record.error)), float(record.arm == "candidate")
        step.harm.update(contrast(y, w, record.rho))
        step.safe.update(safety(y, w, record.rho, self._policy.safe_errors))
        failed = bool(record.error)
        if record.arm == "candidate":
            step.exposed += 1
            step.candidate_errors += failed
            self._latencies[1].append(record.candidate_latency_us or record.latency_us)
        else:
            step.champion_errors += failed
            self._latencies[0].append(record.latency_us)

    def _note(self, identifier: str, model: str, output: float | None) -> None:
        champion, candidate = self._answers.get(identifier, (None, None))
        if model == self.champion:
            champion = output
        elif model == self.candidate:
            candidate = output
        self._answers[identifier] = (champion, candidate)
        if identifier in self._labels:
            self._pair(identifier)

    def _pair(self, identifier: str) -> None:
        """Both models' Brier losses on one labelled request, once."""
        champion, candidate = self._answers[identifier]
        if champion is None or candidate is None:
            return
        y = self._labels[identifier]
        x = (candidate - y) ** 2 - (champion - y) ** 2
        self._loss_harm.update(x)
        self._loss_safe.update(self._policy.safe_loss - x)
        self._loss_sum += x
        self.paired += 1
        self._answers[identifier] = (None, None)  # counted; a late shadow or label finds nothing to pair

    @property
    def exposed(self) -> int:
        """Requests that were sent to the candidate."""
        return sum(step.exposed for step in self._steps.values())

    def judge(self, route: Route, now: datetime) -> Verdict:
        """HARM first, then SAFE, then the next step of the ramp; past the deadline, a person."""
        policy = self._policy
        wall = math.log(1.0 / policy.alpha)
        counts = math.fsum(
            log_e_errors(step.candidate_errors, step.champion_errors, step.rho)
            for step in self._steps.values()
        )
        errors = log_mean_e([math.fsum(step.harm.log_e for step in self._steps.values()), counts])
        harm = log_mean_e([errors, self._loss_harm.log_e])
        evidence = self._evidence(errors, counts, harm, wall)
        if harm >= wall:
            return Verdict("harm", self._harm_sentence(errors), evidence)
        safe = min(math.fsum(step.safe.log_e for step in self._steps.values()), self._loss_safe.log_e)
        last = policy.ramp[-1]
        share = route.candidate.weight if route.candidate is not None else 0.0
        if safe >= wall and share >= last - 1e-9:
            return Verdict("safe", self._safe_sentence(), evidence)
        if now - self.started > timedelta(days=policy.deadline_days):
            sentence = (
                f"neither harm nor safety shown in {policy.deadline_days:g} days and {self.exposed} requests"
            )
            return Verdict("overdue", sentence, evidence)
        step = self._steps.get(next((rho for rho in self._steps if abs(rho - share) < 1e-9), -1.0))
        higher = [one for one in policy.ramp if one > share + 1e-9]
        if higher and step is not None and step.exposed >= policy.ramp_requests:
            sentence = f"{step.exposed} requests at {share:.0%} without harm"
            return Verdict("ramp", sentence, evidence, higher[0])
        return Verdict("wait", "not enough evidence yet", evidence)

    def _evidence(self, errors: float, counts: float, harm: float, wall: float) -> dict[str, Any]:
        champion, candidate = (sorted(found) for found in self._latencies)
        return {
            "threshold_log_e": round(wall, 4),
            "log_e": {
                "harm": round(harm, 4),
                "errors_harm": round(errors, 4),
                "errors_counts": round(counts, 4),
                "errors_safe": round(math.fsum(step.safe.log_e for step in self._steps.values()), 4),
                "loss_harm": round(self._loss_harm.log_e, 4),
                "loss_safe": round(self._loss_safe.log_e, 4),
            },
            "requests": sum(step.requests for step in self._steps.values()),
            "requests_exposed": self.exposed,
            "candidate_errors": sum(step.candidate_errors for step in self._steps.values()),
            "champion_errors": sum(step.champion_errors for step in self._steps.values()),
            "paired_labels": self.paired,
            "mean_loss_difference": round(self._loss_sum / self.paired, 6) if self.paired else None,
            "median_latency_us": {
                "champion": champion[len(champion) // 2] if champion else None,
                "candidate": candidate[len(candidate) // 2] if candidate else None,
            },
        }

    def _harm_sentence(self, errors: float) -> str:
        failed = sum(step.candidate_errors for step in self._steps.values())
        if errors >= self._loss_harm.log_e:
            return f"{failed} of its {self.exposed} requests failed (e = {math.exp(min(errors, 60)):.3g})"
        mean = self._loss_sum / self.paired
        return f"its loss is higher by {mean:.4f} on {self.paired} requests (e = {math.exp(min(self._loss_harm.log_e, 60)):.3g})"

    def _safe_sentence(self) -> str:
        mean = self._loss_sum / self.paired
        return (
            f"loss differs by {mean:+.4f} on {self.paired} labelled requests, not worse by {self._policy.safe_loss:g}; "
            f"errors not worse by {self._policy.safe_errors:g} over {self.exposed} requests of its own"
        )


def _request_of(identifier: str) -> str:
    """The request a row belongs to: rows of one request are named ``<id>.0``, ``<id>.1``, … and were drawn together."""
    stem, dot, number = identifier.rpartition(".")
    return stem if dot and number.isdigit() else identifier
