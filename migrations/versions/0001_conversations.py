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
PLAIN_INSTANT = "0000-00-00 00:00:00.000000".replace("0", "[0-9]")
BOUNDS = "'0001-01-02 00:00:00+00'::timestamptz AND '9999-12-30 00:00:00+00'::timestamptz"
ENDED = "status IN ('idle_timeout', 'expired', 'closed')"
STAY_ENDED_ON_POSTGRESQL = f"""
CREATE FUNCTION conversations_stay_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'conversation % has ended and never changes again', OLD.conv_id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER conversations_stay_ended BEFORE UPDATE ON conversations FOR EACH ROW
WHEN (OLD.{ENDED} AND (NEW.status, NEW.ended_at) IS DISTINCT FROM (OLD.status, OLD.ended_at))
EXECUTE FUNCTION conversations_stay_ended()
"""
STAY_ENDED_ON_SQLITE = f"""
CREATE TRIGGER conversations_stay_ended BEFORE UPDATE OF status, ended_at ON conversations
WHEN OLD.{ENDED} AND (NEW.status IS NOT OLD.status OR datetime(NEW.ended_at) IS NOT datetime(OLD.ended_at))
BEGIN SELECT RAISE(ABORT, 'a conversation that has ended never changes again'); END
"""


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
        *(() if on_sqlite else (_readable_check(),)),
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
    for statement in (STAY_ENDED_ON_SQLITE, *_instant_triggers()) if on_sqlite else (STAY_ENDED_ON_POSTGRESQL,):
        op.execute(statement.strip())

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
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION conversations_stay_ended()")


def _readable_check() -> sa.CheckConstraint:
    return sa.CheckConstraint(
        " AND ".join(f"{name} BETWEEN {BOUNDS}" for name in INSTANTS), name="conversations_instants_check"
    )


def _instant_check(column: str) -> sa.CheckConstraint:
    written = f"replace(substr({column}, 1, 19), 'T', ' ')"
    return sa.CheckConstraint(
        f"{column} IS NULL OR (datetime({column}) IS NOT NULL AND datetime({written}, '+0 seconds') = {written})",
        name=f"conversations_{column}_instant",
    )


def _instant_triggers() -> list[str]:
    plain = f"GLOB '{PLAIN_INSTANT}'"
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
