"""``adjourn run``: everything on one machine, and nothing left behind."""

import json
import os
import signal
import socket
import sqlite3
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from services.embedded.redis_server import PrivateRedis
from tests.acceptance.commands import processes_about, run, running
from tests.support import wait_for

INSERT = (
    "INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status, created_at,"
    " updated_at, idle_at, expires_at) VALUES ('00000000-0000-4000-8000-000000000001', 'acme', 'sms', '+1', '+2', 'k',"
    " 'pending', datetime('now', '-2 hours'), datetime('now', '-2 hours'), datetime('now', '-1 hours'),"
    " datetime('now', '1 hours'))"
)


def ended(database: Path) -> list[tuple[str, str]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute("SELECT status, cause FROM conversation_events").fetchall()
    finally:
        connection.close()


def insert_due(database: Path) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(INSERT)
    connection.close()


def test_it_ends_what_is_due_and_stops_on_ctrl_c_within_two_seconds(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(
        "adjourn", "run", "--interval", "1", directory=tmp_path, variables={"ADJOURN_DATA_DIR": str(data)}
    ) as stack:
        stack.wait_for_output("Worker process is ready")
        insert_due(data / "adjourn.db")
        wait_for(lambda: ended(data / "adjourn.db") == [("idle_timeout", "sweep")], what="the end of the due one")

        asked = time.monotonic()
        stack.send(signal.SIGINT)
        assert stack.wait() == 0
        assert time.monotonic() - asked < 10  # two seconds; what waits for something here waits for much longer
        assert processes_about(str(data)) == []
        assert "Traceback" not in stack.output


def test_its_health_and_state_are_found_wherever_it_took_a_port(tmp_path: Path) -> None:
    # As in a shell that sets none of them, with the usual ports perhaps taken.
    variables = {"dramatiq_prom_port": "", "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": ""}
    with ExitStack() as ports:
        for port in (9191, 9192):
            with suppress(OSError):  # somebody else has it
                ports.enter_context(socket.create_server(("127.0.0.1", port)))
        with running("adjourn", "run", "--interval", "1", directory=tmp_path, variables=variables) as stack:
            stack.wait_for_output("metrics and health", times=2)
            stack.wait_for_output("leading")

            def healthy() -> bool:
                return run("adjourn", "health", directory=tmp_path, variables=variables).returncode == 0

            wait_for(healthy, what="health of both")
            told = run("adjourn", "status", "--json", directory=tmp_path, variables=variables)
            assert told.returncode == 0
            assert [worker["alive"] for worker in json.loads(told.stdout)["workers"]] == [True]
            stack.send(signal.SIGTERM)
            stack.wait()

        assert not (tmp_path / ".adjourn" / "endpoints.json").exists()


def test_in_json_every_line_of_every_process_is_json(tmp_path: Path) -> None:
    variables = {"ADJOURN_DATA_DIR": str(tmp_path / "data"), "LOG_FORMAT": "json", "LOG_LEVEL": "DEBUG"}
    with running("adjourn", "run", "--interval", "1", directory=tmp_path, variables=variables) as stack:
        stack.wait_for_output('"swept"', times=2)
        stack.send(signal.SIGINT)
        assert stack.wait() == 0

    lines = [json.loads(line) for line in stack.output.splitlines()]
    assert {"dramatiq.MainProcess", "periodiq", "services.cycle", "services.embedded.stack"} <= {
        one["logger"] for one in lines
    }
    assert all({"message", "level", "timestamp", "process"} <= set(line) for line in lines)


def test_a_second_run_on_the_same_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    data = {"ADJOURN_DATA_DIR": str(tmp_path / "data")}
    with running("adjourn", "run", directory=tmp_path, variables=data) as first:
        first.wait_for_output("Worker process is ready")

        second = run("adjourn", "run", directory=tmp_path, variables=data)

        assert second.returncode == 1
        assert second.stderr.startswith(f"adjourn: the data directory {tmp_path / 'data'} is in use by another")
        assert f"(pid {first.process.pid})" in second.stderr
        assert first.process.poll() is None


def test_nothing_outlives_a_run_that_is_killed_and_the_next_one_leads_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    # The lease of the dead one would last for longer than anybody waits here.
    variables = {"ADJOURN_DATA_DIR": str(data), "BACKGROUND_TASK_LEASE_TIMEOUT": "300"}
    with running("adjourn", "run", directory=tmp_path, variables=variables) as stack:
        stack.wait_for_output("Worker process is ready")
        stack.wait_for_output("leading")
        (scheduler,) = processes_about("periodiq\0actors", str(data))
        os.kill(scheduler, signal.SIGKILL)  # or it would resign
        stack.send(signal.SIGKILL)
        stack.wait()

        wait_for(lambda: not processes_about(str(data)), what="the end of its processes")

    with running("adjourn", "run", directory=tmp_path, variables=variables) as again:
        again.wait_for_output("Worker process is ready")
        again.wait_for_output("leading")


def test_it_ends_when_its_worker_does(tmp_path: Path) -> None:
    with running("adjourn", "run", directory=tmp_path, variables={"ADJOURN_DATA_DIR": str(tmp_path / "data")}) as stack:
        stack.wait_for_output("Worker process is ready")
        for pid in processes_about("actors\0--processes", str(tmp_path)):
            with suppress(ProcessLookupError):  # it ended with the one before
                os.kill(pid, signal.SIGKILL)

        assert stack.wait() == 1
        assert "adjourn: the worker ended with exit code" in stack.output
        assert processes_about(str(tmp_path / "data")) == []


def test_packages_of_the_same_names_where_a_person_stands_do_not_matter(tmp_path: Path) -> None:
    for package in ("actors", "models", "services", "migrations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    data = {"ADJOURN_DATA_DIR": str(tmp_path / "data"), "BACKGROUND_TASK_INTERVAL": "1", "LOG_LEVEL": "DEBUG"}
    with running("adjourn", "run", directory=tmp_path, variables=data) as stack:
        stack.wait_for_output("swept", times=2)
        assert "the wrong package" not in stack.output


@pytest.mark.parametrize("name", ["a space", "50%25 off", "q?x", "h#x", "é"])
def test_any_name_of_a_data_directory_will_do(name: str, tmp_path: Path) -> None:
    server = PrivateRedis(tmp_path / name).start()
    server.stop()


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    data = tmp_path / ("a" * 60) / ("b" * 60)
    with running("adjourn", "run", directory=tmp_path, variables={"ADJOURN_DATA_DIR": str(data)}) as stack:
        stack.wait_for_output("Worker process is ready")
        assert (data / "redis" / "appendonlydir").exists() or (data / "redis" / "appendonly.aof").exists()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ADJOURN_DATA_DIR": "/proc/adjourn"}, "adjourn: cannot write to the data directory /proc/adjourn"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1:1/0"}, "adjourn: cannot use Redis at redis://***@127.0.0.1:1/0"),
        ({"DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"}, "adjourn: cannot use the database at postgresql"),
        ({"DATABASE_URL": "sqlite:///new.db"}, "adjourn: the database at sqlite:///new.db has no Adjourn tables"),
        (
            {"BACKGROUND_TASK_IDLE_ENABLED": "false", "BACKGROUND_TASK_EXPIRED_ENABLED": "false"},
            "adjourn: BACKGROUND_TASK_IDLE_ENABLED and BACKGROUND_TASK_EXPIRED_ENABLED are both false",
        ),
        ({"BACKGROUND_TASK_INTERVAL": "0"}, "adjourn: BACKGROUND_TASK_INTERVAL='0': '0' is out of range"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    data = {"ADJOURN_DATA_DIR": str(tmp_path / "data")}

    refused = run("adjourn", "run", directory=tmp_path, variables=data | variables)

    assert refused.returncode == 1
    assert refused.stderr.startswith(said)
    assert len(refused.stderr.splitlines()) == 1
    assert "secret" not in refused.stderr
    assert processes_about(str(tmp_path / "data")) == []


def test_once_does_one_cycle_without_redis_and_says_what_it_did(tmp_path: Path) -> None:
    data = {"ADJOURN_DATA_DIR": str(tmp_path / "data")}
    assert run("adjourn", "migrate", directory=tmp_path, variables=data).returncode == 0
    insert_due(tmp_path / "data" / "adjourn.db")

    first = run("adjourn", "run", "--once", "--batch-size", "1", directory=tmp_path, variables=data)
    second = run("adjourn", "run", "--once", directory=tmp_path, variables=data)

    assert first.returncode == second.returncode == 0
    assert [line.split(" in ")[0] for line in first.stdout.splitlines()] == [
        "idle_conversations: ended 1",
        "expired_conversations: ended 0",
    ]
    assert "ended 0" in second.stdout.splitlines()[0]
    assert not (tmp_path / "data" / "redis").exists()


def test_migrate_goes_up_and_down_and_refuses_what_is_not_a_revision(database_url: str, tmp_path: Path) -> None:
    def migrate(*arguments: str) -> tuple[int, str]:
        done = run("adjourn", "migrate", *arguments, directory=tmp_path, variables={"DATABASE_URL": database_url})
        return done.returncode, done.stdout + done.stderr

    assert migrate("base")[0] == 1  # it removes every table: only when told twice
    assert migrate("base", "--down")[1].endswith("is at revision base\n")
    assert migrate()[1].endswith("is at revision 0004\n")
    code, said = migrate("9999")
    assert code == 1
    assert said.startswith("adjourn: revision '9999': ")
    assert len(said.splitlines()) == 1
