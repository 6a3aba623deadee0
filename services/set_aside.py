"""Conversations that no sweep can end are set aside, so that the others end, and tried again from time to time."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, select, type_coerce, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session

from models.columns import StoredId, UtcDateTime
from models.conversation import active, conversations
from models.set_aside import SetAsideConversation, set_aside_conversations
from services.arguments import LONGEST_PAGE, require_size
from services.errors import AdjournError
from services.logs import get_logger

#: How long one waits before it is tried again; each time twice as long as the time before, up to the longest.
FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(hours=1)
#: No more are set aside at once: what refuses so many is not the rows, and sweeps fail until it is mended.
MOST = 1_000
#: How many of the others are tried at once when one has ended: a search takes milliseconds for each that is refused.
MOST_AT_ONCE = 100
#: As far as the column counts.
_MOST_TRIES = 2**31 - 1
#: How much of a reason is kept, in characters.
_LONGEST_REASON = 500

log = get_logger(__name__)

_c = conversations.c
_s = set_aside_conversations.c
#: Predicate: it is not set aside, whether or not it is about to be tried again.
not_set_aside: ColumnElement[bool] = _c.conv_id.not_in(select(_s.conv_id))

#: How many are noted. Some may have ended since, until the next sweep forgets them.
COUNT_NOTED = select(func.count()).select_from(set_aside_conversations)
_GOES_ON = exists().where(_c.conv_id == _s.conv_id, active)
#: How many are set aside. To be asked where any are noted: without statistics it might read all that is active.
COUNT = COUNT_NOTED.where(_GOES_ON)
_FORGET_ENDED = delete(set_aside_conversations).where(~_GOES_ON)
_TRY_AT_ONCE = (
    update(set_aside_conversations)
    .where(
        _s.conv_id.in_(
            select(_s.conv_id)
            .where(_s.retry_at > bindparam("at", type_=UtcDateTime()))
            .order_by(_s.tried_at)
            .limit(MOST_AT_ONCE)
        )
    )
    .values(retry_at=bindparam("at", type_=UtcDateTime()))
)
_HELD_ID = bindparam("held_id", type_=StoredId())
_HELD = select(_s.tries, _s.retry_at).where(_s.conv_id == _HELD_ID).with_for_update()
_TRY_FAILED = (
    update(set_aside_conversations)
    .where(_s.conv_id == _HELD_ID)
    .values({name: bindparam(name, type_=_s[name].type) for name in ("reason", "tries", "tried_at", "retry_at")})
)


def taken(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Return the predicate: no sweep at ``now`` leaves it out. A subquery of its own, done once a statement."""
    return _c.conv_id.not_in(select(_s.conv_id).where(_s.retry_at > now))


class TooManySetAsideError(AdjournError):
    """So many conversations are set aside that it cannot be them."""


def set_aside(connection: Connection, conv_id: uuid.UUID | str, *, reason: str, now: datetime) -> bool:
    """Set a conversation aside that was tried at ``now`` and could not be ended; return whether it was not before.

    ``conv_id`` is as the database has it, ``reason`` what it said. Raises TooManySetAsideError when there are ``MOST``
    others.
    """
    # What a trigger of the platform's says may hold anything.
    reason = "".join(one if one.isprintable() else "?" for one in reason[:_LONGEST_REASON])
    before = connection.execute(_HELD, {"held_id": conv_id}).one_or_none()
    if before is None:
        if connection.execute(COUNT_NOTED).scalar_one() >= MOST:
            forget_ended(connection, now=now)
        if connection.execute(COUNT_NOTED).scalar_one() >= MOST:
            raise TooManySetAsideError(
                f"{MOST:,} conversations are set aside, and the database refuses more, so it is not they: {reason}"
            )
        tried = _tried(reason, tries=1, now=now)
        added = _insert_if_absent(connection).values(
            conv_id=type_coerce(conv_id, StoredId()), set_aside_at=now, **tried
        )
        is_new = connection.execute(added.returning(_s.conv_id)).one_or_none() is not None
    elif before.retry_at <= now:
        tried = _tried(reason, tries=before.tries + 1, now=now)
        connection.execute(_TRY_FAILED, {"held_id": conv_id, **tried})
        is_new = False
    else:
        return False  # another worker has just tried it, too
    log.warning(
        "conversation set aside: the database refuses its end",
        conv_id=str(conv_id),
        reason=reason,
        tries=tried["tries"],
        retry_at=tried["retry_at"].isoformat(),
    )
    return is_new


def _tried(reason: str, *, tries: int, now: datetime) -> dict[str, Any]:
    # Beyond ten doublings it is the longest anyway.
    wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries - 1, 10))
    return {"reason": reason, "tries": min(tries, _MOST_TRIES), "tried_at": now, "retry_at": now + wait}


def forget_ended(connection: Connection, *, now: datetime) -> None:
    """Forget those that have ended, or are gone. Where there were any, others are tried again at ``now``.

    What kept one from ending may have kept them, too.
    """
    if connection.execute(_FORGET_ENDED).rowcount:
        connection.execute(_TRY_AT_ONCE, {"at": now})


def list_set_aside(session: Session, *, limit: int = 100) -> list[SetAsideConversation]:
    """Return conversations that are set aside, those that have been for longest first.

    Raises InvalidValueError for a ``limit`` that is not from 1 to 10,000.
    """
    listed = select(SetAsideConversation).where(_GOES_ON).order_by(_s.set_aside_at, _s.conv_id)
    return list(session.scalars(listed.limit(require_size("limit", limit, LONGEST_PAGE))))


def try_again(session: Session, *, conv_ids: Sequence[uuid.UUID] | None = None, now: datetime) -> list[uuid.UUID]:
    """Have the next sweep take these again, all unless given; return those that are set aside."""
    retried = update(set_aside_conversations).where(_GOES_ON).values(retry_at=now)
    if conv_ids is not None:
        retried = retried.where(_s.conv_id.in_(conv_ids))
    return list(session.connection().execute(retried.returning(_s.conv_id)).scalars())


def _insert_if_absent(connection: Connection) -> postgresql.Insert | sqlite.Insert:
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    return insert(set_aside_conversations).on_conflict_do_nothing(index_elements=[_s.conv_id])
