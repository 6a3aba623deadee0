"""What sweeps leave out because the database refuses its end. No table is locked.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


BOUNDS = "'0001-01-02 00:00:00+00'::timestamptz AND '9999-12-30 00:00:00+00'::timestamptz"


def _readable_check() -> sa.CheckConstraint:
    instants = ("set_aside_at", "tried_at", "retry_at")
    return sa.CheckConstraint(
        " AND ".join(f"{name} BETWEEN {BOUNDS}" for name in instants), name="set_aside_conversations_instants_check"
    )


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "set_aside_conversations",
        sa.Column("conv_id", sa.String(36) if on_sqlite else sa.Uuid(), primary_key=True),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("set_aside_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=False),
        *([] if on_sqlite else [_readable_check()]),
    )


def downgrade() -> None:
    op.drop_table("set_aside_conversations")
