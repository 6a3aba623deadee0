"""What ``adjourn set-aside`` prints, and whether all was done that was asked for."""

# ruff: noqa: T201 - what was asked for

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import NullPool
from sqlmodel import Session

from models.set_aside import SetAsideConversation
from services.arguments import require_identifier
from services.database import check_database, create_database_engine, current_time, open_session
from services.set_aside import COUNT, list_set_aside, try_again
from services.settings import load_settings
from services.wording import counted, instant, iso

_NONE = "no conversation is set aside"


def print_set_aside(*, limit: int, as_json: bool) -> None:
    """Print what is set aside, those that have been for longest first, ``limit`` at most. Raises AdjournError."""
    with _session(read_only=True) as session:
        now = current_time(session.connection())
        total = int(session.connection().execute(COUNT).scalar_one())
        found = list_set_aside(session, limit=limit)
    if as_json:
        print(json.dumps({"total": total, "conversations": [_object(one) for one in found]}, indent=2))
    else:
        print("\n".join(_lines(found, total=total, now=now)) if found else _NONE)


def print_retry(wanted: Sequence[str] | None) -> bool:
    """Have the next sweep try these, or all, and print which; return whether each was set aside.

    Raises AdjournError.
    """
    conv_ids = None if wanted is None else [require_identifier("ID", one) for one in wanted]
    with _session() as session:
        retried = try_again(session, conv_ids=conv_ids, now=current_time(session.connection()))
        session.commit()
    for conv_id in conv_ids or ():
        print(f"{conv_id}: {'the next sweep tries it' if conv_id in retried else 'not set aside'}")
    if conv_ids is None:
        print(f"the next sweep tries {counted(len(retried), 'conversation')}" if retried else _NONE)
    return conv_ids is None or {*conv_ids} <= {*retried}


@contextmanager
def _session(*, read_only: bool = False) -> Iterator[Session]:
    engine = create_database_engine(load_settings().database, poolclass=NullPool)
    check_database(engine)
    with open_session(engine, read_only=read_only) as session:
        yield session


def _lines(found: Sequence[SetAsideConversation], *, total: int, now: datetime) -> Iterator[str]:
    for one in found:
        attempts = counted(one.tries, "failed attempt")
        since, then = instant(one.set_aside_at, now=now), instant(one.retry_at, now=now)
        yield f"{one.conv_id}  set aside at {since}, {attempts}, next at {then}"
        yield f"    {one.reason}"
    if total > len(found):
        yield f"the first {len(found):,} of {total:,}; --limit shows more"


def _object(one: SetAsideConversation) -> dict[str, object]:
    return {
        "conv_id": str(one.conv_id),
        "reason": one.reason,
        "tries": one.tries,
        "set_aside_at": iso(one.set_aside_at),
        "tried_at": iso(one.tried_at),
        "retry_at": iso(one.retry_at),
    }
