"""Verbs that fill the online store: materialize what the offline tables hold, push what just arrived; and what came in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from flyball.core.ids import new_id
from flyball.core.records import Report
from flyball.errors import Invalid, NotFound, Refused, Unavailable, nearest
from flyball.service.feeds import Feed, Ingested, To, contracts_of, prepared
from flyball.service.verb import CURRENT, verb
from flyball.service.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

    from flyball.features.definitions import View
    from flyball.features.statistics import Statistics

KIND = "features.materialized"
Done = Callable[[int, int], None]
_STREAMS = ("kafka", "nats", "amqp", "amqps", "redis", "rediss")


class Materialized(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one view."""

    view: str
    rows: int = 0  # read from the source
    new: int = 0  # were not online before
    until: datetime | None = None  # filled up to this known time
    held_back: int = 0  # known later than now allows: taken when their time has come
    note: str = ""
    report: str | None = None


@verb("features materialize")
def materialize(
    name: str = "",
    since: str = "",
    until: str = "",
    data: str = "",
    rebuild: bool = False,
    tolerance: str = "60s",
    compute: str = "",
    *,
    ws: Workspace = CURRENT,
) -> list[Materialized]:
    """Bring online what views' sources hold and the store does not: one view, several (``a,b``), or all.

    Goes on where the last run ended, killed or not, and may be repeated. --since and --until back-fill a range of known
    times, --data NAME@N takes a snapshot, --rebuild empties the view first (a corrupt store, a source that was
    rewritten). Rows known later than now and --tolerance are held back. A batch that breaks the contract of the source
    or the view stays out, and the filling of that view ends there. --compute ray (or processes:4) fills a view whose rows
    are too many for one machine (or process), split by entity.
    """
    begin, end = _when(since), _when(until)
    if begin is not None and end is not None and begin > end:
        raise Invalid(f"the range ends at {until}, before it begins at {since}", "swap them", field="since")
    found = [
        _materialize(ws, view, _Asked(since, until, data, rebuild, tolerance, compute), done)
        for view, done in _shown(_named(ws, name))
    ]
    refused = [one for one in found if one.note.startswith(_BROKEN)]
    if refused:
        raise Refused(
            f"{refused[0].view}: {refused[0].note}",
            "what was online goes on serving; mend the source and run it again",
            report=refused[0].report,
            views=msgspec.to_builtins(found),
        )
    return found


@verb("features push", local=("file",))
def push(
    name: str,
    rows: list[dict[str, Any]] | dict[str, Any] | None = None,
    file: str = "",
    to: str = "online_and_offline",
    batch: str = "",
    tolerance: str = "60s",
    *,
    ws: Workspace = CURRENT,
) -> Ingested:
    """Take rows of a source (or of the source of a view) as they arrive: offline and online, all or none.

    Rows are JSON objects, ``--rows user=u1 --rows amount=5`` (one row), or a --file (.parquet, .csv, .json, .ndjson). A
    --batch with a name may be sent again: it is taken once. Rows known later than now and --tolerance are refused.
    """
    if to not in get_args(To):
        raise Invalid(f"--to {to}: there is no such side", f"one of {', '.join(get_args(To))}")
    feed = Feed(ws, _source_of(ws, name))
    frame = _frame(feed, _given(rows, file), texts=isinstance(rows, dict))
    now = ws.clock.now()
    _refuse_future(feed, frame, now + _duration(tolerance))
    taken = feed.ingest(frame, now=now, to=to, batch=batch, durable=True)  # type: ignore[arg-type]  # checked above
    if not taken.accepted:
        raise Refused(
            f"{taken.source} broke its contract: {taken.because}",
            f"the {taken.rows} rows are set aside, none is used; flyball incidents ls",
            report=taken.report,
        )
    return taken


@verb("features stats", reads=True)
def stats(view: str, last: int = 5, *, ws: Workspace = CURRENT) -> list[dict[str, Any]]:
    """Show what the last fillings of a view brought, newest first: rows, keys, nulls, means and quantiles by column."""
    _named(ws, view)
    reports = [one for one in ws.ledger.ls("report", Report) if one.kind == KIND and one.subject == view]
    rows = []
    for report in sorted(reports, key=lambda one: (one.at, one.id), reverse=True)[:last]:
        facts = report.evidence
        for column in facts["columns"] or [{"column": ""}]:
            quantiles = column.pop("quantiles", {})
            head = {"at": report.at, "rows": facts["rows"], "keys": facts["keys"], "newest": facts["newest"]}
            rows.append({**head, **column, **quantiles})
    return rows


_BROKEN = "contract broken: "


class _Asked(msgspec.Struct, frozen=True):
    since: str
    until: str
    data: str
    rebuild: bool
    tolerance: str
    compute: str = ""


class _BrokenError(Exception):
    """A batch breaks a contract; raised through the filling, which ends there."""


def _materialize(ws: Workspace, view: View, asked: _Asked, done: Done) -> Materialized:
    from flyball.features.statistics import Statistics

    statistics = Statistics(view)
    follows = _is_fed(ws, view) and not (asked.since or asked.until or asked.data)
    found = (_follow if follows else _fill)(ws, view, asked, statistics, done)
    if statistics.rows == 0:
        return found
    return msgspec.structs.replace(found, report=found.report or _report(ws, view, statistics, found))


def _empty(ws: Workspace, view: View) -> None:
    """Forget a view. An LMDB store that is not whole is set aside instead; its marks with it, so all views begin anew."""
    from flyball.stores.online_check import check, set_aside

    if ws.online_url.startswith("lmdb:"):
        try:
            check(ws.online_url)
        except Unavailable:
            ws.__dict__.pop("online", None)
            set_aside(ws.online_url)
    ws.online.clear(view.stored_as)


def _follow(ws: Workspace, view: View, asked: _Asked, statistics: Statistics, done: Done) -> Materialized:
    """Of a feed: the offline files that are not online yet, by their numbers. Nothing can be late for that."""
    feed = Feed(ws, view.source)
    with feed.files.held():
        if asked.rebuild:
            _empty(ws, view)
        (landed,) = feed.catch_up(view, statistics.add)
        mark = feed.followed(view)
    done(statistics.rows, statistics.rows)
    note = f"{mark.late} of all {mark.rows} rows came after a later one" if mark.late else ""
    return Materialized(view=view.name, rows=landed.new + landed.duplicates, new=landed.new, note=note)


def _fill(ws: Workspace, view: View, asked: _Asked, statistics: Statistics, done: Done) -> Materialized:
    """Of a table: by known time, from the mark on."""
    from flyball.core.clock import from_us
    from flyball.features.filling import fill
    from flyball.features.reach import Mark
    from flyball.service import quarantine

    now = ws.clock.now()
    rows = _table(ws, view, asked.data)
    if asked.rebuild:
        _empty(ws, view)
    if asked.compute:
        return _fill_by_many(ws, view, rows, asked, statistics, done)
    broken: list[tuple[str, str]] = []
    try:
        found = fill(
            view,
            rows,
            ws.online,
            since=_when(asked.since),
            until=_when(asked.until),
            latest=now + _duration(asked.tolerance),
            check=_check(ws, view, now, broken),
            seen=statistics.add,
            progress=done,
        )
    except _BrokenError:
        ((because, report),) = broken
        mark = Mark.of(view, ws.online)
        until = None if mark is None else from_us(mark.until_us)
        return Materialized(
            view=view.name, rows=statistics.rows, until=until, note=_BROKEN + because, report=report
        )
    if found.rows and view.source in contracts_of(ws):
        quarantine.release(ws, view.source, f"{found.rows} rows keep the contract", now)
    hint = f"; flyball features materialize {view.name} --rebuild" if found.behind else ""
    return Materialized(
        view=view.name,
        rows=found.rows,
        new=found.new,
        until=None if found.until_us is None else from_us(found.until_us),
        held_back=found.held_back,
        note=found.behind + hint,
    )


def _fill_by_many(
    ws: Workspace, view: View, rows: pl.LazyFrame, asked: _Asked, statistics: Statistics, done: Done
) -> Materialized:
    """By the workers of a cluster, or processes; contracts are held batch by batch, which these do not have."""
    from flyball.core.clock import from_us
    from flyball.features.distributed import fill

    for name in (view.source, view.base_name):
        if name in contracts_of(ws):
            raise Invalid(
                f"{name!r} has a contract, which is held batch by batch",
                "fill it without --compute",
                view=view.name,
            )
    found = fill(
        view,
        rows,
        ws.online_url,
        compute=asked.compute,
        since=_when(asked.since),
        until=_when(asked.until),
        latest=ws.clock.now() + _duration(asked.tolerance),
        statistics=statistics,
    )
    done(found.rows, found.rows)
    return Materialized(
        view=view.name,
        rows=found.rows,
        new=found.new,
        until=None if found.until_us is None else from_us(found.until_us),
        held_back=found.held_back,
        note=found.behind,
    )


def _check(
    ws: Workspace, view: View, now: datetime, broken: list[tuple[str, str]]
) -> Callable[[pl.DataFrame], None] | None:
    """Hold a batch against the contracts of the source and the view before it goes online."""
    from flyball.checks.expectations import validate
    from flyball.service import quarantine

    defined = contracts_of(ws)
    contracts = [defined[name] for name in dict.fromkeys((view.source, view.base_name)) if name in defined]
    if not contracts:
        return None

    def check(batch: pl.DataFrame) -> None:
        for contract in contracts:
            rows = batch if contract.name == view.source else prepared(view, batch)
            result = validate(rows, contract, now=now)
            if not result.passed:
                broken.append(quarantine.set_aside(ws, view.source, result, now))
                raise _BrokenError

    return check


def _report(ws: Workspace, view: View, statistics: Statistics, found: Materialized) -> str:
    from flyball.core.clock import from_us
    from flyball.features.statistics import as_evidence

    now = ws.clock.now()
    facts = as_evidence(statistics)
    newest = facts.pop("newest_us")
    newest = None if newest is None else from_us(newest).isoformat()
    report = Report(
        id=new_id("rep", now),
        kind=KIND,
        subject=view.name,
        at=now,
        passed=not found.note,
        summary=found.note or f"{found.rows} rows of {statistics.keys} keys, {found.new} new",
        evidence={
            **facts,
            "newest": newest,
            "new": found.new,
            "stored_as": view.stored_as,
            "digest": view.digest,
        },
        until=found.until,
    )
    with ws.ledger.transaction() as tx:
        tx.append(KIND, view.name, actor=ws.actor, at=now, sets=[("report", report.id, report)])
    return report.id


def _named(ws: Workspace, names: str) -> list[View]:
    """The views named, or all that must be online."""
    from flyball.features.definitions import View
    from flyball.service.features import known, live_views

    asked = [one.strip() for one in names.split(",") if one.strip()]
    if not asked or asked == ["all"]:
        return live_views(ws)
    defined = {key: one for key, one in known(ws, asked).items() if isinstance(one, View)}
    for one in asked:
        if one not in defined:
            raise NotFound(f"no view {one!r}", nearest(one, list(defined)))
    return [defined[one] for one in dict.fromkeys(asked)]


def _source_of(ws: Workspace, name: str) -> str:
    from flyball.service.features import sources, views

    defined = views(ws)
    if name in sources(ws) or name in {view.source for view in defined.values()}:
        return name
    return defined[name].source if name in defined else name  # a feed of that name says what there is


def _is_fed(ws: Workspace, view: View) -> bool:
    """Whether a view's rows come by push or stream: then their files are what it follows."""
    from flyball.service.features import sources

    source = sources(ws).get(view.source)
    scheme = source.url.partition(":")[0] if source is not None else ""
    if scheme in ("push", *_STREAMS):
        return True
    return not scheme and bool(ws.tables.at(f"sources/{view.source}").files())


def _table(ws: Workspace, view: View, data: str) -> pl.LazyFrame:
    from flyball.versions import data as snapshots

    if data:
        return snapshots.use(ws.ledger, ws.blobs, data).frame().lazy()
    from flyball.service.sources import offline

    return offline(ws, view)


def _given(rows: list[dict[str, Any]] | dict[str, Any] | None, file: str) -> Any:
    nothing = rows is None or (isinstance(rows, Mapping) and not rows)  # a frame has no truth of its own
    if nothing == (not file):
        raise Invalid("push takes rows or a file", "--file rows.parquet, or rows as a list of objects")
    if not file:
        return [rows] if isinstance(rows, Mapping) else rows
    import polars as pl

    readers: dict[str, Callable[..., pl.DataFrame]] = {
        "parquet": pl.read_parquet, "csv": pl.read_csv, "json": pl.read_json, "ndjson": pl.read_ndjson, "jsonl": pl.read_ndjson,
    }  # fmt: skip
    kind = file.rpartition(".")[2]
    if kind not in readers:
        raise Invalid(f"{file} has an unknown kind {kind!r}", f"known: {', '.join(readers)}")
    try:
        return readers[kind](file, **({"try_parse_dates": True} if kind == "csv" else {}))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Invalid(f"{file} can't be read: {error}", "name a file of rows") from error


def _frame(feed: Feed, rows: Any, *, texts: bool) -> pl.DataFrame:
    """Rows as a frame: JSON by the schema of the source's views, which a command line's ``texts`` only spell; a frame as
    it is, texts that should be times read.
    """
    import polars as pl

    from flyball.features.messages import Schema

    if not isinstance(rows, list | pl.DataFrame):
        rows = pl.DataFrame(rows)  # of pandas or Arrow
    if isinstance(rows, pl.DataFrame):
        clocks = {name for view in feed.views for name in (view.happened, view.known)}
        spelt = [name for name in clocks if rows.schema.get(name) == pl.String]
        return (
            rows.with_columns(pl.col(spelt).str.to_datetime(time_unit="us", time_zone="UTC"))
            if spelt
            else rows
        )
    arrived = to_us_now(feed.ws)
    frame, bad = Schema(feed.views, feed.schema()).frame(rows, [arrived] * len(rows), texts=texts)
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise Invalid(
            f"row {bad[0].place} of {feed.source!r}: {bad[0].reason}{more}",
            "nothing was taken",
            rows=[one.place for one in bad[:100]],
        )
    return frame


def to_us_now(ws: Workspace) -> int:
    """The workspace's time in microseconds."""
    from flyball.core.clock import to_us

    return to_us(ws.clock.now())


def _refuse_future(feed: Feed, frame: pl.DataFrame, latest: datetime) -> None:
    import polars as pl

    for name in {view.known for view in feed.views} & set(frame.columns):
        late = frame.filter(pl.col(name).cast(pl.Datetime("us")) > latest.replace(tzinfo=None))
        if late.height:
            raise Invalid(
                f"{late.height} of {frame.height} rows of {feed.source!r} are known in the future: {name} is up to "
                f"{late[name].max()!s}",
                "the sender's clock is ahead; nothing was taken. --tolerance allows for more",
                rows=late.height,
            )


def _when(text: str) -> datetime | None:
    from flyball.service.serving import parse_when

    return parse_when(text) if text else None


def _duration(text: str) -> timedelta:
    from flyball.features.naming import seconds

    return timedelta(seconds=seconds(text))


def _shown(views: list[View]) -> Iterator[tuple[View, Done]]:
    """Each view, and what tells a person at a terminal how far it is."""
    with _bar() as show:
        for view in views:
            yield view, lambda done, total, view=view: show(view.name, done, total)  # type: ignore[misc]  # bound now


@contextmanager
def _bar() -> Iterator[Callable[[str, int, int], None]]:
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.update(tasks[name], completed=done, total=total)

        yield show
