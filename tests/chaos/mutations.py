"""What ``--break`` does to the product's code, in the process that calls it.

Nothing is imported before that: a mutation is applied when Python starts, and then nothing of ours is loaded yet.
"""

# ruff: noqa: PLC0415, SLF001 - see above; and what is broken is inside

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

#: From the reading of what is due to the writing, in seconds: enough for a message to come between.
_BETWEEN = 0.3
_ACTIVE = "status IN ('pending', 'progress')"


def end_by_id() -> None:
    """Sweep as many closers do: read which are due, then end them by their ids. Whether they still are is not asked."""
    _replace_batches(f"SELECT * FROM conversations WHERE {_ACTIVE} AND {{column}} <= :now", still=f"AND {_ACTIVE}")


def end_again() -> None:
    """Sweep without any look at the status: what another sweep has ended meanwhile is ended again."""
    _replace_batches(f"SELECT * FROM conversations WHERE {_ACTIVE} AND {{column}} <= :now", still="")


def record_nothing() -> None:
    """Acknowledge activity, and write none."""
    from services.messages import Resumption

    apply = Resumption.apply

    def acknowledge(self: Resumption, connection: Any, parameters: Any) -> Any:
        savepoint = connection.begin_nested()
        row = apply(self, connection, parameters)
        savepoint.rollback()
        return row

    Resumption.apply = acknowledge  # type: ignore[method-assign]


def open_blindly() -> None:
    """Open a conversation where none was seen to go on, with no regard to another who does the same."""
    from sqlalchemy import insert

    from models.conversation import conversations
    from services import conversations as called
    from services import messages

    def open_or_resume(connection: Any, parameters: Any) -> Any:
        row = messages._OF_PAIR.apply(connection, parameters)
        if row is not None:
            return row
        opening = insert(conversations).values(messages._OPENING).returning(*conversations.c)
        return connection.execute(opening, parameters).one()

    vars(called)["open_or_resume"] = open_or_resume


def name_idle_always() -> None:
    """Name each end after the idle deadline, whichever came first."""
    from models.conversation import ConversationStatus, status_literal
    from services.endings import Ending

    make = Ending.__init__

    def make_idle(self: Ending, **given: Any) -> None:
        make(self, **given | {"status": status_literal(ConversationStatus.IDLE_TIMEOUT)})

    Ending.__init__ = make_idle  # type: ignore[method-assign]


def trust_own_clock() -> None:
    """Take the machine's clock for the database's."""
    from services import cycle

    def current_time(_: Any) -> datetime:
        return datetime.now(UTC)

    vars(cycle)["current_time"] = current_time


def sweep_late() -> None:
    """End what has been due for three seconds, and nothing else."""
    from services import cycle
    from services.database import current_time

    def late(connection: Any) -> datetime:
        return current_time(connection) - timedelta(seconds=3)

    vars(cycle)["current_time"] = late


def enqueue_unfenced() -> None:
    """Enqueue a tick whoever leads, and whether or not its slot is claimed."""
    _replace_in_scripts(
        ("if not leads(KEYS[1], ARGV[1], ARGV[2]) then\n    return {'not_leader', now}", "if false then return {}"),
        ("if task[2] == ARGV[5] then", "if false then"),
        ("if mark and mark >= slot", "if false and mark >= slot"),
    )


def enqueue_unmarked() -> None:
    """Enqueue a tick whether or not its slot is claimed."""
    _replace_in_scripts(
        ("if task[2] == ARGV[5] then", "if false then"), ("if mark and mark >= slot", "if false and mark >= slot")
    )


def lead_anyway() -> None:
    """Give the lease to whoever asks."""
    _replace_in_scripts(("if held[1] and held[1] ~= ARGV[1] then", "if false then"))


def _replace_in_scripts(*changes: tuple[str, str]) -> None:
    """Change the text of each Lua script in which it is found."""
    import redis

    register = redis.Redis.register_script

    def register_changed(self: Any, script: Any) -> Any:
        # dramatiq's own is of bytes.
        for old, new in changes if isinstance(script, str) else ():
            script = script.replace(old, new)
        return register(self, script)

    redis.Redis.register_script = register_changed  # type: ignore[method-assign]


def _replace_batches(reading: str, *, still: str) -> None:
    from sqlalchemy import text

    from services.endings import Ended, Ending

    apply = Ending.apply
    writing = f"""
        UPDATE conversations SET status = :status, ended_at = :moment WHERE conv_id = :conv_id {still}
    """
    recording = """
        INSERT INTO conversation_events
            (conv_id, previous_status, status, deadline, last_activity_at, cause, sweep_id, occurred_at)
        VALUES (:conv_id, :previous, :status, :deadline, :updated_at, 'sweep', :sweep_id, :moment)
    """

    def end(
        self: Ending, connection: Any, *, moment: datetime, sweep_id: uuid.UUID | None = None, **given: Any
    ) -> Ended:
        if self._order_by is None:
            return apply(self, connection, moment=moment, sweep_id=sweep_id, **given)
        ordered = f"{reading.format(column=self._order_by.name)} ORDER BY conv_id LIMIT :size"
        due = connection.execute(text(ordered), {"now": given["now"], "size": given["batch_size"]}).all()
        time.sleep(_BETWEEN)
        count = 0
        for row in due:
            deadline = min(row.idle_at, row.expires_at)
            status = "expired" if row.expires_at <= row.idle_at else "idle_timeout"
            known = {"conv_id": row.conv_id, "status": status, "moment": moment, "sweep_id": sweep_id}
            if connection.execute(text(writing), known).rowcount:
                about = {"previous": row.status, "deadline": deadline, "updated_at": row.updated_at}
                connection.execute(text(recording), known | about)
                count += 1
        return Ended(count, picked=count)

    Ending.apply = end  # type: ignore[method-assign]


MUTATIONS: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        end_by_id,
        end_again,
        record_nothing,
        open_blindly,
        name_idle_always,
        trust_own_clock,
        sweep_late,
        enqueue_unfenced,
        enqueue_unmarked,
        lead_anyway,
    )
}
