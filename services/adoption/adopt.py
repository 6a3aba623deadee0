"""The adoption: a look, and then the steps, of which each is done, or done already."""

import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from services.adoption import locks
from services.adoption.look import Look, look
from services.adoption.notes import missing_rights
from services.adoption.session import alone, become_owner
from services.adoption.step import Choices, Step, Work
from services.adoption.steps import STEPS
from services.adoption.stopped import AdoptionStoppedError
from services.errors import first_line
from services.wording import counted

#: Told of each step when it begins.
OnBegin = Callable[[Step], None]
#: Told of each step when it is through: what was done (None: it was done already), and how long it took, in seconds.
OnStep = Callable[[Step, str | None, float], None]


def adopt(
    connection: Connection,
    choices: Choices,
    *,
    on_look: Callable[[Look], None] = lambda _: None,
    on_begin: OnBegin = lambda _: None,
    on_step: OnStep = lambda *_: None,
    patience: Sequence[float] = locks.PATIENCE,
    pause: float = locks.PAUSE,
) -> None:
    """Bring the table ``conversations`` to what ``adjourn migrate`` makes, while others write to it.

    It may be cut short at any moment, and be run again. ``connection`` is one of its own: ``session.connected``.

    Raises InvalidValueError where there is nothing to adopt, AdoptionStoppedError when it is blocked or stops.
    """
    with alone(connection):
        become_owner(connection)
        seen = look(connection, choices)
        on_look(seen)
        if seen.blockers:
            raise AdoptionStoppedError(f"{counted(len(seen.blockers), 'thing')} in the way; nothing was changed")
        if (missing := missing_rights(seen.found.facts)) is not None:
            raise AdoptionStoppedError(f"{missing}; nothing was changed")
        work = Work(connection, choices, patience, pause)
        for step in STEPS:
            on_begin(step)
            started = time.monotonic()
            done = _run(step, work)
            on_step(step, done, time.monotonic() - started)


def _run(step: Step, work: Work) -> str | None:
    try:
        return step.run(work)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        raise AdoptionStoppedError(_refusal(step, error)) from error


def _refusal(step: Step, error: DBAPIError) -> str:
    """Return what to say when the database refused a step: a rule of the platform's did, or its server did."""
    diagnosis = getattr(error.orig, "diag", None)
    # Of a trigger, its function; not the row, which is people's.
    where = getattr(diagnosis, "context", None)
    told = f"{first_line(error)} ({where.splitlines()[0]})" if where else first_line(error)
    return (
        f"{step.name}: the database refused it: {told}. Where a trigger or a constraint of your own did, have it let "
        "Adjourn's changes pass. What is done stays done; run the same again: it goes on from here"
    )
