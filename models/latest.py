"""Which conversation was opened last on each session key, so that a message after its end finds what to go on from."""

import uuid
from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import DDL, Column, String, Table, event
from sqlmodel import Field, SQLModel

from models.columns import UtcDateTime, UuidText, plain_instant
from models.conversation import conversations


class LatestConversation(SQLModel, table=True):
    """The conversation that was opened last on a session key. Triggers keep it, whoever opens conversations.

    A table and not an index on conversations, because each change of a conversation, its end included, would add an
    entry to the index, at a place of its own: that was half of what ending one cost.
    """

    __tablename__: ClassVar[Any] = "latest_conversations"
    # Room on each page for the next version of its rows, so that their index is not touched.
    __table_args__: ClassVar[Any] = {"postgresql_with": {"fillfactor": 80}}

    session_key: str = Field(sa_column=Column(String, primary_key=True))
    conv_id: uuid.UUID = Field(sa_column=Column(UuidText, nullable=False))
    #: ``created_at`` of the conversation.
    opened_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


latest_conversations: Table = SQLModel.metadata.tables["latest_conversations"]


def _note(opened_at: str, schema: str = "") -> str:
    return f"""
INSERT INTO {schema}latest_conversations (session_key, conv_id, opened_at)
VALUES (NEW.session_key, NEW.conv_id, {opened_at})
ON CONFLICT (session_key) DO UPDATE SET conv_id = excluded.conv_id, opened_at = excluded.opened_at
WHERE latest_conversations.opened_at <= excluded.opened_at;
"""  # noqa: S608 - a fixed expression


def _forget(schema: str = "") -> str:
    return f"""
DELETE FROM {schema}latest_conversations WHERE session_key = OLD.session_key AND conv_id = OLD.conv_id;
"""  # noqa: S608 - a fixed name


# Whoever may write conversations needs no right to this table: the function has those of its owner. So it names the
# table in full; nothing that others have in their search_path, or in a schema of everybody's, is taken for it or for
# one of its operators. And nobody may put it on a table of their own.
_KEEP_ON_POSTGRESQL = f"""
DO $make$ BEGIN EXECUTE format($function$
CREATE FUNCTION conversations_keep_latest() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
IF TG_OP <> 'INSERT' THEN{_forget("%1$s.")}END IF;
IF TG_OP <> 'DELETE' THEN{_note("NEW.created_at", "%1$s.")}END IF;
RETURN NULL;
END $$
$function$, (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'conversations'::regclass)); END $make$;
REVOKE EXECUTE ON FUNCTION conversations_keep_latest() FROM PUBLIC;
CREATE TRIGGER conversations_keep_latest AFTER INSERT OR DELETE OR UPDATE OF session_key ON conversations FOR EACH ROW
EXECUTE FUNCTION conversations_keep_latest()
"""  # noqa: S608 - fixed text
_NOTE_ON_SQLITE = _note(plain_instant("NEW.created_at"))
_KEEP_ON_SQLITE = [
    f"CREATE TRIGGER conversations_keep_latest_{name} AFTER {change} ON conversations BEGIN{body}END"
    for name, change, body in (
        ("insert", "INSERT", _NOTE_ON_SQLITE),
        ("delete", "DELETE", _forget()),
        ("update", "UPDATE OF session_key", _forget() + _NOTE_ON_SQLITE),
    )
]
for _dialect, _statement in [
    ("postgresql", _KEEP_ON_POSTGRESQL),
    *(("sqlite", trigger) for trigger in _KEEP_ON_SQLITE),
]:
    _ddl = DDL(_statement.strip().replace("%", "%%"))  # type: ignore[no-untyped-call] # it takes % for its own formatting
    event.listen(conversations, "after_create", _ddl.execute_if(dialect=_dialect))
_ddl = DDL("DROP FUNCTION IF EXISTS conversations_keep_latest()")  # type: ignore[no-untyped-call]
event.listen(conversations, "after_drop", _ddl.execute_if(dialect="postgresql"))
