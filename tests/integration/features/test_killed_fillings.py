"""Real processes killed with -9 at random instants while they push and materialize: nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flyball.features.reach import Mark
from flyball.service.features import views
from flyball.service.feeds import Feed
from flyball.service.filling import materialize
from flyball.service.sources import offline
from tests import feeding
from tests.feeding import event, table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

PUSHER = """
import sys
from pathlib import Path
from flyball.service.filling import push
from tests import feeding
ws = feeding.project(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 40):
    push("clicks", [feeding.event(n) for n in range(number * 10, number * 10 + 10)], batch=f"b{number}", ws=ws)
    print(number, flush=True)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_pusher_that_sends_again_loses_and_doubles_nothing(tmp_path: Path, seed: int) -> None:
    chance, done, kills = random.Random(seed), -1, 0
    while done < 39:
        command = [sys.executable, "-c", PUSHER, str(tmp_path / "p"), str(done + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pusher:
            assert pusher.stdout is not None
            left = chance.randint(1, 15)
            for line in pusher.stdout:
                done, left = int(line), left - 1
                if left == 0:
                    time.sleep(chance.random() * 0.02)  # into the middle of the next one
                    pusher.send_signal(signal.SIGKILL)
                    kills += 1
                    break
            done = max([done, *(int(line) for line in pusher.stdout if line.endswith("\n"))])
    assert kills > 1
    ws = feeding.project(tmp_path / "p")
    with Feed(ws, "clicks").files.held():
        Feed(ws, "clicks").catch_up()
    events = [event(n) for n in range(400)]
    rows = offline(ws, "clicks").collect()
    assert rows["id"].to_list() == list(range(400))
    asked = feeding.questions(400)
    assert feeding.online(ws, views(ws), asked) == feeding.offline(views(ws), asked, table(events))
    feeding.close(ws)


FILLER = """
import sys
from pathlib import Path
from flyball.features import filling
from flyball.service.filling import materialize
from tests import feeding
filling.fill.__kwdefaults__["batch_rows"] = 50
ws = feeding.project(Path(sys.argv[1]), sys.argv[2])
print("begun", flush=True)
materialize(ws=ws)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_materialization_goes_on_where_its_last_batch_ended(tmp_path: Path, seed: int) -> None:
    count, chance = 4000, random.Random(seed)
    rows = table([event(n) for n in range(count)]).sample(fraction=1.0, shuffle=True, seed=seed)
    rows.write_parquet(tmp_path / "clicks.parquet")
    url = f"parquet:{tmp_path}/clicks.parquet"
    ws = feeding.project(tmp_path / "p", url)
    spent = views(ws)["spent"]
    reached: list[int] = []
    for _ in range(6):
        command = [sys.executable, "-c", FILLER, str(tmp_path / "p"), url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as filler:
            assert filler.stdout is not None
            assert filler.stdout.readline()
            time.sleep(0.2 + chance.random() * 0.6)
            filler.send_signal(signal.SIGKILL)
        mark = Mark.of(spent, ws.online)
        reached.append(0 if mark is None else mark.rows)
    assert reached == sorted(reached)
    assert reached[-1] > 0
    found = materialize(ws=ws)
    assert found[0].rows == count - reached[-1]  # no row that was filled is read again
    asked = feeding.questions(count)
    assert feeding.online(ws, views(ws), asked) == feeding.offline(views(ws), asked, rows)
    assert [one.rows for one in materialize(ws=ws)] == [0, 0]
    assert [one.note for one in materialize(ws=ws)] == ["", ""]
    feeding.close(ws)
