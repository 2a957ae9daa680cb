"""The write-ahead log of one process, and the tail that follows all of them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flyball.errors import Unavailable
from flyball.stores import prediction_log
from flyball.stores.prediction_log import (
    Label,
    LogWriter,
    Prediction,
    Record,
    Tail,
    damaged,
    frame,
    is_closed,
    segments,
)


def label(number: int) -> Label:
    return Label(f"p_{number}", float(number), number, number)


def test_a_record_is_with_the_kernel_when_append_returns(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append([label(1), label(2)])
    assert Tail(tmp_path).read() == [label(1), label(2)]
    writer.close()


def test_rotates_when_a_segment_is_full_and_keeps_the_order(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, segment_bytes=100)
    for number in range(20):
        writer.append([label(number)])
    assert len(segments(tmp_path)) > 2
    assert Tail(tmp_path).read() == [label(number) for number in range(20)]
    assert [is_closed(segment) for segment in segments(tmp_path)][-1] is False
    assert all(is_closed(segment) for segment in segments(tmp_path)[:-1])
    writer.close()
    assert all(is_closed(segment) for segment in segments(tmp_path))


def test_an_idle_segment_is_closed_by_the_timer(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, idle_s=-1.0)
    writer.append([label(1)])
    writer.tend()
    assert is_closed(segments(tmp_path)[0])
    writer.append([label(2)])
    assert len(segments(tmp_path)) == 2
    writer.close()


def test_threads_append_whole_records(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path, segment_bytes=5000)

    def write(start: int) -> None:
        for number in range(start, start + 200):
            writer.append([label(number)])

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 1000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = {record.id for record in Tail(tmp_path).read()}
    assert found == {f"p_{number}" for start in (0, 1000, 2000) for number in range(start, start + 200)}


def test_a_killed_process_leaves_a_closed_segment_with_all_it_wrote(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from flyball.stores.prediction_log import Label, LogWriter\n"
        "writer = LogWriter(Path(sys.argv[1]))\n"
        "for number in range(50): writer.append([Label(f'p_{number}', 1.0, 1, 1)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert len(Tail(tmp_path).read()) == 50
    assert is_closed(segments(tmp_path)[0])


def test_a_disk_that_fills_up_harms_no_earlier_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LogWriter(tmp_path)
    writer.append([label(1)])
    real = os.write

    def half(fd: int, data: bytes) -> int:
        return real(fd, data[: len(data) // 2])

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    for broken, said in ((half, "fitted"), (full, "No space left")):
        monkeypatch.setattr(prediction_log.os, "write", broken)
        with pytest.raises(Unavailable, match=said) as caught:
            writer.append([label(2)])
        assert "free some space" in caught.value.hint
        monkeypatch.setattr(prediction_log.os, "write", real)
    writer.append([label(3)])
    assert Tail(tmp_path).read() == [label(1), label(3)]
    writer.close()


def test_a_tail_sees_each_record_once_and_goes_on_from_its_cursor(tmp_path: Path) -> None:
    writers = [LogWriter(tmp_path, segment_bytes=150) for _ in range(2)]
    tail = Tail(tmp_path)
    seen: list[Record] = []
    for number in range(30):
        writers[number % 2].append([label(number)])
        if number % 7 == 0:
            seen += tail.read()
            tail = Tail(tmp_path, cursor=tail.cursor())
    seen += tail.read()
    assert sorted(record.id for record in seen) == sorted(f"p_{number}" for number in range(30))
    assert tail.read() == []
    for writer in writers:
        writer.close()


def test_a_named_tail_keeps_its_place(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path)
    writer.append([label(1)])
    tail = Tail(tmp_path, name="governor")
    assert tail.read() == [label(1)]
    assert Tail(tmp_path, name="governor").read() == [label(1)]  # not saved: seen again after a crash
    tail.save()
    writer.append([label(2)])
    assert Tail(tmp_path, name="governor").read() == [label(2)]
    writer.close()


def test_an_empty_or_absent_folder_has_no_records(tmp_path: Path) -> None:
    assert Tail(tmp_path / "nothing").read() == []


def test_the_log_loads_no_dataframe() -> None:
    code = "import sys, flyball.stores.prediction_log; assert not {'polars', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_flipped_bit_of_a_segment_is_damage_and_every_torn_tail_is_none() -> None:
    long = Prediction(
        "p", 1, "e", "m@1", "champion", 0.0, "m@1", 0.5, [1.0] * 40, [None] * 40, {"a": "b" * 90}
    )
    whole = frame(label(1)) + frame(long) + frame(label(2))
    for at in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            assert damaged(bytes(changed)), (at, bit)
    assert not any(damaged(whole + frame(long)[:cut]) for cut in range(len(frame(long))))
    torn = bytearray(whole + frame(long)[:100])
    torn[len(frame(label(1)) + frame(long))] ^= (
        4  # the length of the last whole frame, with a torn one behind it
    )
    assert damaged(bytes(torn))
