"""Whoever may write conversations needs no right to latest_conversations.

Its trigger's function runs with the rights of its owner, so it names its table in full: nothing that others have in
their search_path, or in a schema of everybody's, is taken for it. No table is locked.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEEP = """
CREATE OR REPLACE FUNCTION {schema}conversations_keep_latest() RETURNS trigger
LANGUAGE plpgsql {rights} AS $$
BEGIN
IF TG_OP <> 'INSERT' THEN
DELETE FROM {schema}latest_conversations WHERE session_key = OLD.session_key AND conv_id = OLD.conv_id;
END IF;
IF TG_OP <> 'DELETE' THEN
INSERT INTO {schema}latest_conversations (session_key, conv_id, opened_at)
VALUES (NEW.session_key, NEW.conv_id, NEW.created_at)
ON CONFLICT (session_key) DO UPDATE SET conv_id = excluded.conv_id, opened_at = excluded.opened_at
WHERE latest_conversations.opened_at <= excluded.opened_at;
END IF;
RETURN NULL;
END $$
"""
AS_OWNER = KEEP.format(schema="%1$s.", rights="SECURITY DEFINER SET search_path = pg_catalog, pg_temp")
MAKE_AS_OWNER = f"""
DO $make$ BEGIN EXECUTE format($function$ {AS_OWNER} $function$,
    (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'conversations'::regclass)
); END $make$
"""  # noqa: S608 - fixed text
MAKE_AS_WRITER = KEEP.format(schema="", rights="SET search_path FROM CURRENT")
# The triggers of ``adjourn migrate --foreign-writers``: they write a cause that revision 0002 does not know.
FOREIGN_WRITERS_TRIGGERS = ("zz_adjourn_opening", "zz_adjourn_activity", "zz_adjourn_record")
FOREIGN_WRITERS_FUNCTIONS = (
    "adjourn_record_change()",
    "adjourn_complete_conversation()",
    "adjourn_session_key(text, text, text, text)",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(MAKE_AS_OWNER.strip())
        op.execute("REVOKE EXECUTE ON FUNCTION conversations_keep_latest() FROM PUBLIC")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
        for trigger in FOREIGN_WRITERS_TRIGGERS:
            op.execute(f"DROP TRIGGER IF EXISTS {trigger} ON conversations")
        for function in FOREIGN_WRITERS_FUNCTIONS:
            op.execute(f"DROP FUNCTION IF EXISTS {function}")
        op.execute(MAKE_AS_WRITER.strip())
        op.execute("GRANT EXECUTE ON FUNCTION conversations_keep_latest() TO PUBLIC")
