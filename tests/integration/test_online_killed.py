"""Real processes: a writer killed with -9 in the middle of a batch, readers beside a writer."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flyball.stores.online import open_online
from flyball.testing.online import rows_of

pytestmark = pytest.mark.integration

WRITER = """
import itertools, sys
from flyball.stores.online import open_online
from flyball.testing.online import VIEW, batch
store = open_online(sys.argv[1])
for number in itertools.count():
    # one batch: the same 40 rows for each of 25 keys, with fresh times
    times = range(number * 40, number * 40 + 40)
    store.append(VIEW, batch([(f"N{key}", at, at, 0, 1.0) for key in range(25) for at in times]))
    print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 3, 7, 12])
def test_a_writer_killed_in_the_middle_leaves_whole_batches_and_all_it_acknowledged(
    tmp_path: Path, after: int
) -> None:
    url = f"lmdb:{tmp_path}/online"
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = -1
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged >= after:
                writer.send_signal(signal.SIGKILL)
                break
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\\n"))])
    store = open_online(url)
    lengths = {len(rows_of(store, f"N{key}")) for key in range(25)}
    assert len(lengths) == 1
    (length,) = lengths
    assert length % 40 == 0
    assert length >= 40 * (acknowledged + 1)
    assert length <= 40 * (
        acknowledged + 2
    )  # at most the one batch that was written and not yet acknowledged
    store.close()


def test_readers_in_other_processes_see_only_whole_batches_while_one_writes(tmp_path: Path) -> None:
    url = f"lmdb:{tmp_path}/online"
    seen: list[int] = []
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        store = open_online(url, readonly=True)
        for line in writer.stdout:
            length = len(rows_of(store, "N24"))
            assert length % 40 == 0
            seen.append(length)
            if int(line) >= 30:
                writer.send_signal(signal.SIGKILL)
                break
    store.close()
    assert seen == sorted(seen)
    assert seen[-1] >= 40 * 30
