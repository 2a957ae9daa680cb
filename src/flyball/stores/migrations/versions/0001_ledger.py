"""Events, edges, records and leases: the first ledger."""

import sqlalchemy as sa
from alembic import op

from flyball.stores.engine import text

revision = "0001"
down_revision = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "events",
        sa.Column("seq", big, primary_key=True, autoincrement=True),
        sa.Column("id", text(40), nullable=False, unique=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("kind", text(80), nullable=False),
        sa.Column("subject", text(300), nullable=False),
        sa.Column("actor", text(300), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("sets", sa.LargeBinary, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "edges",
        sa.Column("made", text(300), primary_key=True),
        sa.Column("of", text(300), primary_key=True),
        sa.Column("role", text(80), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("noun", text(40), primary_key=True),
        sa.Column("key", text(300), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("made_seq", sa.BigInteger, nullable=False),
        sa.Column("set_seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", text(80), primary_key=True),
        sa.Column("holder", text(200), nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
    )
    for table, column in (
        ("events", "at_us"),
        ("events", "kind"),
        ("events", "subject"),
        ("edges", "of"),
        ("records", "set_seq"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column])


def downgrade() -> None:
    for table in ("leases", "records", "edges", "events"):
        op.drop_table(table)
