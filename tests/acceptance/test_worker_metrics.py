"""The metrics of real workers: right across processes and threads, and after one of them was killed."""

import os
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import redis
from sqlalchemy import Engine, text

from services.database import create_database_engine
from services.lags import LAG_BUCKETS
from services.monitoring.worker_state import is_there
from services.tasks import Task
from tests.acceptance.commands import Command, run, running
from tests.support import free_port, wait_for

#: Conversations that are due: idle since up to ten minutes, one in ten of them expired as well.
DUE = text("""
    INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status, created_at,
        updated_at, idle_at, expires_at)
    SELECT gen_random_uuid(), 'acme', 'sms', '+1', '+2', gen_random_uuid()::text, 'progress', now() - interval '2 days',
        now() - interval '1 hour', now() - n % 600 * interval '1 second',
        now() + CASE WHEN n % 10 = 0 THEN -1 ELSE 1 END * interval '1 day'
    FROM generate_series(1, :count) n
""")
#: Of the events since an instant: how many, their lags, and how many lags within each bucket.
EVENTS = text("""
    SELECT count(*), coalesce(sum(extract(epoch FROM occurred_at - deadline)), 0)
    FROM conversation_events WHERE cause = 'sweep' AND occurred_at >= :since
""")
WITHIN = text("""
    SELECT count(*) FROM conversation_events
    WHERE cause = 'sweep' AND occurred_at >= :since AND occurred_at - deadline <= make_interval(secs => :bound)
""")
LEFT = text("SELECT count(*) FROM conversations WHERE status IN ('pending', 'progress') AND idle_at <= now()")


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    engine = create_database_engine(postgresql_url)
    yield engine
    engine.dispose()


def make_due(engine: Engine, count: int) -> datetime:
    """Make conversations due, and return since when."""
    with engine.begin() as connection:
        connection.execute(DUE, {"count": count})
        since: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return since


def scrape(port: str) -> dict[str, float]:
    """Return the value of each series that an endpoint exposes; none while it does not answer."""
    # An answer that breaks off is none either.
    with suppress(OSError, HTTPException), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        lines = response.read().decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}
    return {}


def by_task(values: dict[str, float], name: str) -> float:
    """Return a metric of both tasks together."""
    return sum(value for series, value in values.items() if series.startswith(f"{name}{{"))


def wait_until_swept(engine: Engine, client: redis.Redis) -> None:
    """Return when nothing is due, and the runs that saw to it have ended."""

    def done() -> bool:
        with engine.connect() as connection:
            left = connection.execute(LEFT).scalar_one()
        return not left and not client.hlen("dramatiq:sweeps.msgs") and not client.hlen("dramatiq:drains.msgs")

    wait_for(done, what="the end of what is due")


def agree(values: dict[str, float], engine: Engine, since: datetime) -> None:
    """Check that the metrics of a worker say what the database does of what ended since it started."""
    with engine.connect() as connection:
        count, lags = connection.execute(EVENTS, {"since": since}).one()
        within = {
            bound: connection.execute(WITHIN, {"since": since, "bound": bound}).scalar_one() for bound in LAG_BUCKETS
        }
    assert by_task(values, "background_conversations_processed_total") == count
    assert values["conversation_end_lag_seconds_count"] == count
    assert values["conversation_end_lag_seconds_sum"] == pytest.approx(float(lags), rel=1e-9)
    told = {bound: values[f'conversation_end_lag_seconds_bucket{{le="{float(bound)}"}}'] for bound in LAG_BUCKETS}
    assert told == within
    assert by_task(values, "background_task_failures_total") == 0


def ended_by_redis(client: redis.Redis) -> int:
    """Return what ``adjourn status`` says that the two tasks have ended."""
    return sum(int(client.hget(f"adjourn:task:process_{task}", "ended") or 0) for task in Task)


def send_ticks(directory: Path, variables: dict[str, str], *, each: int) -> None:
    """Send both sweeps so often."""
    script = (
        "import actors\n"
        f"for _ in range({each}):\n"
        "    actors.process_idle_conversations.send()\n"
        "    actors.process_expired_conversations.send()"
    )
    assert run("python", "-c", script, directory=directory, variables=variables).returncode == 0


def lines(worker: Command, message: str) -> list[dict[str, Any]]:
    """Return what a worker logged as JSON with this message."""
    return [line for line in worker.logged() if line["message"] == message]


def swept(worker: Command) -> list[dict[str, Any]]:
    return lines(worker, "swept")


def worker_processes(worker: Command) -> list[int]:
    return [line["process"] for line in lines(worker, "Worker process is ready for action.")]


def test_counters_of_all_processes_and_threads_say_what_the_database_does_also_after_one_was_killed(
    engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    port = str(free_port())
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "dramatiq_prom_port": port}
    variables |= {"BACKGROUND_TASK_BATCH_SIZE": "50", "BACKGROUND_TASK_DRAIN_WORKERS": "8", "LOG_FORMAT": "json"}
    size = ("--processes", "2", "--threads", "4")
    with redis.Redis.from_url(redis_url) as client:
        since = make_due(engine, 6_000)
        with running("dramatiq", "actors", *size, directory=tmp_path, variables=variables) as worker:
            worker.wait_for_output("Worker process is ready", times=2)
            send_ticks(tmp_path, variables, each=4)
            wait_until_swept(engine, client)
            wait_for(lambda: {line["process"] for line in swept(worker)} == set(worker_processes(worker)), what="both")
            agree(wait_for(lambda: scrape(port), what="metrics"), engine, since)
            assert ended_by_redis(client) == 6_000

            # dramatiq's master would end the others: here it does not notice yet.
            worker.send(signal.SIGSTOP)
            os.kill(worker_processes(worker)[0], signal.SIGKILL)
            agree(scrape(port), engine, since)
            make_due(engine, 2_000)
            send_ticks(tmp_path, variables, each=2)
            wait_until_swept(engine, client)
            agree(scrape(port), engine, since)
            worker.send(signal.SIGCONT)
            assert worker.wait() != 0

        since = make_due(engine, 1_000)
        send_ticks(tmp_path, variables, each=2)
        with running("dramatiq", "actors", *size, directory=tmp_path, variables=variables):
            wait_until_swept(engine, client)
            agree(wait_for(lambda: scrape(port), what="metrics"), engine, since)


def test_two_commands_of_one_machine_count_for_themselves_with_no_more_than_another_port(
    engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    ports = [str(free_port()) for _ in range(2)]
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "BACKGROUND_TASK_BATCH_SIZE": "50"}
    since = make_due(engine, 2_000)
    with redis.Redis.from_url(redis_url) as client, ExitStack() as commands:
        for port in ports:
            given = {**variables, "dramatiq_prom_port": port}
            worker = commands.enter_context(
                running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=given)
            )
            worker.wait_for_output("Worker process is ready")
        send_ticks(tmp_path, variables, each=4)
        wait_until_swept(engine, client)
        told = [wait_for(lambda port=port: scrape(port), what="metrics") for port in ports]  # type: ignore[misc]

        both = {name: sum(values.get(name, 0) for values in told) for name in told[0] | told[1]}
        agree(both, engine, since)
        name = 'dramatiq_messages_total{actor_name="process_idle_conversations",queue_name="sweeps"}'
        assert sum(values.get(name, 0) for values in told) == 4
        # What is the cluster's, both tell alike.
        wait_for(lambda: scrape(ports[0])["background_workers_alive"] == 2, what="both workers")
        assert scrape(ports[1])["background_workers_alive"] == 2


def test_a_port_that_is_taken_stops_no_worker(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        variables = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "dramatiq_prom_host": "127.0.0.1"}
        variables["dramatiq_prom_port"] = port = str(holder.getsockname()[1])
        with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
            worker.wait_for_output("no metrics and no health: the port cannot be used")
            holder.close()
            wait_for(lambda: scrape(port), what="metrics, once the port is free")
            assert "Traceback" not in worker.output


def test_metrics_that_are_turned_off_are_not_measured_kept_or_told(
    sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    ports = [str(free_port()) for _ in range(2)]
    variables = {
        "DATABASE_URL": sqlite_url,
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "BACKGROUND_TASK_ENABLE_METRICS": "false",
        "dramatiq_prom_port": ports[0],
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": ports[1],
        "dramatiq_prom_db": str(tmp_path / "runs"),
        "LOG_LEVEL": "DEBUG",
    }
    with (
        running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler,
        redis.Redis.from_url(redis_url) as client,
    ):
        worker.wait_for_output("swept", times=4)
        for command, port in ((worker, ports[0]), (scheduler, ports[1])):
            command.wait_for_output("metrics and health")
            with pytest.raises(HTTPError) as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
            with refused.value:
                assert refused.value.code == HTTPStatus.NOT_FOUND
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as live:
                assert live.status == HTTPStatus.OK
        assert list((tmp_path / "runs").rglob("*.db")) == []
        assert not client.exists("adjourn:backlog", "adjourn:task:measure_backlog")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to_is_one_line(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    _refused({"dramatiq_prom_db": str(closed / "runs")}, sqlite_url, redis_url, tmp_path)


def test_a_file_in_place_of_the_directory_is_one_line(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for metrics in ("true", "false"):
        given = {"dramatiq_prom_db": str(tmp_path / "file"), "BACKGROUND_TASK_ENABLE_METRICS": metrics}
        _refused(given, sqlite_url, redis_url, tmp_path)


def _refused(given: dict[str, str], sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, **given}
    ended = run("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables)

    assert ended.returncode != 0
    assert f"adjourn: cannot keep metrics in {given['dramatiq_prom_db']}" in ended.stderr
    assert "dramatiq_prom_db" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_backlog_is_measured_by_one_actor_and_a_database_that_is_away_leaves_no_letter(
    engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    make_due(engine, 20)
    variables: dict[str, Any] = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url}
    variables["dramatiq_prom_port"] = port = str(free_port())
    script = "import actors; actors.measure_backlog.send()"
    with (
        redis.Redis.from_url(redis_url) as client,
        running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker,
    ):
        worker.wait_for_output("Worker process is ready")
        run("python", "-c", script, directory=tmp_path, variables=variables)
        wait_for(lambda: client.exists("adjourn:backlog"), what="a measurement")
        values = wait_for(lambda: scrape(port), what="metrics")
        assert values["active_conversations"] == 20
        assert values['conversations_due{task_type="idle_conversations"}'] == 20
        assert values['conversations_due{task_type="expired_conversations"}'] == 2
        assert 86_400 < values['conversations_oldest_due_seconds{task_type="expired_conversations"}'] < 86_500

        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE conversations RENAME TO elsewhere"))
        run("python", "-c", script, directory=tmp_path, variables=variables)
        worker.wait_for_output("backlog not measured")
        wait_for(lambda: not client.hlen("dramatiq:sweeps.msgs"), what="the end of the run")
        assert client.zcard("dramatiq:sweeps.XQ") == 0
        assert "Traceback" not in worker.output


def test_the_endpoint_answers_while_the_last_runs_come_to_their_end_and_no_longer(
    engine: Engine, postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    make_due(engine, 3)
    port = str(free_port())
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "dramatiq_prom_port": port}
    processed = 'background_conversations_processed_total{task_type="idle_conversations"}'
    with (
        redis.Redis.from_url(redis_url) as client,
        engine.connect() as holder,
        running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker,
    ):
        holder.execute(text("LOCK TABLE conversation_events IN SHARE MODE"))
        send_ticks(tmp_path, variables, each=1)
        wait_for(lambda: client.hget("adjourn:task:process_idle_conversations", "run_started_at"), what="a run")
        wait_for(lambda: scrape(port), what="metrics")
        worker.send(signal.SIGTERM)

        def is_ending() -> bool:
            told = run("adjourn", "health", "worker", directory=tmp_path, variables=variables)
            return told.returncode == 1 and "is ending" in told.stdout

        wait_for(is_ending, what="word of its ending")
        assert scrape(port)[processed] == 0
        holder.rollback()
        wait_for(lambda: scrape(port).get(processed, 3) == 3, what="the end of the run, counted or gone")
        assert worker.wait() == 0
        assert scrape(port) == {}


def test_of_a_command_that_was_killed_nothing_goes_on_and_nobody_answers_for_the_next_one(
    sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    port = str(free_port())
    variables = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "dramatiq_prom_port": port, "LOG_FORMAT": "json"}
    with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
        wait_for(lambda: scrape(port), what="metrics")
        worker.wait_for_output("Worker process is ready")
        (process,) = worker_processes(worker)
        worker.send(signal.SIGKILL)
        worker.wait()
        wait_for(lambda: not scrape(port), what="silence")
        wait_for(lambda: not is_there(process), what="the end of its worker process")


def test_a_port_and_a_host_that_are_set_and_empty_are_not_set(sqlite_url: str, redis_url: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "dramatiq_prom_port": "", "dramatiq_prom_host": ""}
    with running("dramatiq", "actors", "--processes", "1", directory=tmp_path, variables=variables) as worker:
        worker.wait_for_output("Worker process is ready")
        # Somebody else may have the usual port.
        wait_for(lambda: re.search(r"metrics and health|the port cannot be used", worker.output), what="the usual port")
        assert "9191" in worker.output
        assert "Traceback" not in worker.output


def test_a_port_that_is_none_is_one_line(tmp_path: Path) -> None:
    ended = run("dramatiq", "actors", directory=tmp_path, variables={"dramatiq_prom_port": "many"})

    assert ended.returncode != 0
    assert "adjourn: dramatiq_prom_port='many'" in ended.stderr
    assert "Traceback" not in ended.stderr
