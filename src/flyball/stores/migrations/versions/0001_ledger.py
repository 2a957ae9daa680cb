"""Events, edges, records and leases: the first ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "events",
        sa.Column("seq", big, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(80), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("actor", sa.String(300), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("sets", sa.LargeBinary, nullable=False),
        sa.Column("chain", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "edges",
        sa.Column("made", sa.String(300), primary_key=True),
        sa.Column("of", sa.String(300), primary_key=True),
        sa.Column("role", sa.String(80), primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("noun", sa.String(40), primary_key=True),
        sa.Column("key", sa.String(300), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("made_seq", sa.BigInteger, nullable=False),
        sa.Column("set_seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(80), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
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
