"""Measure how much is due and how much is active, within a budget, from the indexes of deadlines alone."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Select,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.exc import DBAPIError

from models.columns import UtcDateTime
from models.conversation import active, conversations, due_expiry, due_idle
from services import set_aside
from services.backlog import Backlog, TaskBacklog
from services.database import current_time, reading, set_locally
from services.tasks import Task

#: How long a measurement may take.
DEFAULT_BUDGET = timedelta(seconds=2)
#: How far is counted: docs/performance.md says what a million takes.
DEFAULT_CAP = 1_000_000

#: For the transaction. Every query has the order of an index, which PostgreSQL walks when it may not sort, whatever it
#: expects of the table; on one core, and without compiling the plan, which takes longer than it saves. Whoever has the
#: table locked, a migration, is not waited for.
_SETTINGS = {
    "transaction_read_only": "on",
    "lock_timeout": "100ms",
    "max_parallel_workers_per_gather": "0",
    **dict.fromkeys(("enable_sort", "jit"), "off"),
}
#: How PostgreSQL says that a statement took too long, or waited too long for a lock.
_TOO_LONG = {"57014", "55P03"}
#: After so many steps of its machine SQLite asks whether to go on: a few times a millisecond.
_STEPS = 10_000

_c = conversations.c
_NOW = bindparam("now", type_=UtcDateTime())
# Written out, so that the planner knows it.
_LIMIT = bindparam("limit", type_=Integer(), literal_execute=True)


def _count(where: ColumnElement[bool], *, along: Column[datetime]) -> Select[Any]:
    """Return the statement that counts, up to ``limit``, along the index of a deadline."""
    found: Select[Any] = (
        select(literal_column("1")).select_from(conversations).where(where).order_by(along).limit(_LIMIT)
    )
    return select(func.count()).select_from(found.subquery("found"))


@dataclass(frozen=True)
class _Kind:
    """What tells the two tasks apart."""

    task: Task
    #: The deadline that its sweep goes by.
    due_at: Column[datetime]
    due: Callable[[ColumnElement[datetime]], ColumnElement[bool]]

    @cached_property
    def first(self) -> Select[Any]:
        """The first deadline of what is due at ``now``, if anything is."""
        return select(self.due_at).where(self.due(_NOW)).order_by(self.due_at).limit(1)

    @cached_property
    def first_not_set_aside(self) -> Select[Any]:
        """The same of what is not set aside: the index alone does not tell."""
        return self.first.where(set_aside.not_set_aside)

    @cached_property
    def count_set_aside(self) -> Select[Any]:
        """How many of these are set aside. To leave them out of ``count`` would cost it a look at each."""
        return select(func.count()).select_from(conversations).where(self.due(_NOW), ~set_aside.not_set_aside)

    @cached_property
    def count(self) -> Select[Any]:
        """How many are due at ``now``, up to ``limit``."""
        return _count(self.due(_NOW), along=self.due_at)


_KINDS = (_Kind(Task.IDLE, _c.idle_at, due_idle), _Kind(Task.EXPIRED, _c.expires_at, due_expiry))
#: Along the deadline that moves with activity: those that had some at about the same time lie together in the table,
#: where each is looked up that no vacuum has seen since.
_COUNT_ACTIVE = _count(active, along=_c.idle_at)
#: As many entries as the last VACUUM found in that index, or the last ANALYZE inferred; -1 before the first. The
#: planner's own estimate grows with the index's pages, which stay when the entries go.
_ESTIMATE_ACTIVE = (
    select(cast(column("reltuples"), BigInteger))
    .where(column("oid") == func.to_regclass("conversations_active_idle_at"))
    .select_from(table("pg_class"))
)


class _TooLongError(Exception):
    """The time is up, or another has the table: this cannot be measured now, nor what comes after it."""


def measure_backlog(engine: Engine, *, budget: timedelta = DEFAULT_BUDGET, cap: int = DEFAULT_CAP) -> Backlog:
    """Return how much is due, for each task by the predicate of its sweep, how much is active, how much is set aside.

    What is set aside counts as active and not as due. Counts stop at ``cap``; how many are active beyond it,
    PostgreSQL's statistics say. Where there are none, before the first vacuum or ANALYZE and on SQLite, ``active`` is
    ``cap`` then. What is not measured when ``budget`` is spent is
    None, and so is all of it while another transaction locks the whole table. What is due longest comes first, then
    how much is due, then how much is active.

    It reads in one transaction, which holds a vacuum back for no longer than a statement takes.

    Raises sqlalchemy.exc.DBAPIError when the database cannot be asked.
    """
    first: dict[Task, datetime | None] = {}
    due: dict[Task, int] = {}
    active_counted = active_estimate = aside = None
    deadline = time.monotonic() + budget.total_seconds()
    with reading(engine) as connection, _interrupting(connection, deadline):
        set_locally(connection, **_SETTINGS)
        now = current_time(connection)
        ask = partial(_ask, connection, deadline)
        # One more than the cap, to see whether there are more.
        with suppress(_TooLongError):
            aside = ask(set_aside.COUNT_NOTED) and ask(set_aside.COUNT)
            for kind in _KINDS:
                first[kind.task] = ask(kind.first_not_set_aside if aside else kind.first, now=now)
                if first[kind.task] is None:
                    due[kind.task] = 0
            for kind in _KINDS:
                if kind.task not in due:
                    counted = ask(kind.count, now=now, limit=cap + 1)
                    left_out = ask(kind.count_set_aside, now=now) if aside and counted <= cap else 0
                    due[kind.task] = max(0, counted - left_out)
            # What is due is active.
            most_due = max(due.values())
            active_counted = most_due if most_due > cap else ask(_COUNT_ACTIVE, limit=cap + 1)
            if active_counted > cap and connection.dialect.name == "postgresql":
                active_estimate = ask(_ESTIMATE_ACTIVE)
    is_estimate = active_counted is not None and active_counted > cap
    return Backlog(
        measured_at=now,
        active=max(cap, active_estimate or 0) if is_estimate else active_counted,
        active_is_estimate=is_estimate,
        tasks={task: _task_backlog(now, first.get(task), due.get(task), cap) for task in Task},
        set_aside=aside,
    )


def _task_backlog(now: datetime, first: datetime | None, due: int | None, cap: int) -> TaskBacklog:
    return TaskBacklog(
        due=None if due is None else min(due, cap),
        due_is_capped=due is not None and due > cap,
        oldest_due=None if first is None else now - first,
    )


def _ask(connection: Connection, deadline: float, statement: Select[Any], **parameters: Any) -> Any:
    """Return the one value of ``statement``, or None when there is no row.

    Raises _TooLongError at ``deadline``, which is in seconds of the monotonic clock.
    """
    left = int((deadline - time.monotonic()) * 1000)
    if left <= 0:  # which PostgreSQL would take for: no limit
        raise _TooLongError
    try:
        set_locally(connection, statement_timeout=str(left))
        return connection.execute(statement, parameters).scalar_one_or_none()
    except DBAPIError as error:
        if _is_too_long(error.orig):
            raise _TooLongError from None
        raise


def _is_too_long(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.Error):
        return error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
    return getattr(error, "sqlstate", None) in _TOO_LONG


@contextmanager
def _interrupting(connection: Connection, deadline: float) -> Iterator[None]:
    """Have SQLite, which knows no timeout of a statement, interrupt those that are not done at ``deadline``."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield
        return
    driver.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)
