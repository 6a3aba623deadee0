"""What would have happened: a message history replayed on a simulated clock, through production's services and SQL.

The database is one of the simulation's own: a temporary SQLite file, a schema of its own on a PostgreSQL that is given,
or a SQLite file that is given and has no conversations. Nothing that was there before is touched.
"""

import heapq
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

from sqlalchemy import Engine, Select, collate, select
from sqlmodel import Session

from models.conversation import ConversationStatus, conversations
from models.event import conversation_events
from services import migrations
from services.conversations import Activity, open_or_resume_conversation
from services.database import open_session, reading
from services.database_url import parse_database_url
from services.errors import HistoryError, InvalidValueError
from services.simulation.databases import own_database, sqlite_engine, temporary_databases
from services.simulation.history import Message, Progress, read_history, shown_path
from services.simulation.outcomes import CUT_SHORT_WITHIN, CutShort, Distribution, EndedConversation, Outcome
from services.simulation.tally import Tally
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts

#: From one sweep to the next on the simulated clock, unless the timeouts are longer. Production sweeps each minute;
#: the outcome is the same, and years of a history would be millions of sweeps.
SHORTEST_SWEEP_INTERVAL = timedelta(hours=1)
#: Messages in one transaction: enough that commits do not show in the time that a replay takes.
MESSAGES_A_COMMIT = 1_000

#: What a history does not say of a conversation.
_OWNER = "simulation"
_CHANNEL = "simulation"
_FROM_NUMBER = "customer"
_TO_NUMBER = "inbox"

_c = conversations.c
_e = conversation_events.c


@dataclass(frozen=True, slots=True)
class _Told:
    """What the messages told of the conversations of a database, beyond what it keeps itself."""

    #: How many messages each conversation of a session key had, in the order of their openings.
    sizes: Mapping[str, Sequence[int]]
    #: How many were cut short, for each of ``CUT_SHORT_WITHIN``.
    cut_short: Sequence[int]


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay left: its conversations, in one database or in one for each process that took part."""

    timeouts: Timeouts
    _parts: Sequence[tuple[Engine, _Told]]

    def conversations(self) -> Iterator[EndedConversation]:
        """Yield all conversations by session key (in the order of its characters' code points) and opening."""
        parts = (_conversations_of(engine, told.sizes) for engine, told in self._parts)
        yield from heapq.merge(*parts, key=lambda one: (one.session_key, one.opened_at))

    def outcome(self) -> Outcome:
        """Return the figures that an operator compares."""
        ended = Counter[ConversationStatus]()
        durations: list[float] = []
        sizes: list[float] = []
        for conversation in self.conversations():
            ended[conversation.status] += 1
            durations.append(conversation.duration.total_seconds())
            sizes.append(conversation.messages)
        return Outcome(
            timeouts=self.timeouts,
            messages=round(sum(sizes)),
            conversations=len(sizes),
            ended_idle=ended[ConversationStatus.IDLE_TIMEOUT],
            ended_expired=ended[ConversationStatus.EXPIRED],
            duration=Distribution.of(durations),
            messages_a_conversation=Distribution.of(sizes),
            cut_short=tuple(
                CutShort(within, sum(counts))
                for within, *counts in zip(CUT_SHORT_WITHIN, *(told.cut_short for _, told in self._parts), strict=True)
            ),
        )


def compare(
    history: Path,
    *,
    choices: Sequence[Timeouts],
    database: str | None = None,
    progress: Callable[[Timeouts], AbstractContextManager[Progress]] | None = None,
    processes: int = 1,
) -> list[Outcome]:
    """Replay the history once for each of ``choices`` and return their outcomes, in that order.

    ``progress`` is called for each replay, and gives what to tell its progress to. Raises as ``replayed``, and
    InvalidValueError for several choices on one SQLite file, which keeps one result.
    """
    if database is not None and len(choices) > 1 and parse_database_url(database).get_backend_name() == "sqlite":
        raise InvalidValueError("a SQLite file keeps the result of one idle timeout; give one, or no database")
    outcomes = []
    for timeouts in choices:
        with (
            progress(timeouts) if progress else nullcontext() as tell,
            replayed(history, timeouts=timeouts, database=database, progress=tell, processes=processes) as replay,
        ):
            outcomes.append(replay.outcome())
    return outcomes


@contextmanager
def replayed(
    history: Path,
    *,
    timeouts: Timeouts,
    database: str | None = None,
    progress: Progress | None = None,
    sweep_interval: timedelta | None = None,
    processes: int = 1,
) -> Iterator[Replay]:
    """Replay the history until all conversations have ended, and give what it left, to be read inside the block.

    ``database`` is the URL of one to use instead of temporary files. On PostgreSQL a schema is made, and dropped at
    the end; a SQLite file keeps the result, unless the replay fails. ``sweep_interval`` is in simulated time; the
    default is the shorter timeout, and at least an hour. Without a ``database``, ``processes`` share the session keys
    out among them: conversations of two keys have nothing to do with each other.

    Raises HistoryError, and InvalidValueError for a database that is not to be used.
    """
    interval = sweep_interval or max(SHORTEST_SWEEP_INTERVAL, min(timeouts.idle, timeouts.expiry))
    script = _Script(history, timeouts, interval)
    if database is None:
        with temporary_databases(processes) as paths:
            told = _replay_in_processes(script, paths, progress)
            with ExitStack() as opened:
                engines = [opened.enter_context(sqlite_engine(path)) for path in paths]
                yield Replay(timeouts, list(zip(engines, told, strict=True)))
        return
    with own_database(parse_database_url(database)) as (engine, discard):
        try:
            told_here = _replay(script, engine, progress=progress)
        except BaseException:
            engine.dispose()
            discard()
            raise
        yield Replay(timeouts, [(engine, told_here)])


@dataclass(frozen=True, slots=True)
class _Script:
    """What is replayed."""

    history: Path
    timeouts: Timeouts
    sweep_interval: timedelta
    #: Which of the parts that session keys are shared out to, and how many there are.
    part: int = 0
    parts: int = 1

    def messages(self, progress: Progress | None) -> Generator[Message]:
        """Yield the messages of the part; all of the history is read, and has to be right."""
        with closing(read_history(self.history, progress=progress)) as messages:
            for message in messages:
                if self.parts == 1 or crc32(message.session_key.encode()) % self.parts == self.part:
                    yield message


def _replay_in_processes(script: _Script, paths: Sequence[Path], progress: Progress | None) -> list[_Told]:
    """Replay a part in this process, which tells its progress, and each of the others in one of its own."""
    first, *others = [replace(script, part=part, parts=len(paths)) for part in range(len(paths))]
    if not others:
        return [_replay_in_file(first, paths[0], progress)]
    # Not forked: the engines and threads of this process are its own.
    with ProcessPoolExecutor(
        len(others),
        mp_context=get_context("spawn"),
        # Ctrl-C goes to all of them: they have nothing to say, and this process tidies up.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_DFL),
    ) as pool:
        theirs = pool.map(_replay_in_file, others, paths[1:])
        return [_replay_in_file(first, paths[0], progress), *theirs]


def _replay_in_file(script: _Script, path: Path, progress: Progress | None = None) -> _Told:
    with sqlite_engine(path) as engine:
        return _replay(script, engine, progress=progress)


def _replay(script: _Script, engine: Engine, *, progress: Progress | None) -> _Told:
    tally = Tally()
    sweeps = _Sweeps(engine, script.sweep_interval)
    migrations.upgrade(engine)
    with open_session(engine) as session, closing(script.messages(progress)) as messages:
        for number, message in enumerate(messages, start=1):
            if sweeps.are_due(message.at):
                # A sweep has connections of its own, and SQLite one writer.
                session.commit()
                sweeps.catch_up(message.at, until=tally.latest_deadline)
            elif number % MESSAGES_A_COMMIT == 0:
                session.commit()
            tally.add(message, _take(session, message, script))
        session.commit()
    if tally.latest_deadline is not None:
        sweeps.catch_up(tally.latest_deadline + script.sweep_interval, until=tally.latest_deadline)
    return _Told(tally.sizes, tally.cut_short)


def _take(session: Session, message: Message, script: _Script) -> Activity:
    try:
        return open_or_resume_conversation(
            session,
            owner_id=message.owner or _OWNER,
            channel=_CHANNEL,
            from_number=_FROM_NUMBER,
            to_number=_TO_NUMBER,
            session_key=message.session_key,
            now=message.at,
            timeouts=script.timeouts,
        )
    except InvalidValueError as error:
        # What no row says by itself: the key is another owner's.
        raise HistoryError(f"{shown_path(script.history)}, line {message.line}, column {error}") from None


class _Sweeps:
    """Production's two sweeps, every ``interval`` of simulated time while there is something that could be due."""

    def __init__(self, engine: Engine, interval: timedelta) -> None:
        self._engine = engine
        self._interval = interval
        self._next_at: datetime | None = None

    def are_due(self, now: datetime) -> bool:
        """Whether the clock has come to the next ones; the first message starts the clock."""
        if self._next_at is None:
            self._next_at = now + self._interval
        return self._next_at <= now

    def catch_up(self, now: datetime, *, until: datetime | None) -> None:
        """Run those that are due up to ``now``; after one that is at or past ``until``, nothing is active."""
        if self._next_at is None or until is None:
            return
        while self._next_at <= now and self._next_at - self._interval < until:
            # The simulated moment is the moment: no time passes while a sweep runs, and it always finishes.
            process_idle_conversations(self._engine, now=self._next_at, stopwatch=float)
            process_expired_conversations(self._engine, now=self._next_at, stopwatch=float)
            self._next_at += self._interval
        if self._next_at <= now:
            self._next_at += self._interval * ((now - self._next_at) // self._interval + 1)


def _conversations_of(engine: Engine, sizes: Mapping[str, Sequence[int]]) -> Iterator[EndedConversation]:
    with reading(engine) as connection:
        ended = _ended_conversations(connection.dialect.name)
        rows = connection.execute(ended, execution_options={"yield_per": 1_000})
        for key, of_key in groupby(rows, key=lambda row: row.session_key):
            for row, messages in zip(of_key, sizes[key], strict=True):
                yield EndedConversation(**row._mapping, messages=messages)  # noqa: SLF001 - public in spite of its name


def _ended_conversations(dialect: str) -> Select[Any]:
    # Any other collation of PostgreSQL sorts as a person would, and each server's its own way.
    by_code_point = collate(_c.session_key, "C" if dialect == "postgresql" else "BINARY")
    return (
        select(
            _c.session_key,
            _c.created_at.label("opened_at"),
            _c.updated_at.label("last_activity_at"),
            _e.deadline,
            _e.status,
        )
        .join(conversation_events, (_e.conv_id == _c.conv_id) & _e.ended.is_(True))
        .order_by(by_code_point, _c.created_at)
    )
