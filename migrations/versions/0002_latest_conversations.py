"""The latest conversation of each session key in a table of its own, instead of an index that every change adds to.

And a vacuum when a hundredth of the conversations has changed, and room in the primary key.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NOTE = """
INSERT INTO latest_conversations (session_key, conv_id, opened_at)
VALUES (NEW.session_key, NEW.conv_id, {opened_at})
ON CONFLICT (session_key) DO UPDATE SET conv_id = excluded.conv_id, opened_at = excluded.opened_at
WHERE latest_conversations.opened_at <= excluded.opened_at;
"""
FORGET = """
DELETE FROM latest_conversations WHERE session_key = OLD.session_key AND conv_id = OLD.conv_id;
"""
KEEP_ON_POSTGRESQL = f"""
CREATE FUNCTION conversations_keep_latest() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
IF TG_OP <> 'INSERT' THEN{FORGET}END IF;
IF TG_OP <> 'DELETE' THEN{NOTE.format(opened_at="NEW.created_at")}END IF;
RETURN NULL;
END $$;
CREATE TRIGGER conversations_keep_latest AFTER INSERT OR DELETE OR UPDATE OF session_key ON conversations FOR EACH ROW
EXECUTE FUNCTION conversations_keep_latest()
"""
PLAIN_INSTANT = "0000-00-00 00:00:00.000000".replace("0", "[0-9]")
PLAIN_CREATED_AT = (
    f"CASE WHEN NEW.created_at GLOB '{PLAIN_INSTANT}' THEN NEW.created_at "
    "ELSE strftime('%Y-%m-%d %H:%M:%f', NEW.created_at) || '000' END"
)
NOTE_ON_SQLITE = NOTE.format(opened_at=PLAIN_CREATED_AT)
KEEP_ON_SQLITE = [
    f"CREATE TRIGGER conversations_keep_latest_{name} AFTER {change} ON conversations BEGIN{body}END"
    for name, change, body in (
        ("insert", "INSERT", NOTE_ON_SQLITE),
        ("delete", "DELETE", FORGET),
        ("update", "UPDATE OF session_key", FORGET + NOTE_ON_SQLITE),
    )
]
# Each key's last entry of the index that goes.
FILL = """
INSERT INTO latest_conversations (session_key, conv_id, opened_at)
SELECT session_key, conv_id, created_at FROM (
    SELECT session_key, conv_id, created_at,
           row_number() OVER (PARTITION BY session_key ORDER BY created_at DESC) AS place
    FROM conversations
) AS opened WHERE place = 1
"""


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    _have_the_table_alone(on_sqlite=on_sqlite)
    op.create_table(
        "latest_conversations",
        sa.Column("session_key", sa.String, primary_key=True),
        sa.Column("conv_id", sa.String(36) if on_sqlite else sa.Uuid(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        postgresql_with={"fillfactor": 80},
    )
    for statement in KEEP_ON_SQLITE if on_sqlite else (KEEP_ON_POSTGRESQL,):
        op.execute(statement.strip())
    op.execute(FILL.strip())
    op.drop_index("conversations_session_key", "conversations")
    if not on_sqlite:
        op.execute("ALTER TABLE conversations SET (autovacuum_vacuum_scale_factor = 0.01, vacuum_index_cleanup = on)")
        op.execute("ALTER INDEX conversations_pkey SET (fillfactor = 50)")


def downgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    _have_the_table_alone(on_sqlite=on_sqlite)
    op.create_index("conversations_session_key", "conversations", ["session_key", "created_at"])
    if not on_sqlite:
        op.execute("ALTER INDEX conversations_pkey RESET (fillfactor)")
        op.execute("ALTER TABLE conversations RESET (autovacuum_vacuum_scale_factor, vacuum_index_cleanup)")
        op.execute("DROP TRIGGER conversations_keep_latest ON conversations")
        op.execute("DROP FUNCTION conversations_keep_latest()")
    else:
        for change in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER conversations_keep_latest_{change}")
    op.drop_table("latest_conversations")


def _have_the_table_alone(*, on_sqlite: bool) -> None:
    """Wait for those who use the table before anything is done: a lock that grew on the way could end in a deadlock.

    Not for long, because everybody else waits behind who waits for this.
    """
    if not on_sqlite:
        op.execute("SET LOCAL lock_timeout = '5s'")
        op.execute("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
