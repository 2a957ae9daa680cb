"""Any sequence of add, change, forget, collect, check out and kill -9 gives back the exact bytes of every named snapshot."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flyball.core.records import Snapshot
from flyball.service.gc import gc
from flyball.service.workspace import Workspace
from flyball.stores.pack_index import InMemory, rebuild
from flyball.versions import data, naming

SIZES = st.sampled_from([0, 1, 100, 5_000, 40_000, 140_000, 700_000])


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Snapshots(RuleBasedStateMachine):
    """A folder that is changed and added, beside a plain copy of what each snapshot must give back."""

    @initialize(many=st.booleans())
    def begin(self, many: bool) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="flyball-property-"))
        (self.root / "flyball.toml").write_text("")
        self.ws = Workspace.open(self.root)
        self.raw = self.root / "raw"
        self.raw.mkdir()
        self.expected: dict[str, dict[str, bytes]] = {}
        for number in range(40 if many else 3):
            (self.raw / f"{number}.bin").write_bytes(noise(number, 50 * number))

    def teardown(self) -> None:
        if hasattr(self, "ws"):
            self.ws.ledger.close()
            shutil.rmtree(self.root)

    @rule(number=st.integers(0, 4), size=SIZES, seed=st.integers(0, 5))
    def write(self, number: int, size: int, seed: int) -> None:
        (self.raw / f"{number}.bin").write_bytes(noise(seed, size))

    @rule(number=st.integers(0, 4), at=st.floats(0, 1), seed=st.integers(0, 99))
    def insert(self, number: int, at: float, seed: int) -> None:
        path = self.raw / f"{number}.bin"
        before = path.read_bytes() if path.exists() else b""
        cut = int(at * len(before))
        path.write_bytes(before[:cut] + noise(seed, 30) + before[cut:])

    @rule(number=st.integers(1, 4))
    def remove(self, number: int) -> None:
        (self.raw / f"{number}.bin").unlink(missing_ok=True)

    @rule(name=st.sampled_from(["a", "b"]), whole=st.sampled_from([False, False, True]))
    def add(self, name: str, whole: bool) -> None:
        if not any(self.raw.iterdir()):
            return
        kept = data.add(self.ws.ledger, self.ws.blobs, name, self.raw, actor="x", whole=whole)
        self.expected[kept.ref] = {one.name: one.read_bytes() for one in self.raw.iterdir()}

    @precondition(lambda self: self.expected)
    @rule(pick=st.randoms(use_true_random=False))
    def forget(self, pick: random.Random) -> None:
        ref = pick.choice(sorted(self.expected))
        naming.forget(self.ws.ledger, ref, actor="x", even_if_used=True)
        del self.expected[ref]

    @rule()
    def collect(self) -> None:
        gc(older_than="0s", ws=self.ws)
        needed = data.reach(self.ws.ledger, self.ws.blobs)
        left = set(self.ws.blobs.ls())
        assert needed <= left
        # A file that one snapshot has in packs, and a forgotten one had whole, may stay whole: lineage names its bytes.
        named = {
            one.digest for ref in self.expected for one in data.use(self.ws.ledger, self.ws.blobs, ref).files
        }
        assert left - needed <= named

    @rule()
    def lose_the_index(self) -> None:
        for place in (self.ws.state / "cache").glob("tracked/*"):
            place.unlink()
        self.ws.blobs.state = (
            self.ws.state / f"other-{time.monotonic_ns()}"
        )  # another machine's: it knows nothing

    @precondition(lambda self: self.expected)
    @rule(pick=st.randoms(use_true_random=False))
    def check_out(self, pick: random.Random) -> None:
        ref = pick.choice(sorted(self.expected))
        out = self.root / "out"
        data.use(self.ws.ledger, self.ws.blobs, ref).checkout(out)
        for path, content in self.expected[ref].items():
            assert (out / path).read_bytes() == content

    @invariant()
    def every_named_snapshot_gives_its_bytes_back(self) -> None:
        if not hasattr(self, "ws"):
            return
        named = {one.ref for one in self.ws.ledger.ls("snapshot", Snapshot) if not one.forgotten}
        assert named == set(self.expected)
        for ref, files in self.expected.items():
            content = data.use(self.ws.ledger, self.ws.blobs, ref)
            assert {one.path: content.read(one.path) for one in content.files} == files


TestSnapshots = Snapshots.TestCase
TestSnapshots.settings = settings(
    max_examples=12,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)

_CHILD = """
import random, sys
from pathlib import Path
from flyball.service.gc import gc
from flyball.service.workspace import Workspace
from flyball.versions import data
root, seed = Path(sys.argv[1]), int(sys.argv[2])
ws = Workspace.open(root)
dice = random.Random(seed)
print("ready", flush=True)
for turn in range(1000):
    content = random.Random(seed * 1000 + turn)
    large = content.randbytes(9_000_000) if turn % 3 == 0 else content.randbytes(300_000)
    for number in range(40):
        (root / f"raw/{number}.bin").write_bytes(content.randbytes(500))
    (root / "raw/large.bin").write_bytes(large)
    kept = data.add(ws.ledger, ws.blobs, f"s{seed}-{turn}", root / "raw", actor="child")
    print(kept.ref, flush=True)
    if turn % 2:
        gc(older_than="0s", ws=ws)
    data.use(ws.ledger, ws.blobs, kept.ref).checkout(root / "out")
"""


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(after_s=st.lists(st.floats(0.02, 0.9), min_size=2, max_size=3))
def test_a_process_killed_anywhere_leaves_whole_snapshots_or_none(after_s: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "flyball.toml").write_text("")
        (root / "raw").mkdir()
        said: list[str] = []
        for seed, wait_s in enumerate(after_s):
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, folder, str(seed)], stdout=subprocess.PIPE, text=True
            )
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            time.sleep(wait_s)  # the kill is the test: it may come anywhere
            child.send_signal(signal.SIGKILL)
            said += child.stdout.read().split("\n")[:-1]
            child.wait()
            child.stdout.close()
        ws = Workspace.open(root)
        found = {one.ref: one for one in ws.ledger.ls("snapshot", Snapshot)}
        assert set(said) <= set(found)  # nothing acknowledged is lost
        for _ in range(2):  # before and after a collection
            for ref, snapshot in found.items():
                seed, turn = ref.partition("@")[0][1:].split("-")
                content = random.Random(int(seed) * 1000 + int(turn))
                large = content.randbytes(9_000_000 if int(turn) % 3 == 0 else 300_000)
                small = {f"{number}.bin": content.randbytes(500) for number in range(40)}
                held = data.use(ws.ledger, ws.blobs, ref)
                assert {one.path: held.read(one.path) for one in held.files} == {**small, "large.bin": large}
                assert data.problems_of(ws.blobs, snapshot) == []
            gc(older_than="0s", ws=ws)
        assert set(ws.blobs.ls()) == data.reach(ws.ledger, ws.blobs)
        anew = InMemory()
        rebuild(ws.blobs, anew)
        ws.ledger.close()
