"""One changed byte of the prediction log is named, wherever it lies; a healthy log is not."""

from __future__ import annotations

from pathlib import Path

from flyball.stores.prediction_log import Label, LogWriter, Prediction, Shadow
from flyball.stores.predictions import Predictions, compact


def a_log(folder: Path) -> Path:
    writer = LogWriter(folder / "log")
    for number in range(20):
        at = 1_364_774_400_000_000 + number
        writer.append(
            [
                Prediction(
                    id=f"r{number}", at_us=at, endpoint="e", assigned="m@1", arm="champion", rho=0.0, model="m@1",
                    output=0.5, features=[1.0], times_us=[None], entities={},
                ),
                Shadow(id=f"r{number}", at_us=at, endpoint="e", model="m@2", output=0.4),
                Label(id=f"r{number}", value=1.0, known_us=at, received_us=at),
            ]
        )  # fmt: skip
    writer.close()
    return folder / "log"


def test_a_flipped_byte_of_any_part_is_named(tmp_path: Path) -> None:
    log = a_log(tmp_path)
    assert compact(log, tmp_path / "tables").segments == 1
    reader = Predictions(log, tmp_path / "tables")
    assert reader.changed("r3") == []
    parts = sorted((tmp_path / "tables").rglob("*.parquet"))
    assert len(parts) == 3
    for part in parts:
        data = part.read_bytes()
        for place in range(0, len(data), 97):
            part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            assert reader.changed("r3") == [f"{part.relative_to(tmp_path / 'tables')} has changed"]
        part.write_bytes(data)
    assert reader.changed("r3") == []


def test_a_flipped_byte_of_a_segment_is_named_and_compaction_keeps_what_it_can_and_the_bytes(
    tmp_path: Path,
) -> None:
    log = a_log(tmp_path)
    reader = Predictions(log, tmp_path / "tables")
    assert reader.changed("r3") == []
    (segment,) = log.glob("*.wal")
    data = segment.read_bytes()
    place = len(data) // 4
    segment.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    assert reader.changed("r3") == [f"{segment.name} has changed"]
    assert compact(log, tmp_path / "tables").records == 59
    assert [file.suffix for file in log.iterdir() if file.is_file() and not file.name.startswith(".")] == [
        ".damaged"
    ]
    assert len(reader.changed("r3")) == 1
