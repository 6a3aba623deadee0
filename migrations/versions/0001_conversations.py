"""Conversations and their events.

Revision ID: 0001
Revises: -
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ACTIVE = "status IN ('pending', 'progress')"
INSTANTS = ("created_at", "updated_at", "idle_at", "expires_at", "ended_at")
ENDED = "status IN ('idle_timeout', 'expired', 'closed')"


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    uuid = sa.String(36) if on_sqlite else sa.Uuid()
    instant = sa.DateTime(timezone=True)

    op.create_table(
        "conversations",
        sa.Column("conv_id", uuid, primary_key=True),
        sa.Column("owner_id", sa.String, nullable=False),
        sa.Column("user_id", sa.String),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("from_number", sa.String, nullable=False),
        sa.Column("to_number", sa.String, nullable=False),
        sa.Column("session_key", sa.String, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column(
            "metadata", sa.JSON() if on_sqlite else postgresql.JSONB(), nullable=False, server_default=sa.text("'{}'")
        ),
        *(sa.Column(name, instant, nullable=name == "ended_at") for name in INSTANTS),
        sa.CheckConstraint(
            "status IN ('pending', 'progress', 'idle_timeout', 'expired', 'closed')", name="conversations_status_check"
        ),
        sa.CheckConstraint(f"(ended_at IS NOT NULL) = ({ENDED})", name="conversations_ended_at_check"),
        *(_instant_check(name) for name in INSTANTS if on_sqlite),
    )
    for name, columns, unique in (
        ("conversations_active_session_key", ["session_key"], True),
        ("conversations_active_idle_at", ["idle_at"], False),
        ("conversations_active_expires_at", ["expires_at"], False),
        ("conversations_active_owner", ["owner_id", "created_at", "conv_id"], False),
    ):
        op.create_index(
            name,
            "conversations",
            columns,
            unique=unique,
            postgresql_where=sa.text(ACTIVE),
            sqlite_where=sa.text(ACTIVE),
        )
    op.create_index("conversations_session_key", "conversations", ["session_key", "created_at"])
    for trigger in _instant_triggers() if on_sqlite else ():
        op.execute(trigger)

    op.create_table(
        "conversation_events",
        sa.Column("event_id", sa.Integer if on_sqlite else sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("conv_id", uuid, nullable=False),
        sa.Column("previous_status", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("ended", sa.Boolean, sa.Computed(ENDED, persisted=True)),
        sa.Column("deadline", instant, nullable=False),
        sa.Column("last_activity_at", instant, nullable=False),
        sa.Column("cause", sa.String(16), nullable=False),
        sa.Column("sweep_id", uuid),
        sa.Column("occurred_at", instant, nullable=False),
    )
    op.create_index("conversation_events_conv_id_ended", "conversation_events", ["conv_id", "ended"], unique=True)


def downgrade() -> None:
    op.drop_table("conversation_events")
    op.drop_table("conversations")


def _instant_check(column: str) -> sa.CheckConstraint:
    written = f"replace(substr({column}, 1, 19), 'T', ' ')"
    return sa.CheckConstraint(
        f"{column} IS NULL OR (datetime({column}) IS NOT NULL AND datetime({written}, '+0 seconds') = {written})",
        name=f"conversations_{column}_instant",
    )


def _instant_triggers() -> list[str]:
    plain = "GLOB '????-??-?? ??:??:??.??????'"
    differs = " OR ".join(f"NOT NEW.{column} {plain}" for column in INSTANTS)
    assignments = ", ".join(
        f"{column} = CASE WHEN {column} {plain} THEN {column} ELSE strftime('%Y-%m-%d %H:%M:%f', {column}) || '000' END"
        for column in INSTANTS
    )
    return [
        f"CREATE TRIGGER conversations_instants_{name} AFTER {change} ON conversations WHEN {differs} "  # noqa: S608 - fixed names
        f"BEGIN UPDATE conversations SET {assignments} WHERE conv_id = NEW.conv_id; END"
        for name, change in (("insert", "INSERT"), ("update", f"UPDATE OF {', '.join(INSTANTS)}"))
    ]
