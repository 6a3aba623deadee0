"""The two commands that run production, on plain SQL's conversations."""

import json
import signal
import urllib.request
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, text

from tests.acceptance.commands import BIN, Command, run, running
from tests.servers import redis_server_with
from tests.support import all_conversations, all_events, free_port, wait_for

INSERT = text(
    "INSERT INTO conversations (conv_id, owner_id, user_id, channel, from_number, to_number, session_key, status,"
    " metadata, created_at, updated_at, idle_at, expires_at) VALUES (:conv_id, 'acme', 'ann', 'whatsapp', '+1', '+2',"
    " :session_key, 'progress', '{}', :opened, :opened, :idle_at, :expires_at)"
)


def insert(engine: Engine, conv_id: str, *, idle_in: timedelta, expires_in: timedelta) -> None:
    now = datetime.now(UTC)
    on_sqlite = engine.dialect.name == "sqlite"

    def instant(value: datetime) -> str:
        return value.strftime("%Y-%m-%d %H:%M:%S") if on_sqlite else value.isoformat()

    with engine.begin() as connection:
        connection.execute(
            INSERT,
            {
                "conv_id": conv_id,
                "session_key": conv_id,
                "opened": instant(now - timedelta(days=2)),
                "idle_at": instant(now + idle_in),
                "expires_at": instant(now + expires_in),
            },
        )


def metrics_on(port: str) -> str:
    """Return what an endpoint exposes, once it is there."""

    def read() -> str:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            exposed: str = response.read().decode()
            return exposed
        return ""

    return wait_for(read, what="metrics")


def test_worker_and_scheduler_end_what_is_due_and_leave_the_rest(
    engine: Engine, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    hour = timedelta(hours=1)
    insert(engine, "00000000-0000-4000-8000-000000000001", idle_in=-hour, expires_in=hour)
    insert(engine, "00000000-0000-4000-8000-000000000002", idle_in=hour, expires_in=-hour)
    insert(engine, "00000000-0000-4000-8000-000000000003", idle_in=hour, expires_in=hour)
    port = str(free_port())
    variables = {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "BACKGROUND_TASK_INTERVAL": "1",
        "LOG_FORMAT": "json",
        "dramatiq_prom_port": port,
    }
    with (
        running("dramatiq", "actors", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler,
    ):
        wait_for(lambda: len(all_events(engine)) == 2, what="two events")
        worker.wait_for_output('"message": "swept"', times=2)

        statuses = {str(one.conv_id)[-1]: one.status.value for one in all_conversations(engine)}
        assert statuses == {"1": "idle_timeout", "2": "expired", "3": "progress"}
        for event in all_events(engine):
            assert event.cause == "sweep"
            assert event.occurred_at >= event.deadline
        # dramatiq counts a message after its actor has had its say.
        counted = 'dramatiq_messages_total{actor_name="process_idle_conversations",queue_name="sweeps"}'
        wait_for(lambda: counted in metrics_on(port), what="a count of its messages")
        assert "Traceback" not in worker.output + scheduler.output


def test_what_the_database_refuses_stops_nothing_else_and_ends_once_it_is_mended(
    postgresql_url: str, redis_url: str, tmp_path: Path
) -> None:
    from services.database import create_database_engine  # noqa: PLC0415 - with its own engine, not both kinds

    engine = create_database_engine(postgresql_url)
    hour = timedelta(hours=1)
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE conversations ADD CONSTRAINT no_idle CHECK (status <> 'idle_timeout') NOT VALID")
        )
    insert(engine, "00000000-0000-4000-8000-000000000001", idle_in=-hour, expires_in=hour)
    insert(engine, "00000000-0000-4000-8000-000000000002", idle_in=hour, expires_in=-hour)
    variables = {"DATABASE_URL": postgresql_url, "REDIS_URL": redis_url, "BACKGROUND_TASK_INTERVAL": "1"}
    with (
        running("dramatiq", "actors", directory=tmp_path, variables=variables) as worker,
        running("periodiq", "actors", directory=tmp_path, variables=variables),
    ):
        worker.wait_for_output("conversation set aside")
        wait_for(lambda: len(all_events(engine)) == 1, what="the expired one's event")
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE conversations DROP CONSTRAINT no_idle"))
        assert run("adjourn", "set-aside", "retry", "--all", directory=tmp_path, variables=variables).returncode == 0
        wait_for(lambda: len(all_events(engine)) == 2, what="the idle one's event, once its cause is mended")
    engine.dispose()


#: Runs a command as nohup does.
IGNORING = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
SCHEDULER = {"BACKGROUND_TASK_INTERVAL": "1", "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0"}


def slots(client: redis.Redis) -> list[tuple[str, str]]:
    """Return the slots of the sweeps that were enqueued, in their order."""
    texts: Any = client.hvals("dramatiq:sweeps.msgs")
    sent = [json.loads(text) for text in texts]
    sweeps = [message for message in sent if message["actor_name"].startswith("process_")]
    return sorted((message["actor_name"], message["options"]["scheduled_at"]) for message in sweeps)


def lines(scheduler: Command, message: str) -> list[dict[str, Any]]:
    """Return what a scheduler logged, as JSON, with this message."""
    return [line for line in scheduler.logged() if line["message"] == message]


def test_one_of_several_schedulers_leads_and_another_does_when_it_is_stopped(redis_url: str, tmp_path: Path) -> None:
    variables = {**SCHEDULER, "REDIS_URL": redis_url, "LOG_FORMAT": "json"}
    # Two seconds, or the slots that pass while one hands over to the next on a busy machine are more than the one that
    # is made up for. A lease that would last for longer than is waited, and is tried for less often.
    variables |= {"BACKGROUND_TASK_INTERVAL": "2"}
    variables |= {"BACKGROUND_TASK_LEASE_TIMEOUT": "60", "BACKGROUND_TASK_RENEW_INTERVAL": "20"}
    with ExitStack() as processes, redis.Redis.from_url(redis_url) as client:
        left = [
            processes.enter_context(running("periodiq", "actors", directory=tmp_path, variables=variables))
            for _ in range(3)
        ]
        wait_for(lambda: len(slots(client)) >= 4, what="two slots of both")
        wait_for(lambda: sum(len(lines(one, "standing by")) for one in left) == 2, what="two that stand by")

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            (leader,) = (one for one in left if lines(one, "leading"))
            leader.send(number)
            left.remove(leader)
            if left:
                wait_for(lambda: [one for one in left if lines(one, "leading")], seconds=10, what="another's lead")
                before = len(slots(client))
                wait_for(lambda seen=before: len(slots(client)) > seen, what="a tick of its own")  # type: ignore[misc]
            assert leader.wait() == 0
            assert len(lines(leader, "resigned")) == 1
            assert "Traceback" not in leader.output
        assert not client.exists("adjourn:scheduler:lease")

        sent = slots(client)
        assert len(sent) == len(set(sent))
        instants = sorted({slot for _, slot in sent})
        first, last = (datetime.fromisoformat(instants[place]) for place in (0, -1))
        assert len(instants) == (last - first).total_seconds() / 2 + 1  # none is missing


def test_a_scheduler_that_was_told_to_ignore_a_signal_does(redis_url: str, tmp_path: Path) -> None:
    variables = {**SCHEDULER, "REDIS_URL": redis_url}
    with running(
        "python", "-c", IGNORING, str(BIN / "periodiq"), "actors", directory=tmp_path, variables=variables
    ) as scheduler:
        scheduler.wait_for_output("leading")
        scheduler.send(signal.SIGHUP)
        with redis.Redis.from_url(redis_url) as client:
            before = len(slots(client))
            wait_for(lambda: len(slots(client)) > before + 1, what="further ticks")
        assert scheduler.process.poll() is None


LOSES_AN_ALARM = """
import periodiq

calls, alarm = iter(range(1_000)), periodiq.alarm

def lose_the_second(seconds):
    if next(calls) == 1:
        print("an alarm is lost", flush=True)
    else:
        alarm(seconds)

periodiq.alarm = lose_the_second
periodiq.entrypoint()
"""


def test_a_scheduler_whose_alarm_is_lost_goes_on_within_seconds(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "lossy.py").write_text(LOSES_AN_ALARM)
    variables = {
        "REDIS_URL": redis_url,
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
        "BACKGROUND_TASK_INTERVAL": "3",
        "BACKGROUND_TASK_LEASE_TIMEOUT": "2",
        "BACKGROUND_TASK_RENEW_INTERVAL": "1",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
    }
    with running("python", "lossy.py", "actors", directory=tmp_path, variables=variables) as scheduler:
        scheduler.wait_for_output("an alarm is lost")
        # Renewals send in the meantime, late; what its loop sends itself is on time.
        wait_for(
            lambda: '"message": "enqueued"' in scheduler.output.partition("an alarm is lost")[2],
            what="a tick of the loop that had lost its alarm",
        )


def test_a_scheduler_tells_prometheus_whether_it_leads_and_how_late_its_ticks_are(
    redis_url: str, tmp_path: Path
) -> None:
    port = str(free_port())
    variables = {**SCHEDULER, "REDIS_URL": redis_url, "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": port}
    # As under a supervisor that starts workers too.
    variables["PROMETHEUS_MULTIPROC_DIR"] = variables["prometheus_multiproc_dir"] = str(tmp_path / "a worker's")
    with (
        running("periodiq", "actors", directory=tmp_path, variables=variables),
        redis.Redis.from_url(redis_url) as client,
    ):
        wait_for(lambda: len(slots(client)) >= 4, what="two slots of both")
        exposed = metrics_on(port)
        # The port is taken: the second one goes on without.
        with running("periodiq", "actors", directory=tmp_path, variables=variables) as second:
            second.wait_for_output("no metrics and no health: the port cannot be used")
            second.wait_for_output("standing by")

    assert "scheduler_is_leader 1.0" in exposed
    assert "scheduler_loop_alive 1.0" in exposed
    assert "scheduler_leader_changes_total 1.0" in exposed
    for outcome in ("enqueued", "caught_up", "duplicate", "not_leader", "failed", "paused"):
        assert f'scheduler_ticks_total{{actor="process_idle_conversations",outcome="{outcome}"}}' in exposed
    assert 'scheduler_tick_lateness_seconds_count{actor="process_idle_conversations"}' in exposed
    assert not (tmp_path / "a worker's").exists()


def test_a_scheduler_waits_for_a_redis_that_is_not_there_yet_and_for_one_that_goes_away(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server:
        server.kill()
        variables = {**SCHEDULER, "REDIS_URL": server.url, "BACKGROUND_TASK_LEASE_TIMEOUT": "4s", "LOG_FORMAT": "json"}
        variables["BACKGROUND_TASK_RENEW_INTERVAL"] = "1s"
        with running("periodiq", "actors", directory=tmp_path, variables=variables) as scheduler:
            wait_for(lambda: lines(scheduler, "redis is down"), what="the report")
            server.start()
            with redis.Redis.from_url(server.url) as client:
                wait_for(lambda: slots(client), what="the first tick")
                client.replicaof("127.0.0.1", "1")  # as after a failover: it takes no writes
                wait_for(lambda: len(lines(scheduler, "redis is down")) == 2, what="the second report")
                client.replicaof("NO", "ONE")
                wait_for(lambda: len(lines(scheduler, "redis is back")) == 2, what="its return")
                before = len(slots(client))
                wait_for(lambda: len(slots(client)) > before, what="a tick after the outage")
            # Nobody answers when it resigns, and its supervisor is impatient.
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            scheduler.send(signal.SIGTERM)
            scheduler.send(signal.SIGTERM)
            assert scheduler.wait(20) == 0
            assert "Traceback" not in scheduler.output


@pytest.mark.parametrize("command", ["dramatiq", "periodiq"])
@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"BACKGROUND_TASK_INTERVAL": "soon"}, "BACKGROUND_TASK_INTERVAL='soon': 'soon' is not a duration"),
        ({"BACKGROUND_TASK_BATCH_SIZE": "-1"}, "BACKGROUND_TASK_BATCH_SIZE='-1': "),
        ({"DATABASE_URL": "mysql://u:secret@h/x"}, "DATABASE_URL: 'mysql' is not supported"),
        (
            {"BACKGROUND_TASK_LEASE_TIMEOUT": "5s", "BACKGROUND_TASK_RENEW_INTERVAL": "3s"},
            "BACKGROUND_TASK_RENEW_INTERVAL: 3s leaves no time for a second try",
        ),
    ],
)
def test_a_setting_that_makes_no_sense_ends_a_command_with_a_line(
    command: str, variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    ended = run(command, "actors", directory=tmp_path, variables=variables)

    lines = [line for line in ended.stderr.splitlines() if line.startswith("adjourn: ")]
    assert ended.returncode != 0
    assert lines, ended.stderr
    assert all(said in line for line in lines)
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr


def test_a_variable_that_is_misspelt_is_said_to_be(tmp_path: Path) -> None:
    variables = {"BACKGROUND_TASK_INTERVALL": "1"}

    assert (
        "BACKGROUND_TASK_INTERVALL"
        in run("python", "-c", "import actors", directory=tmp_path, variables=variables).stderr
    )


def test_importing_the_actors_connects_to_nothing(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    ended = run(
        "python", "-c", "import actors; print(sorted(actors.broker.actors))", directory=tmp_path, variables=variables
    )

    assert ended.stdout.strip() == (
        "['drain_backlog', 'measure_backlog', 'process_expired_conversations', 'process_idle_conversations']"
    )
    assert ended.returncode == 0
