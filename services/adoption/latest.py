"""The step that notes which conversation was opened last on each session key."""

import uuid

from sqlalchemy import Connection, text

from services.adoption import locks, wanted
from services.adoption.batches import Batch, walk
from services.adoption.book import Added, enter
from services.adoption.facts import Facts
from services.adoption.step import Found, Step, Work
from services.adoption.triggers import make_trigger
from services.wording import how_many

#: The name of its fill in the book: a key that somebody has deleted the last of has no row, so none can be missed.
FILLED = "latest_conversations"

_PICK = text("SELECT conv_id FROM conversations WHERE conv_id >= :start ORDER BY conv_id OFFSET :size - 1 LIMIT 1")
_PICK_LAST = text("SELECT conv_id FROM conversations WHERE conv_id >= :start ORDER BY conv_id DESC LIMIT 1")
#: As the trigger does, a batch at a time, and in the order of the keys as other imports should.
_NOTE = text("""
INSERT INTO latest_conversations (session_key, conv_id, opened_at)
SELECT DISTINCT ON (session_key) session_key, conv_id, created_at FROM conversations
WHERE conv_id BETWEEN :start AND :last ORDER BY session_key, created_at DESC
ON CONFLICT (session_key) DO UPDATE SET conv_id = excluded.conv_id, opened_at = excluded.opened_at
WHERE latest_conversations.opened_at <= excluded.opened_at
""")
#: What was deleted between the look at it and its note; not what was opened on its key since.
_FORGET = text("""
DELETE FROM latest_conversations AS noted USING (
    SELECT session_key, conv_id FROM latest_conversations
    WHERE NOT EXISTS (SELECT FROM conversations WHERE conversations.conv_id = latest_conversations.conv_id)
) AS gone WHERE noted.session_key = gone.session_key AND noted.conv_id = gone.conv_id
""")


def _has_trigger(facts: Facts) -> bool:
    return wanted.KEEP_LATEST in facts.triggers


def _to_do(found: Found) -> str | None:
    if _has_trigger(found.facts) and found.book is not None and found.book.has(Added.PARTS, FILLED):
        return None
    return "note which conversation was opened last on each session key, and keep it noted by a trigger"


def _note_latest(work: Work) -> str | None:
    if not _has_trigger(work.facts()):
        work.briefly(lambda connection: make_trigger(connection, wanted.KEEP_LATEST), mode=locks.SHARE_ROW_EXCLUSIVE)
    if work.book().has(Added.PARTS, FILLED):
        return None
    walk(work, _note_batch)

    def finish(connection: Connection) -> int:
        connection.execute(_FORGET)
        enter(connection, Added.PARTS, [FILLED])
        return int(connection.exec_driver_sql("SELECT count(*) FROM latest_conversations").scalar_one())

    return f"noted the last one of {how_many(work.briefly(finish))} session keys"


def _note_batch(connection: Connection, start: uuid.UUID, size: int) -> Batch:
    last = connection.execute(_PICK, {"start": start, "size": size}).scalar_one_or_none()
    is_end = last is None
    if last is None:
        last = connection.execute(_PICK_LAST, {"start": start}).scalar_one_or_none()
    if last is None:
        return Batch(0, None)
    count = connection.execute(_NOTE, {"start": start, "last": last}).rowcount
    return Batch(count, None if is_end else last)


LATEST = Step(
    "latest",
    "SHARE ROW EXCLUSIVE for the trigger, for milliseconds; then rows of latest_conversations, for a tenth of a second",
    _to_do,
    _note_latest,
)
