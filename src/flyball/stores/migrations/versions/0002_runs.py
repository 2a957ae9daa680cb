"""Tables of runs' data; what earlier runs logged in events is brought over, unsealed."""

import json
import math
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

from flyball.core.clock import to_us
from flyball.stores.engine import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    long_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "runs",
        sa.Column("id", text(40), primary_key=True),
        sa.Column("experiment", text(40), nullable=False),
        sa.Column("name", text(1000), nullable=False),
        sa.Column("pipeline", text(300), nullable=False),
        sa.Column("status", text(20), nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("ended_us", sa.BigInteger),
        sa.Column("deleted_us", sa.BigInteger),
        sa.Column("actor", text(300), nullable=False),
        sa.Column("parent", text(40), nullable=False),
        sa.Column("process", text(300), nullable=False),
    )
    op.create_table(
        "run_facts",
        sa.Column("run", text(40), primary_key=True),
        sa.Column("kind", text(8), primary_key=True),
        sa.Column("name", text(250), primary_key=True),
        sa.Column("text", long_text),
        sa.Column("number", sa.Double),
        sa.Column("step", sa.BigInteger),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("points", sa.BigInteger, nullable=False),
        sa.Column("block", sa.Integer, nullable=False),
        sa.Column("tail", sa.Integer, nullable=False),
        sa.Column("head", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_points",
        sa.Column("run", text(40), primary_key=True),
        sa.Column("name", text(250), primary_key=True),
        sa.Column("block", sa.Integer, primary_key=True),
        sa.Column("n", sa.Integer, nullable=False),
        sa.Column("least_step", sa.BigInteger, nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
        sa.Column("first_us", sa.BigInteger, nullable=False),
        sa.Column("last_us", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("before", sa.LargeBinary, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "run_summaries",
        sa.Column("run", text(40), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "artifacts",
        sa.Column("owner", text(300), primary_key=True),
        sa.Column("path", text(500), primary_key=True),
        sa.Column("digest", text(80), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    for table, columns in (
        ("runs", ["status", "process"]),
        ("runs", ["parent"]),
        ("runs", ["experiment", "started_us"]),
        ("artifacts", ["digest"]),
    ):
        op.create_index(f"ix_{table}_{'_'.join(columns)}", table, columns)
    op.create_index("ix_run_facts_number", "run_facts", ["kind", "name", "number", "run"])
    _bring_over(op.get_bind())


def downgrade() -> None:
    for table in ("artifacts", "run_summaries", "run_points", "run_facts", "runs"):
        op.drop_table(table)


def _bring_over(connection: sa.Connection) -> None:
    """Runs of the first ledger: their heads and params from the records, their metrics from the events."""
    from flyball.stores.points import series_of
    from flyball.stores.run_facts import add_points, add_texts

    records = connection.execute(sa.text("select key, content from records where noun = 'run'")).all()
    for key, content in records:
        run = json.loads(content)
        started = _us(run["started"])
        head: dict[str, Any] = {
            "id": key,
            "experiment": "0",
            "name": "",
            "pipeline": run["pipeline"],
            "status": run["status"],
            "started_us": started,
            "ended_us": _us(run["ended"]) if run.get("ended") else None,
            "actor": run["actor"],
            "parent": "",
            "process": run.get("process", ""),
        }
        table = sa.table("runs", *(sa.column(name) for name in head))
        connection.execute(table.insert().values(head))
        add_texts(connection, key, "param", run["params"], started)
        points: dict[str, list[tuple[float, int, int]]] = {}
        events = sa.text(
            "select at_us, body from events where kind = 'run.logged' and subject = :run order by seq"
        )
        for at_us, body in connection.execute(events, {"run": key}).all():
            for name, value, step in json.loads(body).get("points", ()):
                points.setdefault(name, []).append((float(value), int(step), at_us))
        for name, value in run.get("metrics", {}).items():
            if name not in points and math.isfinite(value):
                points[name] = [(value, 0, started)]
        add_points(
            connection,
            key,
            {name: series_of(*map(list, zip(*rows, strict=True))) for name, rows in points.items()},
        )


def _us(when: str) -> int:
    return to_us(datetime.fromisoformat(when))
