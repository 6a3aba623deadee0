"""What tests share: instants, conversations, and waiting for a condition."""

import itertools
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine, select
from sqlmodel import Session

from models import Conversation, ConversationEvent
from services.conversations import Activity, open_or_resume_conversation
from services.database import open_session
from services.timeouts import Timeouts

T = TypeVar("T")

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
TIMEOUTS = Timeouts(idle=timedelta(minutes=30), expiry=timedelta(hours=24))
#: The smallest step that the databases keep.
MOMENT = timedelta(microseconds=1)

#: Ports below those that Linux gives to whoever asks for any, so that nobody gets one of them between its being found
#: free and the start of the program that is to listen on it. Tests that run at the same time have others each.
_FIRST_PORT, _PORTS = 10_000, 22_000
#: More than run at a time; a divisor of the number of ports.
_RUNS = 16
_numbers = itertools.count(
    random.SystemRandom().randrange(_PORTS // _RUNS) * _RUNS
    + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _RUNS,
    _RUNS,
)


def open_conversation(session: Session, *, now: datetime = NOON, number: int = 1, **given: Any) -> Activity:
    """Open, or resume, the conversation of customer ``number`` with the same inbox."""
    arguments: dict[str, Any] = {
        "owner_id": "acme",
        "channel": "whatsapp",
        "from_number": f"+3360000{number:04}",
        "to_number": "+33123456789",
        "timeouts": TIMEOUTS,
    }
    return open_or_resume_conversation(session, now=now, **arguments | given)


def opened(engine: Engine, **given: Any) -> Conversation:
    """Open, or resume, a conversation as ``open_conversation`` does, and commit."""
    with open_session(engine) as session:
        conversation = open_conversation(session, **given).conversation
        session.commit()
    return conversation


def insert_row(engine: Engine, **given: str | None) -> str:
    """Insert a conversation with plain SQL, as someone else's program would; return its id."""
    conv_id = str(uuid.uuid4())
    columns: dict[str, str | None] = {
        "conv_id": conv_id,
        "owner_id": "acme",
        "channel": "sms",
        "from_number": "+33600000001",
        "to_number": "+33123456789",
        "session_key": f"plain:{conv_id}",
        "status": "pending",
        "created_at": "2026-01-31 12:00:00.000000",
        "updated_at": "2026-01-31 12:00:00.000000",
        "idle_at": "2026-01-31 12:30:00.000000",
        "expires_at": "2026-02-01 12:00:00.000000",
        **given,
    }
    written = ["NULL" if value is None else f"'{value}'" for value in columns.values()]
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")
        connection.exec_driver_sql(f"INSERT INTO conversations ({', '.join(columns)}) VALUES ({', '.join(written)})")
    return conv_id


def all_conversations(engine: Engine) -> list[Conversation]:
    """Return every conversation, by opening."""
    with open_session(engine) as session:
        return list(session.scalars(select(Conversation).order_by(Conversation.created_at, Conversation.session_key)))  # type: ignore[arg-type]


def all_events(engine: Engine) -> list[ConversationEvent]:
    """Return every event, first to last."""
    with open_session(engine) as session:
        return list(session.scalars(select(ConversationEvent).order_by(ConversationEvent.event_id)))  # type: ignore[arg-type]


def free_port() -> int:
    """Return a port of the loopback that nobody listens on, and that no other test is given meanwhile."""
    for number in _numbers:
        port = _FIRST_PORT + number % _PORTS
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("the numbers never end")


def wait_for(condition: Callable[[], T | None], *, seconds: float = 30, what: str = "the condition") -> T:
    """Return what ``condition`` returns once that is true; fail after ``seconds``."""
    for _ in attempts(seconds):
        if result := condition():
            return result
    raise AssertionError(f"{what} did not come about within {seconds} s")


def attempts(seconds: float, pause: float = 0.05) -> Iterator[None]:
    """Yield, with a pause between, until ``seconds`` have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
