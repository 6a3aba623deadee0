"""Everything is restarted in turn, as an orchestrator does for a new version, while conversations come and go."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine

from services.database import create_database_engine
from services.timeouts import Timeouts
from tests.acceptance.commands import PROMPTLY, Command, answer, running
from tests.support import all_conversations, all_events, free_port, opened, wait_for

#: How late a conversation may end, in seconds: the objective is 120, of which the usual interval takes up 60.
LATEST = 20
IDLE_TIMEOUT = timedelta(seconds=1)


class Replica:
    """A worker or a scheduler, one of two, as long as its place is taken."""

    def __init__(self, stack: ExitStack, directory: Path, variables: dict[str, str], *command: str) -> None:
        self.is_scheduler = command[0] == "periodiq"
        self._port = str(free_port())
        name = "BACKGROUND_TASK_SCHEDULER_METRICS_PORT" if self.is_scheduler else "dramatiq_prom_port"
        self._variables = variables | {name: self._port}
        self._stack = stack
        self._directory = directory
        self._command = command
        #: Those that took the place, the present one last.
        self.processes: list[Command] = []

    def start(self) -> None:
        self.processes.append(
            self._stack.enter_context(running(*self._command, directory=self._directory, variables=self._variables))
        )

    def wait_until_ready(self) -> None:
        wait_for(lambda: answer(self._port, "/readyz")[0] == 200, what=f"{self._command[0]}, ready")

    def restart(self) -> None:
        """Tell it to stop, and start its successor once it has ended."""
        self.processes[-1].send(signal.SIGTERM)
        started = time.monotonic()
        assert self.processes[-1].wait() == 0
        assert time.monotonic() - started < 2 * PROMPTLY  # with all the others at work
        self.start()
        self.wait_until_ready()

    def logged(self, *messages: str) -> list[dict[str, Any]]:
        """Return what all of them have logged with these messages."""
        return [line for one in self.processes for line in one.logged() if line["message"] in messages]


@contextmanager
def coming_and_going(engine: Engine) -> Iterator[None]:
    """Open conversations all the while, ten a second, which nobody goes on with."""
    is_over = threading.Event()

    def open_them() -> None:
        timeouts = Timeouts(idle=IDLE_TIMEOUT, expiry=timedelta(hours=24))
        for number in count():
            opened(engine, now=datetime.now(UTC), number=number, timeouts=timeouts)
            if is_over.wait(0.1):
                return

    thread = threading.Thread(target=open_them)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def ticks(schedulers: list[Replica]) -> Counter[tuple[str, datetime]]:
    """Return the slots of the sweeps that were enqueued."""
    lines = [line for one in schedulers for line in one.logged("enqueued", "caught up")]
    return Counter(
        (line["actor"], datetime.fromisoformat(line["slot"])) for line in lines if line["actor"].startswith("process_")
    )


def test_a_restart_of_everything_in_turn_loses_no_tick_and_ends_all_once_and_in_time(
    postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    engine = create_database_engine(postgresql_url)
    variables = {
        "DATABASE_URL": postgresql_url,
        "REDIS_URL": redis_url,
        # Not one: on a busy machine a handover takes that long, and of the slots that it passes one is made up for.
        "BACKGROUND_TASK_INTERVAL": "2",
        # Whoever does not give its lease back has conversations end too late.
        "BACKGROUND_TASK_LEASE_TIMEOUT": "60",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "DEBUG",
    }
    with ExitStack() as stack, redis.Redis.from_url(redis_url) as client:
        workers = [
            Replica(stack, tmp_path, variables, "dramatiq", "actors", "--processes", "1", "--threads", "2")
            for _ in range(2)
        ]
        schedulers = [Replica(stack, tmp_path, variables, "periodiq", "actors") for _ in range(2)]
        for one in (*workers, *schedulers):
            one.start()
        for one in (*workers, *schedulers):
            one.wait_until_ready()
        with coming_and_going(engine):
            wait_for(lambda: len(all_events(engine)) > 5, what="the first endings")
            for one in (*workers, *schedulers):
                one.restart()
            enqueued = len(ticks(schedulers))
            wait_for(lambda: len(ticks(schedulers)) > enqueued + 2, what="ticks after all restarts")

        def are_all_ended() -> bool:
            return all(conversation.ended_at is not None for conversation in all_conversations(engine))

        wait_for(are_all_ended, what="the end of all conversations")
        for one in schedulers:
            one.processes[-1].send(signal.SIGTERM)
            one.processes[-1].wait()
        wait_for(lambda: not client.hlen("dramatiq:sweeps.msgs"), what="the end of the last runs")

        # No tick is lost, none doubled,
        sent = ticks(schedulers)
        assert set(sent.values()) == {1}
        for actor in ("process_idle_conversations", "process_expired_conversations"):
            slots = sorted(slot for name, slot in sent if name == actor)
            assert slots == [slots[0] + number * timedelta(seconds=2) for number in range(len(slots))]
            assert len(slots) > 5
        assert all(any(one.logged("leading")) for one in schedulers)

        # and each was run, once, or left to a later one.
        def taken() -> Counter[str]:
            lines = [line for one in workers for line in one.logged("swept", "tick dropped: a later run does its work")]
            return Counter(line["message_id"] for line in lines if "slot" in line)

        # What a worker says of a run is passed on by its command, and may come after what it tells Redis.
        wait_for(lambda: len(taken()) >= sum(sent.values()), what="a line of each run")
        messages = taken()
        assert set(messages.values()) == {1}
        assert len(messages) == sum(sent.values())
        assert client.zcard("dramatiq:sweeps.XQ") == 0

        endings = [event for event in all_events(engine) if event.ended]
        assert len({event.conv_id for event in endings}) == len(endings) == len(all_conversations(engine)) > 20
        late = max(event.occurred_at - event.deadline for event in endings)
        assert late < timedelta(seconds=LATEST), late
        for one in (*workers, *schedulers):
            assert not [process for process in one.processes if "Traceback" in process.output]
    engine.dispose()
