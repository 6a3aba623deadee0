"""Active conversations that share a session key: of these there may be one only."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, Connection, any_, bindparam, text

from models.columns import UuidText
from models.conversation import ACTIVE_SQL, ConversationStatus, active, conversations, status_literal
from models.event import EventCause
from services.adoption import wanted
from services.adoption.facts import Facts
from services.database import current_time
from services.endings import Ending, status_at_moment
from services.errors import InvalidValueError
from services.session_keys import canonical_session_key

#: Rows of one read.
_PAGE = 10_000

#: Past its deadline a conversation gets what that says, whoever ends it.
_CLOSING = Ending(
    status=status_at_moment(status_literal(ConversationStatus.CLOSED)),
    cause=EventCause.ADOPTION,
    where=active & (conversations.c.conv_id == any_(bindparam("closed_ids", type_=ARRAY(UuidText())))),
)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Active conversations of one session key, the one with the latest activity first."""

    conv_ids: tuple[uuid.UUID, ...]


def session_key_of(conv_id: uuid.UUID, session_key: str | None, parts: Sequence[str]) -> str:
    """Return the session key of a row: its own, else the canonical one of its parts.

    What says nothing of a party shares its key with nobody, as the triggers for foreign writers have it, too.
    """
    if session_key is not None:
        return session_key
    try:
        return canonical_session_key(**dict(zip(wanted.PARTS, parts, strict=True)))
    except InvalidValueError:
        return str(conv_id)


def find_duplicates(connection: Connection, facts: Facts) -> list[Duplicate]:
    """Return the duplicates, also before there is a column ``session_key``. It reads what is active twice, at most.

    In memory it keeps a number for each active conversation.
    """
    seen: set[int] = set()
    repeated: set[int] = set()
    for key, _, _ in _active_keys(connection, facts):
        number = hash(key)
        (repeated if number in seen else seen).add(number)
    if not repeated:
        return []
    del seen
    by_key: dict[str, list[tuple[float, uuid.UUID]]] = {}
    for key, conv_id, active_at in _active_keys(connection, facts):
        if hash(key) in repeated:
            by_key.setdefault(key, []).append((active_at, conv_id))
    return [
        Duplicate(tuple(conv_id for _, conv_id in sorted(rows, reverse=True)))
        for _, rows in sorted(by_key.items())
        if len(rows) > 1
    ]


def close_all_but_the_latest(connection: Connection, duplicates: Sequence[Duplicate]) -> int:
    """Close them, but for the one of each with the latest activity, in the caller's transaction; return how many.

    Which one that is, and which are active still, is judged once their rows are locked.
    """
    conv_ids = [conv_id for duplicate in duplicates for conv_id in duplicate.conv_ids]
    closed_ids = connection.execute(_ALL_BUT_THE_LATEST, {"conv_ids": conv_ids}).scalars().all()
    return _CLOSING.apply(connection, moment=current_time(connection), closed_ids=closed_ids).count


#: In the order of the key, so that two that lock some of the same wait for each other in one direction only.
_ALL_BUT_THE_LATEST = text(f"""
WITH open AS (
    SELECT conv_id, session_key, updated_at FROM conversations
    WHERE conv_id = ANY (CAST(:conv_ids AS uuid[])) AND {ACTIVE_SQL} AND session_key IS NOT NULL
    ORDER BY conv_id FOR NO KEY UPDATE
), ranked AS (
    SELECT conv_id, row_number() OVER of_key AS place FROM open
    WINDOW of_key AS (PARTITION BY session_key ORDER BY updated_at DESC NULLS LAST, conv_id DESC)
)
SELECT conv_id FROM ranked WHERE place > 1
""")  # noqa: S608 - fixed names


def _active_keys(connection: Connection, facts: Facts) -> Iterator[tuple[str, uuid.UUID, float]]:
    """Yield the session key, the id and the last activity of what is active."""
    own = "session_key" if "session_key" in facts.columns else "NULL::text"
    # A number: a blocker may be that it is no instant which Python can read.
    active_at = "coalesce(extract(epoch FROM updated_at), 0)::double precision"
    query = f"SELECT conv_id, {active_at}, {own}, {', '.join(wanted.PARTS)} FROM conversations WHERE {ACTIVE_SQL}"  # noqa: S608 - fixed names
    rows = connection.execute(text(query), execution_options={"stream_results": True, "yield_per": _PAGE})
    for conv_id, at, session_key, *parts in rows:
        yield session_key_of(conv_id, session_key, parts), conv_id, at
