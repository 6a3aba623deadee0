"""Conversations that were opened again after their end was recorded, as is possible until what has ended stays ended.

A conversation ends once: with the record of an end that did not last, its next one could not be recorded, and the sweep
that tried would fail, again and again.
"""

from sqlalchemy import text

from models.conversation import ACTIVE_SQL
from services.adoption.step import Work
from services.wording import counted

#: Ends taken back in one transaction.
_AT_ONCE = 1_000

#: Locked, because who ends one meanwhile finds the end of before and records none.
_TAKE_BACK = text(f"""
WITH reopened AS (
    SELECT conv_id FROM conversations WHERE {ACTIVE_SQL} AND EXISTS (
        SELECT FROM conversation_events WHERE conversation_events.conv_id = conversations.conv_id AND ended
    ) LIMIT :at_once FOR NO KEY UPDATE
)
DELETE FROM conversation_events USING reopened WHERE conversation_events.conv_id = reopened.conv_id AND ended
""")  # noqa: S608 - fixed names


def take_back_ends(work: Work) -> str | None:
    """Delete the ended events of conversations that go on, and return what was done; None when there were none.

    Raises AdoptionStoppedError when others hold such rows for long.
    """
    if work.book().adopted_at is not None:
        return None
    count = 0
    while True:
        some = work.briefly(lambda connection: connection.execute(_TAKE_BACK, {"at_once": _AT_ONCE}).rowcount)
        count += some
        if some < _AT_ONCE:
            break
    return f"took back {counted(count, 'end')} of what was opened again" if count else None
