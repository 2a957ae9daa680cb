"""Predictions as tables: compaction, killed or not, and one reader over segments and Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from flyball.core.clock import to_us
from flyball.errors import Invalid, NotFound
from flyball.serve.answering import new_id
from flyball.stores import predictions as module
from flyball.stores.prediction_log import Label, LogWriter, Prediction, Record, Shadow, Tail, segments
from flyball.stores.predictions import Predictions, compact

START = datetime(2013, 4, 1, 23, tzinfo=UTC)


def prediction(number: int, endpoint: str = "delays", **changes: object) -> Prediction:
    at_us = to_us(START + timedelta(minutes=number))
    made = Prediction(
        id=f"p_{number:03d}",
        at_us=at_us,
        endpoint=endpoint,
        assigned="delays@1",
        arm="champion",
        rho=0.1,
        model="delays@1",
        output=number / 100,
        features=[float(number), None],
        times_us=[at_us, None],
        entities={"carrier": "UA", "flight": number},
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


class Place:
    def __init__(self, root: Path) -> None:
        self.log_dir, self.tables = root / "log", root / "tables"
        self.reader = Predictions(self.log_dir, f"file:{self.tables}")

    def write(self, *records: Record) -> None:
        writer = LogWriter(self.log_dir)
        writer.append(records)
        writer.close()

    def compact(self) -> module.Compacted:
        return compact(self.log_dir, f"file:{self.tables}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_segments_and_parquet_read_the_same(place: Place) -> None:
    place.write(*map(prediction, range(120)), prediction(500, "fares/eu"), Label("p_003", 1.0, 10, 20))
    before = place.reader.scan("delays")
    assert before.height == 120
    assert before.drop("seal").row(3, named=True) | {"entities": ""} == {
        "id": "p_003",
        "at_us": to_us(START) + 180_000_000,
        "endpoint": "delays",
        "assigned": "delays@1",
        "arm": "champion",
        "rho": 0.1,
        "model": "delays@1",
        "output": 0.03,
        "features": [3.0, None],
        "times_us": [to_us(START) + 180_000_000, None],
        "entities": "",
        "fallback": False,
        "error": "",
        "latency_us": 0,
        "candidate_latency_us": None,
        "generation": 0,
        "pid": 0,
        "label": 1.0,
        "known_us": 10,
        "received_us": 20,
    }
    assert place.compact().records == 122
    assert segments(place.log_dir) == []
    assert place.reader.scan("delays").equals(before)
    days = sorted(part.parent.name for part in place.tables.glob("predictions/endpoint=delays/*/*.parquet"))
    assert days == ["day=2013-04-01", "day=2013-04-02"]
    assert place.reader.scan("fares/eu")["id"].to_list() == ["p_500"]
    assert place.reader.endpoints() == ["delays", "fares/eu"]


def test_a_window_takes_its_start_and_leaves_its_end(place: Place) -> None:
    place.write(*map(prediction, range(100)))
    for _ in range(2):
        found = place.reader.scan("delays", START + timedelta(minutes=50), START + timedelta(minutes=70))
        assert found["id"].to_list() == [f"p_{number:03d}" for number in range(50, 70)]
        place.compact()


def test_features_of_different_widths_stay_apart(place: Place) -> None:
    place.write(prediction(1), prediction(2, features=[1.0], times_us=[None]))
    assert place.reader.scan("delays")["features"].to_list() == [[1.0, None], [1.0]]


def test_a_retried_prediction_counts_once_and_the_first_stays(place: Place) -> None:
    place.write(prediction(1))
    place.write(prediction(1, output=0.9))
    assert place.reader.scan("delays")["output"].to_list() == [0.01]
    place.compact()
    place.write(prediction(1, output=0.8))
    assert place.reader.scan("delays")["output"].to_list() == [0.01]


def test_a_label_twice_counts_once_and_the_one_known_last_wins(place: Place) -> None:
    place.write(prediction(1), Label("p_001", 1.0, 100, 5), Label("p_001", 1.0, 100, 6))
    place.write(Label("p_001", 0.0, 50, 7))
    for _ in range(2):
        row = place.reader.scan("delays").row(0, named=True)
        assert (row["label"], row["known_us"], row["received_us"]) == (1.0, 100, 6)
        place.compact()
    place.write(Label("p_001", 0.0, 200, 8))
    assert place.reader.scan("delays")["label"].to_list() == [0.0]
    assert place.reader.labels().height == 1


def test_a_prediction_is_found_by_its_id_wherever_it_is(place: Place) -> None:
    ours = prediction(7)
    ours.id = new_id(ours.at_us)
    place.write(ours, prediction(8, id="order 17"), Shadow(ours.id, ours.at_us, "delays", "delays@2", 0.5))
    place.write(Label(ours.id, 1.0, 1, 2))
    for _ in range(2):
        found = place.reader.find(ours.id)
        assert (found["entities"], found["label"]) == ({"carrier": "UA", "flight": 7}, 1.0)
        assert [shadow["model"] for shadow in found["shadows"]] == ["delays@2"]
        assert place.reader.find("order 17")["label"] is None
        place.compact()
    with pytest.raises(NotFound, match="no prediction 'p_nothing'"):
        place.reader.find("p_nothing")


def test_a_segment_in_use_is_left_alone(place: Place) -> None:
    writer = LogWriter(place.log_dir)
    writer.append([prediction(1)])
    assert place.compact() == module.Compacted(0, 0, 1)
    writer.append([prediction(2)])
    writer.close()
    assert place.compact() == module.Compacted(1, 2, 0)


def test_compaction_waits_for_a_named_tail(place: Place) -> None:
    tail = Tail(place.log_dir, name="governor")
    place.write(prediction(1))
    assert place.compact().left == 1
    assert len(tail.read()) == 1
    assert place.compact().left == 1  # read, but a crash now would read it again
    tail.save()
    assert place.compact().segments == 1
    place.write(prediction(2))
    assert [record.id for record in tail.read()] == ["p_002"]


@pytest.mark.parametrize("instant", range(12))
def test_compaction_killed_at_any_instant_loses_and_doubles_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, instant: int
) -> None:
    place.write(*map(prediction, range(90)), Label("p_003", 1.0, 1, 1))
    place.write(*map(prediction, range(90, 120)), Label("p_100", 0.0, 1, 1))
    before = place.reader.scan("delays")
    steps = 0

    def dies(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            nonlocal steps
            steps += 1
            if steps > instant:
                raise KeyboardInterrupt  # nothing of ours catches it, as nothing catches SIGKILL
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", dies(Path.replace))
        patched.setattr(Path, "unlink", dies(Path.unlink))
        patched.setattr(os, "fsync", dies(os.fsync))
        with pytest.raises(KeyboardInterrupt):
            place.compact()
    assert place.reader.scan("delays").equals(before)
    place.compact()
    assert segments(place.log_dir) == []
    assert place.reader.scan("delays").equals(before)


def test_a_reader_misses_nothing_while_compaction_runs(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write(prediction(1))
    real = module.segments

    def compacted_after_the_look(folder: Path) -> list[Path]:
        found = real(folder)
        monkeypatch.setattr(module, "segments", real)
        place.compact()
        return found

    monkeypatch.setattr(module, "segments", compacted_after_the_look)
    assert place.reader.scan("delays")["id"].to_list() == ["p_001"]


def test_a_seal_shows_any_change_of_a_stored_row(place: Place) -> None:
    place.write(prediction(1))
    for _ in range(2):
        row = place.reader.find("p_001")
        assert module.seal_of(row) == row["seal"]
        for change in ({"output": 0.02}, {"features": [1.0, 0.0]}, {"model": "delays@2"}, {"entities": {}}):
            assert module.seal_of(row | change) != row["seal"]
        place.compact()


def test_records_come_back_as_they_were_written(place: Place) -> None:
    old, new = prediction(1), prediction(50)
    shadow, label = Shadow(new.id, new.at_us, "delays", "delays@2", 0.5), Label(old.id, 1.0, 1, 2)
    place.write(old, new, shadow, label)
    for _ in range(2):
        assert place.reader.records("delays", START + timedelta(minutes=10)) == [new, shadow, label]
        place.compact()


def test_nothing_yet_is_an_empty_table_with_all_columns(place: Place) -> None:
    empty = place.reader.scan("delays")
    assert empty.height == 0
    assert empty.schema["features"] == pl.List(pl.Float64)
    assert {"label", "known_us", "received_us"} <= set(empty.columns)
    assert place.reader.shadows("delays").height == 0
    assert place.reader.endpoints() == []


def test_a_remote_folder_is_refused_until_it_works(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not yet kept"):
        Predictions(tmp_path, "s3://bucket/tables")
