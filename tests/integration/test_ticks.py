import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dramatiq
import pendulum
import pytest
import redis
from dramatiq import Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from actors.ticks import TickMiddleware
from services.schedules import Cron, Every, Schedule
from services.session_keys import canonical_session_key
from services.settings import Settings
from tests.support import NOON, wait_for

SECOND = timedelta(seconds=1)

# Importing the actors configures the logging of a process of theirs; this one is pytest's.
logging.getLogger().handlers.clear()


class Task:
    """An actor on a broker of its own that counts its runs."""

    def __init__(self, broker: RedisBroker, schedule: Schedule, *, failures: int = 0, name: str = "task") -> None:
        self.runs = 0
        self._failures = failures
        self._lock = threading.Lock()
        self.actor: Any = dramatiq.actor(
            broker=broker, actor_name=name, periodic=schedule, max_retries=3, min_backoff=10, max_backoff=10
        )(self._run)

    def _run(self) -> None:
        with self._lock:
            self.runs += 1
            if self.runs <= self._failures:
                raise ConnectionError("try again")

    def tick(self, woken: datetime) -> Any:
        """Send the message as Periodiq does when it wakes up."""
        return self.actor.send_with_options(scheduled_at=str(pendulum.instance(woken).in_timezone("Asia/Kathmandu")))


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    broker = RedisBroker(url=redis_url, middleware=[TickMiddleware(), Retries()])  # type: ignore[no-untyped-call]
    yield broker
    broker.close()
    broker.client.close()
    broker.client.connection_pool.disconnect()


@contextmanager
def working(broker: RedisBroker, threads: int = 1) -> Iterator[None]:
    worker = Worker(broker, worker_timeout=50, worker_threads=threads)
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def is_drained(url: str) -> Callable[[], bool]:
    def drained() -> bool:
        with redis.Redis.from_url(url) as client:
            keys = ("dramatiq:default", "dramatiq:default.DQ", "dramatiq:default.msgs", "dramatiq:default.DQ.msgs")
            return not any(client.exists(key) for key in keys)

    return drained


def messages(url: str, queue: str = "default") -> list[dict[str, Any]]:
    with redis.Redis.from_url(url) as client:
        kept: Any = client.hgetall(f"dramatiq:{queue}.msgs")
    return [json.loads(message) for message in kept.values()]


@pytest.mark.parametrize(
    ("schedule", "woken", "slot"),
    [
        (Every(seconds=10), NOON, "2026-01-31T12:00:00+00:00"),
        (Every(seconds=10), NOON + 9.999 * SECOND, "2026-01-31T12:00:00+00:00"),
        (Every(seconds=10), NOON + 10 * SECOND, "2026-01-31T12:00:10+00:00"),
        (Every(seconds=60), NOON + 41 * SECOND, "2026-01-31T12:00:00+00:00"),
        (Cron("30 13 * * *", tz="Europe/Paris"), NOON + timedelta(minutes=31), "2026-01-31T12:30:00+00:00"),
    ],
)
def test_a_tick_in_redis_carries_its_slot_in_utc(
    broker: RedisBroker, redis_url: str, schedule: Schedule, woken: datetime, slot: str
) -> None:
    Task(broker, schedule).tick(woken)

    (message,) = messages(redis_url)
    assert message["options"]["scheduled_at"] == slot


def test_what_a_person_sends_carries_no_slot_and_is_always_run(broker: RedisBroker, redis_url: str) -> None:
    task = Task(broker, Every(seconds=60))
    for _ in range(3):
        task.actor.send()
    assert [set(message["options"]) for message in messages(redis_url)] == [{"redis_message_id"}] * 3

    with working(broker):
        wait_for(is_drained(redis_url), what="an empty queue")

    assert task.runs == 3


def test_a_tick_is_run_however_late_or_early_it_comes(broker: RedisBroker, redis_url: str) -> None:
    task = Task(broker, Every(seconds=3_600))
    now = datetime.now(UTC)
    for hours in (5, 0, -1):  # five hours late, up to one hour late, and early
        task.tick(now - timedelta(hours=hours))

    with working(broker):
        wait_for(is_drained(redis_url), what="an empty queue")

    assert task.runs == 3


def test_retries_are_not_skipped_however_old_their_slot_is(broker: RedisBroker, redis_url: str) -> None:
    task = Task(broker, Every(seconds=1), failures=3)
    task.tick(datetime.now(UTC) - timedelta(hours=2))

    with working(broker):
        wait_for(lambda: task.runs == 4 and is_drained(redis_url)(), what="the third retry")


def test_a_retry_keeps_the_slot_of_its_tick(broker: RedisBroker, redis_url: str) -> None:
    task = Task(broker, Every(seconds=60), failures=1)
    seen: list[dict[str, Any]] = []

    class Watch(dramatiq.Middleware):
        def before_process_message(self, broker: Any, message: Any) -> None:
            del broker
            seen.append(dict(message.options))

    broker.add_middleware(Watch())
    task.tick(NOON + 41 * SECOND)
    with working(broker):
        wait_for(lambda: task.runs == 2 and is_drained(redis_url)(), what="the retry")

    assert [options["scheduled_at"] for options in seen] == ["2026-01-31T12:00:00+00:00"] * 2
    assert [options.get("retries", 0) for options in seen] == [0, 1]


# The broker of production, in a process of its own because it reads its settings when it is imported.


def run_actors(script: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {field.alias for field in Settings.model_fields.values()}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    return subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        env={**kept, "ADJOURN_DATA_DIR": str(directory), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(canonical_session_key.__code__.co_filename).parent.parent,
    )


def test_the_scheduler_is_never_told_to_wake_up_in_the_past_however_long_a_send_took(tmp_path: Path) -> None:
    script = (
        "from datetime import UTC, datetime, timedelta\n"
        "from actors.startup import Scheduled\n"
        "from services.schedules import Every\n"
        "now = datetime.now(UTC)\n"
        "print(Scheduled(Every(seconds=1)).next_valid_date(now - timedelta(minutes=1)) > now)\n"
    )

    assert run_actors(script, tmp_path).stdout == "True\n"


def test_the_ticks_of_both_sweeps_carry_their_slots(redis_url: str, tmp_path: Path) -> None:
    script = (
        "import actors\n"
        "for actor in (actors.process_idle_conversations, actors.process_expired_conversations):\n"
        "    actor.send_with_options(scheduled_at='2026-01-31 12:00:41+00:00')\n"
    )

    done = run_actors(script, tmp_path, REDIS_URL=redis_url, BACKGROUND_TASK_EXPIRED_SCHEDULE="*/5 * * * *")

    assert (done.returncode, done.stderr) == (0, "")
    sent = {message["actor_name"]: message["options"]["scheduled_at"] for message in messages(redis_url, "sweeps")}
    assert sent == {
        "process_idle_conversations": "2026-01-31T12:00:00+00:00",
        "process_expired_conversations": "2026-01-31T12:00:00+00:00",
    }


def test_importing_the_actors_connects_to_nothing_and_a_task_that_is_off_has_no_schedule(tmp_path: Path) -> None:
    script = "import actors; print([a.actor_name for a in actors.broker.actors.values() if 'periodic' in a.options])"

    done = run_actors(
        script,
        tmp_path,
        REDIS_URL="redis://127.0.0.1:1",
        DATABASE_URL="postgresql://127.0.0.1:1/none",
        BACKGROUND_TASK_IDLE_ENABLED="false",
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['process_expired_conversations']"


def test_a_redis_that_never_answered_ends_the_scheduler_with_one_line_without_the_password(tmp_path: Path) -> None:
    script = (
        "import actors, pendulum\n"
        "actors.process_idle_conversations.options['periodic'].validate(pendulum.datetime(2026, 1, 31, 12))\n"
    )

    done = run_actors(script, tmp_path, REDIS_URL="redis://:pa55word@127.0.0.1:1")

    assert done.returncode == 1
    assert done.stderr.startswith("adjourn: cannot use Redis at redis://***@127.0.0.1:1: ")
    assert done.stderr.count("\n") == 1
    assert "pa55word" not in done.stderr


def test_a_tick_in_vain_is_logged_and_the_next_one_is_sent_when_redis_is_back(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from services.embedded.redis_server import PrivateRedis
server = PrivateRedis(Path({str(tmp_path / "redis")!r}))
os.environ["REDIS_URL"] = server.url
import actors, redis
actor = actors.process_idle_conversations
def tick():
    actor.send_with_options(scheduled_at="2026-01-31T12:00:00Z")
    return actors.broker.do_qsize("sweeps") if server.is_running() else None
server.start()
first = tick()
server.stop()
tick()
try:
    actor.send()
except redis.ConnectionError:
    print("what is no tick is raised")
server.start()
print(tick() - first)
server.stop()
"""
    done = run_actors(script, tmp_path, LOG_FORMAT="json")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["what is no tick is raised", "1"]
    (line,) = done.stderr.splitlines()
    assert {"message": "tick lost", "actor": "process_idle_conversations"}.items() <= json.loads(line).items()


def test_a_setting_that_makes_no_sense_ends_the_import_with_one_line(tmp_path: Path) -> None:
    done = run_actors("import actors", tmp_path, BACKGROUND_TASK_INTERVAL="soon")

    assert done.returncode == 1
    assert done.stderr.startswith("adjourn: BACKGROUND_TASK_INTERVAL='soon': ")
    assert done.stderr.count("\n") == 1
