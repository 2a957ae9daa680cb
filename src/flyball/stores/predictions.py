"""Predictions as tables: compaction of closed log segments to Parquet, and one reader over both.

A part is named by the segment it came from, written beside and renamed, and the segment goes only afterwards; so a
compaction killed at any instant is simply done again, and a reader that looks at segments first, then at parts, misses
nothing. A prediction that was sent twice (a client's retry) counts once: the first record stays.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import polars as pl
from blake3 import blake3

from flyball.core.clock import from_us, to_us
from flyball.core.hashing import digest_file
from flyball.core.ids import time_of
from flyball.errors import Invalid, NotFound
from flyball.stores.prediction_log import (
    Label,
    Prediction,
    Record,
    Shadow,
    damaged,
    is_closed,
    load_cursor,
    read_from,
    segments,
)

log = logging.getLogger(__name__)
_packed = msgspec.msgpack.Encoder().encode
_INTS, _FLOATS = pl.List(pl.Int64), pl.List(pl.Float64)
PREDICTIONS: dict[str, Any] = {
    "id": pl.String,
    "at_us": pl.Int64,
    "endpoint": pl.String,
    "assigned": pl.String,
    "arm": pl.String,
    "rho": pl.Float64,
    "model": pl.String,
    "output": pl.Float64,
    "features": _FLOATS,
    "times_us": _INTS,
    "entities": pl.String,  # JSON
    "fallback": pl.Boolean,
    "error": pl.String,
    "latency_us": pl.Int64,
    "candidate_latency_us": pl.Int64,
    "generation": pl.Int64,
    "pid": pl.Int64,
    "seal": pl.String,  # digest of the record as it was written; recomputed by `seal_of`
}
SHADOWS: dict[str, Any] = {
    "id": pl.String,
    "at_us": pl.Int64,
    "endpoint": pl.String,
    "model": pl.String,
    "output": pl.Float64,
    "error": pl.String,
    "latency_us": pl.Int64,
}
LABELS: dict[str, Any] = {
    "id": pl.String,
    "value": pl.Float64,
    "known_us": pl.Int64,
    "received_us": pl.Int64,
}


class Compacted(msgspec.Struct, frozen=True):
    """What one compaction did."""

    segments: int
    records: int
    left: int  # segments still written, or not yet read by a named tail


def table_of(records: Sequence[Record], kind: type[Record]) -> pl.DataFrame:
    """The records of one kind as a frame, in the order given."""
    schema = {Prediction: PREDICTIONS, Shadow: SHADOWS, Label: LABELS}[kind]
    chosen = [record for record in records if type(record) is kind]
    columns: dict[str, Any] = {
        name: [getattr(record, name) for record in chosen] for name in schema if name != "seal"
    }
    if kind is Prediction:
        columns["seal"] = [_seal(record) for record in chosen if isinstance(record, Prediction)]
        encode = msgspec.json.Encoder().encode
        columns["entities"] = [encode(entities).decode() for entities in columns["entities"]]
        columns["features"] = _lists(columns["features"], pl.Float64)
        columns["times_us"] = _lists(columns["times_us"], pl.Int64)
    return pl.DataFrame(columns, schema=schema)


def _seal(record: Prediction) -> str:
    return "b3:" + blake3(_packed(record)).hexdigest()


def seal_of(row: dict[str, Any]) -> str:
    """The seal that this row's content has now; it differs from ``row["seal"]`` when one stored byte was changed."""
    return _seal(Prediction(**{name: row[name] for name in PREDICTIONS if name != "seal"}))


def _lists(rows: list[list[Any]], of: type[pl.DataType]) -> pl.Series:
    """A column of lists; by way of one flat column when all are equally long, which is six times faster."""
    width = len(rows[0]) if rows else 0
    if not width or any(len(row) != width for row in rows):
        return pl.Series(rows, dtype=pl.List(of))
    flat = pl.Series(list(chain.from_iterable(rows)), dtype=of)
    return flat.reshape((len(rows), width)).arr.to_list()


def compact(log_dir: Path, tables: Path | str, *, also_behind: Iterable[dict[str, int]] = ()) -> Compacted:
    """Turn closed segments into Parquet, partitioned by endpoint and day; then remove them.

    Left alone: segments that a living process writes, and those that a saved cursor (of a named tail, or given in
    ``also_behind``) has not read to their end.
    """
    root = _folder(tables)
    cursors = [load_cursor(file) for file in sorted(log_dir.glob("cursors/*.json"))] + list(also_behind)
    done = records = left = 0
    for segment in segments(log_dir):
        if not is_closed(segment):
            left += 1
            continue
        found, read_to = read_from(segment)
        if any(cursor.get(segment.name, 0) < read_to for cursor in cursors):
            left += 1
            continue
        _write_parts(found, root, segment.stem)
        if damaged(
            segment.read_bytes()
        ):  # what could be read is in the tables; the bytes stay for whoever mends them
            log.error("segment %s has changed since it was written; it is kept as it is", segment.name)
            segment.replace(segment.with_suffix(".damaged"))
        else:
            segment.unlink()
        done, records = done + 1, records + len(found)
    for staged in log_dir.glob(".*.wal"):  # left by a process killed while it opened a segment
        if is_closed(staged) and staged.stat().st_size == 0:
            staged.unlink(missing_ok=True)
    return Compacted(done, records, left)


def _write_parts(records: Sequence[Record], root: Path, stem: str) -> None:
    places: dict[Path, list[Record]] = defaultdict(list)
    for record in records:
        places[root / _place(record)].append(record)
    for place, chosen in places.items():
        place.mkdir(parents=True, exist_ok=True)
        staged = place / f".{stem}.{os.getpid()}"
        with staged.open("wb") as file:
            table_of(chosen, type(chosen[0])).write_parquet(file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        (place / f"{stem}.parquet.b3").write_text(
            digest_file(staged)
        )  # before the part: a part has its digest
        staged.replace(place / f"{stem}.parquet")


def _place(record: Record) -> str:
    if isinstance(record, Label):
        return f"labels/day={_day(record.received_us)}"
    noun = "predictions" if isinstance(record, Prediction) else "shadows"
    return f"{noun}/endpoint={quote(record.endpoint, safe='')}/day={_day(record.at_us)}"


def _day(at_us: int) -> str:
    return from_us(at_us).strftime("%Y-%m-%d")


class Predictions:
    """Reads predictions, shadows and labels wherever they are by now: in segments or in Parquet."""

    def __init__(self, log_dir: Path, tables: Path | str) -> None:
        self.log_dir = log_dir
        self.root = _folder(tables)

    def scan(
        self, endpoint: str, since: datetime | None = None, until: datetime | None = None
    ) -> pl.DataFrame:
        """Predictions of ``[since, until)`` with their label, if any, ordered by time, one row per id.

        Adds ``label``, ``known_us`` and ``received_us``: the label known last wins; null while there is none.
        """
        recent, window = self._recent(), _Window(endpoint, since, until)
        rows = self._rows("predictions", PREDICTIONS, window.table_of(recent, Prediction), window)
        rows = rows.unique("id", keep="first", maintain_order=True)
        rows = rows.join(self._labels(recent), on="id", how="left", maintain_order="left")
        return rows.sort("at_us", maintain_order=True)

    def shadows(
        self, endpoint: str, since: datetime | None = None, until: datetime | None = None
    ) -> pl.DataFrame:
        """Shadow answers of ``[since, until)``, one row per prediction and model."""
        window = _Window(endpoint, since, until)
        rows = self._rows("shadows", SHADOWS, window.table_of(self._recent(), Shadow), window)
        rows = rows.unique(["id", "model"], keep="first", maintain_order=True)
        return rows.sort("at_us", maintain_order=True)

    def labels(self) -> pl.DataFrame:
        """All labels, one row per prediction id: ``id, label, known_us, received_us``."""
        return self._labels(self._recent())

    def endpoints(self) -> list[str]:
        """Endpoints that ever answered."""
        found = {record.endpoint for record in self._recent() if isinstance(record, Prediction)}
        for file in (self.root / "predictions").glob("endpoint=*"):
            part = next(file.glob("day=*/*.parquet"), None)
            if part is not None:
                found.add(pl.read_parquet(part, columns=["endpoint"], n_rows=1).item())
        return sorted(found)

    def answers(self) -> pl.DataFrame:
        """How many predictions each model answered at each endpoint: ``endpoint, model, predictions, first_us, last_us``."""
        columns = ["id", "endpoint", "model", "at_us"]
        rows = table_of(self._recent(), Prediction).select(columns).lazy()
        parts = self._parts("predictions", "*")
        if parts:
            rows = pl.concat([pl.scan_parquet(parts).select(columns), rows])
        rows = rows.unique("id")  # a client's retry, and a segment compacted while we looked, count once
        counted = rows.group_by("endpoint", "model").agg(
            pl.len().alias("predictions"),
            pl.col("at_us").min().alias("first_us"),
            pl.col("at_us").max().alias("last_us"),
        )
        return counted.sort("endpoint", "model").collect()

    def records(self, endpoint: str, since: datetime) -> list[Record]:
        """What happened at an endpoint since then, as the log's own records: for whoever starts to follow it.

        Labels come last; those of predictions before ``since`` are among them.
        """
        found: list[Record] = []
        for row in self.scan(endpoint, since).iter_rows(named=True):
            row["entities"] = msgspec.json.decode(row["entities"])
            found.append(Prediction(**{name: row[name] for name in PREDICTIONS if name != "seal"}))
        found += [Shadow(**row) for row in self.shadows(endpoint, since).iter_rows(named=True)]
        labels = self.labels().select("id", "label", "known_us", "received_us")
        found += [Label(*row) for row in labels.iter_rows()]
        return found

    def find(self, prediction_id: str) -> dict[str, Any]:
        """One prediction by its id, with its label and its shadows; the entities are a dict.

        An id of ours holds its time, so only the days around it are read; any other id costs a look at every day.
        """
        recent = self._recent()
        mine = [record for record in recent if record.id == prediction_id]
        row = self._find(prediction_id, table_of(mine, Prediction))
        if row is None:
            raise NotFound(
                f"no prediction {prediction_id!r}",
                "an answer of POST /predict carries its id; flyball predict prints it",
                id=prediction_id,
            )
        row["entities"] = msgspec.json.decode(row["entities"])
        labels = self._labels(mine).filter(pl.col("id") == prediction_id).to_dicts()
        row |= labels[0] if labels else {"label": None, "known_us": None, "received_us": None}
        around = from_us(row["at_us"])
        shadows = self.shadows(row["endpoint"], around, around + timedelta(microseconds=1))
        row["shadows"] = shadows.filter(pl.col("id") == prediction_id).to_dicts()
        return row

    def _find(self, prediction_id: str, recent: pl.DataFrame) -> dict[str, Any] | None:
        wanted = pl.col("id") == prediction_id
        found = recent.filter(wanted)
        for parts in self._parts_to_try(prediction_id):
            if parts:
                found = pl.concat([pl.scan_parquet(parts).filter(wanted).collect(), found])
            if found.height:
                return found.row(0, named=True)
        return None

    def changed(self, prediction_id: str) -> list[str]:
        """Files that may hold this prediction, its label or shadows and are not what was written; none is opened."""
        days = {part.parent.name for part in next(iter(self._parts_to_try(prediction_id)))}
        nouns = ("predictions", "shadows", "labels")
        kept = sorted(file for noun in nouns for file in (self.root / noun).rglob("*.parquet.b3"))
        parts = {file.with_suffix("") for file in kept}
        parts |= {part for noun in nouns for part in (self.root / noun).rglob("*.parquet")}
        waiting = {
            segment.stem for segment in segments(self.log_dir)
        }  # a compaction killed in the middle begins again
        found = []
        for part in sorted(parts):
            if part.relative_to(self.root).parts[0] != "labels" and days and part.parent.name not in days:
                continue
            if not part.is_file():
                if part.stem not in waiting:
                    found.append(f"{part.relative_to(self.root)} is gone")
                continue
            digest = part.with_name(f"{part.name}.b3")
            if not digest.is_file() or digest.read_bytes() != digest_file(part).encode():
                found.append(f"{part.relative_to(self.root)} has changed")
        found += [f"{segment.name} has changed" for segment in sorted(self.log_dir.glob("*.damaged"))]
        for segment in segments(self.log_dir):
            if damaged(segment.read_bytes()):
                found.append(f"{segment.name} has changed")
        return found

    def _parts_to_try(self, prediction_id: str) -> Iterable[list[Path]]:
        try:
            at = time_of(prediction_id.partition(".")[0])
            days = {f"day={at + timedelta(days=shift):%Y-%m-%d}" for shift in (-1, 0, 1)}
        except (Invalid, OverflowError):
            days = set()
        every = self._parts("predictions", "*")
        yield [part for part in every if part.parent.name in days]
        yield every

    def _recent(self) -> list[Record]:
        records: list[Record] = []
        for segment in segments(self.log_dir):
            try:
                records += read_from(segment)[0]
            except (
                FileNotFoundError
            ):  # compacted since we listed it: its part is read later, so nothing is missed
                continue
        return records

    def _parts(self, noun: str, endpoint: str) -> list[Path]:
        return sorted(
            (self.root / noun).glob(f"endpoint={endpoint}/day=*/*.parquet"),
            key=lambda part: (part.parent.name, part.name),
        )

    def _rows(self, noun: str, schema: dict[str, Any], recent: pl.DataFrame, window: _Window) -> pl.DataFrame:
        parts = [part for part in self._parts(noun, quote(window.endpoint, safe="")) if window.has_day(part)]
        old = pl.scan_parquet(parts).filter(window.wanted).collect() if parts else pl.DataFrame(schema=schema)
        return pl.concat([old, recent])

    def _labels(self, recent: Sequence[Record]) -> pl.DataFrame:
        parts = sorted((self.root / "labels").glob("day=*/*.parquet"))
        old = pl.read_parquet(parts) if parts else pl.DataFrame(schema=LABELS)
        both = pl.concat([old, table_of(recent, Label)]).rename({"value": "label"})
        return both.sort("known_us", "received_us", maintain_order=True).unique(
            "id", keep="last", maintain_order=True
        )


class _Window:
    """One endpoint, from when (included) until when (not): for records, for frames and for days."""

    def __init__(self, endpoint: str, since: datetime | None, until: datetime | None) -> None:
        self.endpoint = endpoint
        self.from_us = -(2**62) if since is None else to_us(since)
        self.until_us = 2**62 if until is None else to_us(until)
        self._first = "" if since is None else f"day={_day(self.from_us)}"
        self._last = "day=~" if until is None else f"day={_day(self.until_us)}"
        self.wanted = (
            (pl.col("endpoint") == endpoint)
            & (pl.col("at_us") >= self.from_us)
            & (pl.col("at_us") < self.until_us)
        )

    def has_day(self, part: Path) -> bool:
        return self._first <= part.parent.name <= self._last

    def table_of(self, records: Sequence[Record], kind: type[Prediction] | type[Shadow]) -> pl.DataFrame:
        chosen: list[Record] = [
            record
            for record in records
            if isinstance(record, kind)
            and record.endpoint == self.endpoint
            and self.from_us <= record.at_us < self.until_us
        ]
        return table_of(chosen, kind)


def _folder(tables: Path | str) -> Path:
    text = str(tables)
    if "://" in text and not text.startswith("file:"):
        raise Invalid(
            f"the prediction log is not yet kept at {text!r}",
            'set stores.tables to a local folder, like "file:.flyball/tables"',
        )
    return Path(text.removeprefix("file:").removeprefix("//"))
