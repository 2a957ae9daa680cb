"""The demo from beginning to end: project, champion, the year, the summary, the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from flyball.core.clock import ManualClock
from flyball.core.records import Decision, Incident, ModelVersion, Report, Run
from flyball.demo import flights, setup
from flyball.demo import summary as summaries
from flyball.demo.replay import Replay
from flyball.demo.report import write_report
from flyball.demo.story import FULL_YEAR, Story
from flyball.demo.timeline import Timeline
from flyball.errors import Internal
from flyball.heal.governor import Governor
from flyball.serve.client import Client
from flyball.serve.publish import wait_until_loaded
from flyball.service import Workspace, features, governing, pipelines, serving

COLLEAGUE = "person:colleague"


def play(folder: Path, *, as_json: bool, keep_up: bool, story: Story = FULL_YEAR) -> int:
    """Play the whole story; returns the exit code."""
    began = time.monotonic()
    setup.require_extras()
    clock = ManualClock(datetime(2013, 1, 1, tzinfo=UTC))
    ws = setup.make_project(folder, clock)
    up: subprocess.Popen[bytes] | None = None
    try:
        year = flights.load()
        total = year.asked(story.start, story.end, story.one_in).height
        with Timeline(total) as timeline:
            client = Client(f"http://{ws.config.serve.host}:{ws.config.serve.port}")
            replay = Replay(ws, clock, year, story, client)
            clock.set(story.start)
            first_champion(ws, replay, timeline, story)
            parts = ("serve", "console") if keep_up else ("serve",)
            up = setup.start_up(ws, parts, detached=keep_up)
            wait_until_loaded(ws.state, ws.plan.generation, timeout_s=30.0)
            show = Show(ws, timeline)
            governor = governing.governor_of(ws, wait_s=10.0, tell=show.decided)
            governor.start(clock.now())
            plot = Plot(ws, replay, timeline, story)

            def after(now: datetime) -> None:
                governor.tick(now)
                show.look(now)
                timeline.moved(now, replay.predictions)

            replay.run(plot.turn, after)
        result, days = summarise(ws, replay, governor, story, began)
        report = ws.root / "report.html"
        result = msgspec.structs.replace(
            result, report=str(report), seconds=round(time.monotonic() - began, 1)
        )
        write_report(report, result, days)
        tell(result, as_json=as_json, ws=ws, keep_up=keep_up)
        return 0 if result.failed_client_requests == 0 and result.log_loss_gain["low"] > 0 else 1
    finally:
        if up is not None and not keep_up:
            stop(up)


def stop(up: subprocess.Popen[bytes]) -> None:
    """End what was started, workers included."""
    if up.poll() is None:
        os.kill(up.pid, signal.SIGTERM)
        try:
            up.wait(20)
        except subprocess.TimeoutExpired:
            up.kill()
            up.wait()


def first_champion(ws: Workspace, replay: Replay, timeline: Timeline, story: Story) -> None:
    """January to March: the feeds' past, the first model through its gate, and the endpoint."""
    timeline.tell(story.start, "say", "January to March comes in: landings, weather, planes")
    features.apply(ws=ws)
    replay.past(story.start)
    run = train(ws, {"until": story.start}, ws.actor, "the first champion")
    version = made_by(ws, run)
    if version is None:
        raise Internal("the first champion did not pass its own gate", "see flyball runs show", run=run.id)
    gate = ws.ledger.get("report", version.gate or "", Report)
    timeline.tell(
        story.start, "train", f"{version.ref} trained on January to March and passed its gate", gate.summary
    )
    serving.deploy(version.ref, endpoint="delays", because="the first champion", ws=ws)


def train(ws: Workspace, params: dict[str, Any], actor: str, because: str) -> Run:
    """Snapshot the feeds as they are known now, and run the pipeline."""
    from flyball.pipelines import runner
    from flyball.service.feeds import snapshot_all

    snapshot_all(ws)
    return runner.execute(
        pipelines.named(ws, "train_delays"), params, pipelines.context_of(ws, because, actor)
    )


def made_by(ws: Workspace, run: Run) -> ModelVersion | None:
    """The version that a run registered."""
    return next((one for one in ws.ledger.ls("model", ModelVersion) if one.run == run.id), None)


class Plot:
    """The planted troubles, each at its time."""

    def __init__(self, ws: Workspace, replay: Replay, timeline: Timeline, story: Story) -> None:
        self.ws = ws
        self.replay = replay
        self.timeline = timeline
        self.story = story
        self._done: set[str] = set()

    def turn(self, now: datetime) -> None:
        """What the outside world does at this hour."""
        story = self.story
        if self._is_time("broken", story.broken_release, now):
            self._broken_release(now)
        if self._is_time("celsius", story.celsius_from, now):
            self.timeline.tell(now, "say", "from now on the weather feed is in Celsius, and nobody says so")
        if self._is_time("backfill", story.celsius_until, now):
            self.timeline.tell(now, "say", "the provider sends the right readings for those days")
            self.replay.backfill_weather(story.celsius_from, now)
        if self._is_time("recent", story.recent_only, now):
            self._recent_only(now)

    def _is_time(self, name: str, at: datetime, now: datetime) -> bool:
        if name in self._done or now < at or at >= self.story.end:
            return False
        self._done.add(name)
        return True

    def _broken_release(self, now: datetime) -> None:
        """A hotfix by hand: the champion's bytes with a scaling that divides by zero. It never saw a gate."""
        from flyball.demo.broken import not_a_number
        from flyball.models import registry

        champion = registry.resolve(self.ws.ledger, "delays@champion")
        version = registry.register(
            self.ws.ledger,
            self.ws.blobs,
            "delays",
            not_a_number(self.ws.blobs.get(champion.artifact)),
            format="onnx",
            signature=champion.signature,
            feature_service=champion.feature_service,
            actor=COLLEAGUE,
            note="hotfix: inputs rescaled (never went through the pipeline)",
        )
        self.timeline.tell(now, "canary", f"a colleague puts the hotfix {version.ref} into a canary by hand")
        me, self.ws.actor = self.ws.actor, COLLEAGUE
        hotfix = "a colleague's hotfix"
        serving.deploy(version.ref, endpoint="delays", canary=True, share=0.1, because=hotfix, ws=self.ws)
        self.ws.actor = me
        wait_until_loaded(self.ws.state, self.ws.plan.generation, timeout_s=10.0)

    def _recent_only(self, now: datetime) -> None:
        days = self.story.recent_days
        self.timeline.tell(
            now, "say", f"a colleague retrains on the last {days} days only: fresher must be better"
        )
        params = {"until": now, "days": days, "holdout_days": self.story.recent_holdout_days}
        run = train(self.ws, params, COLLEAGUE, "the last three months only")
        if made_by(self.ws, run) is not None:
            self.timeline.tell(now, "alarm", "the gate let it through")


class Show:
    """Tells what the product did, as it does it."""

    def __init__(self, ws: Workspace, timeline: Timeline) -> None:
        self.ws = ws
        self.timeline = timeline
        self._seq = ws.ledger.events()[-1].seq  # of the newest event that was told

    def decided(self, decision: Decision) -> None:
        """One decision that was carried out."""
        marks = {"retrain": "alarm", "promote": "promote", "rollback": "rollback", "hold": "alarm"}
        words = {
            "retrain": f"retraining: {decision.because}",
            "canary.start": f"{decision.arguments.get('model')} goes to canary",
            "canary.ramp": f"{decision.arguments.get('model')} gets {decision.arguments.get('share', 0):.0%} of the requests",
            "promote": f"{decision.arguments.get('model')} is champion",
            "rollback": f"{decision.arguments.get('model')} is rolled back",
        }
        what = words.get(decision.action, decision.action)
        if decision.state == "failed":
            what += f" FAILED: {decision.outcome.get('what', '')}"
        because = "" if decision.because in what else decision.because
        self.timeline.tell(decision.at, marks.get(decision.action, "canary"), what, because)

    def look(self, now: datetime) -> None:
        """Incidents and gates since the last look."""
        for event in self.ws.ledger.events(after_seq=self._seq):
            self._seq = event.seq
            for change in event.sets:
                if change.noun in ("report", "incident") and change.content is not None:
                    self._changed(change.noun, change.content)

    def _changed(self, noun: str, content: dict[str, Any]) -> None:
        if noun == "report":
            report = msgspec.convert(content, Report)
            if report.kind == "gate":
                mark, word = ("train", "passed") if report.passed else ("refuse", "REFUSED")
                self.timeline.tell(report.at, mark, f"gate: {report.subject} {word}", report.summary)
        else:
            incident = msgspec.convert(content, Incident)
            if incident.closed is None:
                self.timeline.tell(
                    incident.opened,
                    "incident",
                    f"incident {incident.cause}: {incident.subject}",
                    incident.because,
                )
            else:
                self.timeline.tell(
                    incident.closed,
                    "closed",
                    f"over: {incident.cause}: {incident.subject}",
                    incident.closed_because,
                )


def summarise(
    ws: Workspace, replay: Replay, governor: Governor, story: Story, began: float
) -> tuple[Any, Any]:
    """The summary and the days, from the log and the ledger."""
    from flyball.service.skew import skew

    rows = summaries.scored(ws, story)
    found = summaries.decisions_of(ws)
    runs = summaries.retrainings_of(ws)
    bad_data = [run for run in runs if summaries.was_on_bad_data(ws, run, story)]
    result = summaries.Summary(
        seconds=round(time.monotonic() - began, 1),
        predictions=replay.predictions,
        failed_client_requests=len(replay.failed),
        retrainings=len(runs),
        retrainings_on_bad_data=len(bad_data),
        false_alarms=summaries.false_alarms(ws, story),
        months=summaries.months_of(rows),
        log_loss_gain=summaries.gain_of(rows),
        explain=replay.last_id,
        skew=[
            msgspec.to_builtins(one, enc_hook=str) for one in skew("delays", sample=2000, ws=ws).mismatches
        ],
        report="",
        **found,
    )
    return result, summaries.lateness(rows)


def tell(result: summaries.Summary, *, as_json: bool, ws: Workspace, keep_up: bool) -> None:
    """The summary: JSON alone on stdout, or for people."""
    if as_json:
        sys.stdout.write(json.dumps(msgspec.to_builtins(result), indent=2) + "\n")
        return
    from flyball.demo.closing import closing

    closing(result, ws, keep_up=keep_up)
