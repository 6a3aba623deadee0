"""Workers and schedulers that are started before what they depend on."""

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from services.database import create_database_engine
from services.monitoring.worker_state import is_there
from services.scheduling.keys import LEASE
from tests.acceptance.commands import PROMPTLY, Command, answer, run, running
from tests.acceptance.test_health_command import Postgresql
from tests.servers import redis_server_with
from tests.support import all_events, free_port, opened, wait_for


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL that is stopped, and without tables."""
    # Not below pytest's own directory, which only its user may enter: as root, the server runs as another.
    with tempfile.TemporaryDirectory(prefix="adjourn-postgresql-", ignore_cleanup_errors=True) as directory:
        server = Postgresql(Path(directory))
        server.stop()
        yield server
        server.close()


def about_waiting(worker: Command) -> list[str]:
    """Return what a worker has logged about its waiting."""
    return [line["message"] for line in worker.logged() if line["logger"] == "actors.startup"]


def ends_promptly(command: Command) -> None:
    started = time.monotonic()
    command.send(signal.SIGTERM)
    assert command.wait() == 0
    assert time.monotonic() - started < PROMPTLY
    assert "Traceback" not in command.output


def test_all_may_be_started_in_any_order(postgresql: Postgresql, tmp_path: Path) -> None:
    with ExitStack() as running_ones:
        server = running_ones.enter_context(redis_server_with(tmp_path / "redis"))
        server.kill()
        port = str(free_port())
        variables = {
            "DATABASE_URL": postgresql.url,
            "REDIS_URL": server.url,
            "BACKGROUND_TASK_INTERVAL": "1",
            "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
            "LOG_FORMAT": "json",
            "dramatiq_prom_port": port,
        }

        def start(*command: str) -> Command:
            return running_ones.enter_context(running(*command, directory=tmp_path, variables=variables))

        def waits_for(*missing: str) -> None:
            def said() -> bool:
                code, report = answer(port, "/readyz")
                reasons = " ".join(report.get("reasons", ()))
                return code == 503 and all(f"{what}" in reasons for what in missing)

            wait_for(said, what=f"word of waiting for {missing}")
            assert answer(port, "/healthz")[0] == 200

        worker = start("dramatiq", "actors", "--processes", "2", "--threads", "2")
        waits_for("takes no messages yet: cannot use Redis at", "cannot use the database at")
        told = run("adjourn", "health", "worker", directory=tmp_path, variables=variables)
        assert (told.returncode, "takes no messages yet: cannot use Redis at" in told.stdout) == (1, True)
        scheduler = start("periodiq", "actors")
        scheduler.wait_for_output("redis is down")

        server.start()
        with redis.Redis.from_url(server.url) as client:
            wait_for(lambda: client.llen("dramatiq:sweeps") >= 4, what="ticks that nobody takes")
            waits_for("takes no messages yet: cannot use the database at")
            postgresql.start()
            waits_for("has no Adjourn tables; run: adjourn migrate")
            with client.pipeline() as at_once:  # more are coming
                waiting, kept = at_once.llen("dramatiq:sweeps").hlen("dramatiq:sweeps.msgs").execute()
            assert waiting == kept >= 4

            assert run("adjourn", "migrate", directory=tmp_path, variables=variables).returncode == 0
            engine = create_database_engine(postgresql.url)
            opened(engine, now=datetime.now(UTC) - timedelta(hours=1))
            wait_for(lambda: [event for event in all_events(engine) if event.ended], what="the end of a conversation")
            engine.dispose()
        wait_for(lambda: answer(port, "/readyz")[0] == 200, what="its readiness")
        processes = {line["process"] for line in worker.logged()}
        assert len(processes) == 3  # two, and the one that answers
        ends_promptly(worker)
        assert not any(map(is_there, processes))

        # A line of each process when it begins to wait, and when it goes on.
        assert sorted(about_waiting(worker)) == [
            *["nothing is missing any more: messages are taken from now on"] * 2,
            *["waiting before any message is taken"] * 2,
        ]
        assert "Traceback" not in worker.output + scheduler.output


def absent(port: int) -> dict[str, str]:
    """Return the variables of a worker with Redis and the database at a port where neither is."""
    return {
        "REDIS_URL": f"redis://:secret@127.0.0.1:{port}/0",
        "DATABASE_URL": f"postgresql://u:secret@127.0.0.1:{port}/x",
        "LOG_FORMAT": "json",
        "dramatiq_prom_port": str(free_port()),
    }


def started(worker: Command, variables: dict[str, str]) -> None:
    """Wait until a worker answers that it takes no messages."""

    def waits() -> bool:
        code, report = answer(variables["dramatiq_prom_port"], "/readyz")
        return code == 503 and "takes no messages yet" in " ".join(report["reasons"])

    wait_for(waits, what=f"a worker that waits: {worker.output}")


def test_a_worker_that_waits_for_who_says_nothing_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        variables = absent(listening.getsockname()[1])
        with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
            started(worker, variables)
            ends_promptly(worker)
            assert "secret" not in worker.output


def test_a_worker_that_waits_ends_with_its_command(tmp_path: Path) -> None:
    variables = absent(free_port())
    with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
        started(worker, variables)
        processes = {line["process"] for line in worker.logged()}
        worker.send(signal.SIGKILL)
        worker.wait()
        wait_for(lambda: not any(map(is_there, processes)), what="the end of its processes")
        assert "secret" not in worker.output


def test_a_scheduler_that_is_told_to_stop_while_it_starts_ends_and_leaves_no_lease(
    redis_url: str, tmp_path: Path
) -> None:
    variables = {"REDIS_URL": redis_url, "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0", "LOG_FORMAT": "json"}
    codes = []
    with redis.Redis.from_url(redis_url) as client:
        for tenths in (1, 4, 7, 10, None):
            with running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler:
                if tenths is None:
                    scheduler.wait_for_output("leading")
                else:
                    with pytest.raises(subprocess.TimeoutExpired):
                        scheduler.wait(tenths / 10)
                scheduler.send(signal.SIGTERM)
                told_at = time.monotonic()
                codes.append(scheduler.wait())
                assert time.monotonic() - told_at < PROMPTLY
                assert "Traceback" not in scheduler.output
                assert not client.exists(LEASE)
    # Before its handler is set the signal itself ends it.
    assert set(codes) <= {-signal.SIGTERM, 0}
    assert codes[-1] == 0


#: Periodiq whose first SIGTERM another thread takes, while its loop waits for an alarm that is far away.
TAKES_THE_SIGNAL = """
import signal, sys, threading, time
import periodiq

main = threading.main_thread().ident

def waits():
    frame = sys._current_frames()[main]
    # At the top there is no frame behind it.
    return frame.f_back is not None and [frame.f_code.co_name, frame.f_back.f_code.co_name] == ["wait", "get"]

def take_it():
    while not waits():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=take_it, daemon=True).start()
periodiq.entrypoint()
"""


def test_a_scheduler_ends_also_when_another_thread_takes_the_signal(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "taking.py").write_text(TAKES_THE_SIGNAL)
    variables = {
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "86400",
        "BACKGROUND_TASK_ENABLE_METRICS": "false",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
    }
    with running("python", "taking.py", "actors", directory=tmp_path, variables=variables) as scheduler:
        # It takes a moment to start, a few seconds more at the end of a minute.
        assert scheduler.wait() == 0
        assert "Traceback" not in scheduler.output
    with redis.Redis.from_url(redis_url) as client:
        assert not client.exists(LEASE)


#: Periodiq with an alarm that comes when Python has let go of its handlers, and has not quite ended.
ENDS_SLOWLY = """
import atexit, signal, time
import periodiq

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.5)

slow = Slow()
atexit.register(signal.setitimer, signal.ITIMER_REAL, 0.2)  # it runs last
periodiq.entrypoint()
"""


def test_a_scheduler_that_ends_is_not_killed_by_the_alarm_for_its_next_slot(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text(ENDS_SLOWLY)
    variables = {"REDIS_URL": redis_url, "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0"}
    with running("python", "ending.py", "actors", directory=tmp_path, variables=variables) as scheduler:
        scheduler.wait_for_output("leading")
        scheduler.send(signal.SIGTERM)
        assert scheduler.wait() == 0
