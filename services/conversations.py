"""What an application does with conversations: open or resume, record activity, close, get, list.

Every function works in the transaction of the session that it is given and commits nothing: the caller's own writes
and the conversation's go together or not at all. Activity that arrives at or after a deadline that no sweep has got to
ends that conversation and opens the next, so when a sweep ran never shows in the outcome.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, tuple_
from sqlmodel import Session, col

from models.columns import require_aware
from models.conversation import (
    Conversation,
    ConversationStatus,
    active,
    conversations,
    due_status,
    overdue,
    status_literal,
)
from models.event import ConversationEvent, EventCause
from models.identifiers import new_identifier
from models.latest import latest_conversations
from services.arguments import (
    LONGEST_PAGE,
    require_identifier,
    require_json_object,
    require_session_key,
    require_size,
    require_text,
)
from services.endings import MOMENT, Ending, status_at_moment
from services.errors import ConversationNotFoundError, InvalidValueError
from services.loading import conversation_of
from services.messages import BY_ID, BY_SESSION_KEY, open_or_resume
from services.session_keys import canonical_session_key
from services.timeouts import Timeouts

_c = conversations.c


@dataclass(frozen=True, slots=True)
class Activity:
    """What a message did."""

    #: The conversation that the message belongs to, as it now stands.
    conversation: Conversation
    #: True when the message opened it, False when it was under way.
    opened: bool


def open_or_resume_conversation(
    session: Session,
    *,
    owner_id: str,
    channel: str,
    from_number: str,
    to_number: str,
    now: datetime,
    timeouts: Timeouts,
    user_id: str | None = None,
    session_key: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Activity:
    """Take a message of a pair: it resumes the pair's active conversation, or opens one.

    Without a ``session_key`` the canonical one of owner, channel and numbers is used. ``metadata`` and the other
    particulars are of the opening; a conversation that is resumed keeps its own. A message stamped earlier than the
    last activity counts, and moves no deadline back. Two callers at once get the same conversation.

    Raises NaiveDatetimeError, and InvalidValueError which names the argument, also when the active conversation on
    ``session_key`` is another owner's.
    """
    now = require_aware(now, "now")
    pair = {"owner_id": owner_id, "channel": channel, "from_number": from_number, "to_number": to_number}
    for name, part in pair.items():
        require_text(name, part)
    opening = pair | {
        "user_id": None if user_id is None else require_text("user_id", user_id),
        "session_key": require_session_key(canonical_session_key(**pair) if session_key is None else session_key),
        "metadata": require_json_object("metadata", metadata or {}),
    }
    return _open_or_resume(session, opening, now, timeouts)


def record_activity(
    session: Session,
    *,
    now: datetime,
    timeouts: Timeouts,
    conv_id: uuid.UUID | None = None,
    session_key: str | None = None,
) -> Activity:
    """Record a message of a conversation, known by its id or by its session key.

    When that conversation has ended, or is past its deadline, the message belongs to the one that is active on the same
    session key, or opens it with the particulars of its predecessor: activity is never lost.

    Raises ConversationNotFoundError when there is no such conversation, or the last one of the key was deleted;
    NaiveDatetimeError, and InvalidValueError unless exactly one of ``conv_id`` and ``session_key`` is given.
    """
    if (conv_id is None) == (session_key is None):
        raise InvalidValueError("record_activity: give either conv_id or session_key, not both and not neither")
    now = require_aware(now, "now")
    if conv_id is not None:
        conv_id = require_identifier("conv_id", conv_id)
    connection = _writing(session)
    moved: dict[str, Any] = {"moment": now, "given_idle_at": now + timeouts.idle}
    if conv_id is not None:
        row = BY_ID.apply(connection, moved | {"given_conv_id": conv_id})
    else:
        session_key = require_session_key(session_key)
        row = BY_SESSION_KEY.apply(connection, moved | {"given_session_key": session_key})
    if row is not None:
        return Activity(conversation_of(session, row), opened=False)
    known = _find_predecessor(session, conv_id, session_key)
    if known is None:
        raise ConversationNotFoundError(
            f"no conversation with {'id' if conv_id else 'session key'} {conv_id or session_key!r}; "
            "open it with open_or_resume_conversation"
        )
    opening = known.model_dump(include=_OPENING) | {"metadata": known.metadata_}
    return _open_or_resume(session, opening, now, timeouts)


def close_conversation(session: Session, *, conv_id: uuid.UUID, now: datetime) -> Conversation:
    """Close a conversation and return it as it now stands.

    One that has ended stays as it is, and one whose deadline is reached at ``now`` gets the status that its deadline
    names, as if a sweep had been on time.

    Raises ConversationNotFoundError, NaiveDatetimeError, and InvalidValueError which names the argument.
    """
    now = require_aware(now, "now")
    conv_id = require_identifier("conv_id", conv_id)
    _CLOSING.apply(_writing(session), moment=now, closed_id=conv_id)
    return get_conversation(session, conv_id=conv_id)


def get_conversation(session: Session, *, conv_id: uuid.UUID) -> Conversation:
    """Return a conversation as the database has it.

    Raises ConversationNotFoundError, and InvalidValueError when ``conv_id`` is none.
    """
    conv_id = require_identifier("conv_id", conv_id)
    statement = select(Conversation).where(_c.conv_id == conv_id)
    conversation = session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()
    if conversation is None:
        raise ConversationNotFoundError(f"no conversation with id {conv_id}")
    return conversation


def find_active_conversation(session: Session, *, session_key: str) -> Conversation | None:
    """Return the active conversation on ``session_key``, None when there is none."""
    known = require_session_key(session_key)
    statement = select(Conversation).where(active, _c.session_key == known)
    return session.scalars(statement, execution_options={"populate_existing": True}).one_or_none()


def list_active_conversations(
    session: Session,
    *,
    owner_id: str,
    limit: int = 100,
    after: Conversation | None = None,
) -> list[Conversation]:
    """Return a page of an owner's active conversations, oldest first; ``after`` is the last one of the page before.

    Raises InvalidValueError for a ``limit`` that is not from 1 to 10,000, and for an ``owner_id`` that is none.
    """
    known = require_text("owner_id", owner_id)
    statement = select(Conversation).where(active, _c.owner_id == known)
    if after is not None:
        statement = statement.where(tuple_(_c.created_at, _c.conv_id) > (after.created_at, after.conv_id))
    statement = statement.order_by(_c.created_at, _c.conv_id).limit(require_size("limit", limit, LONGEST_PAGE))
    return list(session.scalars(statement, execution_options={"populate_existing": True}))


def list_events(session: Session, *, conv_id: uuid.UUID) -> list[ConversationEvent]:
    """Return the changes of status of a conversation, first to last.

    Raises InvalidValueError when ``conv_id`` is none.
    """
    known = require_identifier("conv_id", conv_id)
    statement = select(ConversationEvent).where(col(ConversationEvent.conv_id) == known)
    return list(session.scalars(statement.order_by(col(ConversationEvent.event_id))))


_OPENING = {"owner_id", "user_id", "channel", "from_number", "to_number", "session_key"}


def _open_or_resume(session: Session, opening: dict[str, Any], now: datetime, timeouts: Timeouts) -> Activity:
    conv_id = new_identifier(now)
    parameters = {f"given_{column}": value for column, value in opening.items()} | {
        "moment": now,
        "given_conv_id": conv_id,
        "given_idle_at": now + timeouts.idle,
        "given_expires_at": now + timeouts.expiry,
    }
    connection = _writing(session)
    row = open_or_resume(connection, parameters)
    if row is None:
        # There is an active one, which is locked now: end it if it is past its deadline, and look again.
        settled = {"settled_key": opening["session_key"], "settled_owner": opening["owner_id"]}
        _SETTLING.apply(connection, moment=now, **settled)
        row = open_or_resume(connection, parameters)
        if row is None:
            raise InvalidValueError(
                f"session_key: {opening['session_key']!r} has an active conversation of another owner; "
                "put the owner into the key, as canonical_session_key does"
            )
    conversation = conversation_of(session, row)
    return Activity(conversation, opened=conversation.conv_id == conv_id)


def _find_predecessor(session: Session, conv_id: uuid.UUID | None, session_key: str | None) -> Conversation | None:
    """Return the conversation of an id; or of a session key the active one, else the one that was opened last."""
    if conv_id is not None:
        return session.scalars(select(Conversation).where(_c.conv_id == conv_id)).one_or_none()
    goes_on = select(Conversation).where(active, _c.session_key == session_key)
    latest = select(latest_conversations.c.conv_id).where(latest_conversations.c.session_key == session_key)
    opened_last = select(Conversation).where(_c.conv_id == latest.scalar_subquery(), _c.session_key == session_key)
    return session.scalars(goes_on).one_or_none() or session.scalars(opened_last).one_or_none()


#: A message came on the active conversation of a key, which is past its deadline.
_SETTLING = Ending(
    status=due_status,
    cause=EventCause.ACTIVITY,
    where=(_c.session_key == bindparam("settled_key", type_=_c.session_key.type))
    & (_c.owner_id == bindparam("settled_owner", type_=_c.owner_id.type))
    & overdue(MOMENT),
)
#: The application closes a conversation.
_CLOSING = Ending(
    status=status_at_moment(status_literal(ConversationStatus.CLOSED)),
    cause=EventCause.CLOSE,
    where=active & (_c.conv_id == bindparam("closed_id", type_=_c.conv_id.type)),
)


def _writing(session: Session) -> Connection:
    """Return the connection of the session's transaction, with what the session has to write written."""
    session._autoflush()  # noqa: SLF001 - what its own execute does; flush() would not do in a hook of a flush
    return session.connection(bind_arguments={"mapper": Conversation})
