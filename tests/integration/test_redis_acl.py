"""The users of deploy/redis/users.acl on a real server: each may do what it has to, and nothing else."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dramatiq
import pytest
import redis
from dramatiq.brokers import redis as dramatiqs
from typer.testing import CliRunner

from actors.failures import DeadLetterNotes
from services import cli
from services.backlog import UNKNOWN, Backlog
from services.cluster.backlog_record import BacklogRecord
from services.errors import RedisUnavailableError
from services.monitoring.success_watch import SuccessWatch
from services.monitoring.worker_presence import WorkerPresence
from services.monitoring.worker_state import Threads
from services.redis_client import check_redis, connect, unsafe_for_claims
from services.schedules import Every
from services.scheduling.crew import Crew
from services.scheduling.scheduler import Scheduler
from services.tasks import Task, actor_of
from tests.acl import USERS, LockedRedis, commands_of, locked_redis
from tests.schedulers import CountedActor, broker_on, campaigning, scheduler_of, working
from tests.servers import RedisServer
from tests.support import NOON, wait_for

PROJECT = Path(__file__).resolve().parents[2]
HOURLY = Every(seconds=3_600)
#: A command of Redis's in a script, as its calls have it.
CALL = re.compile(r"redis\.p?call\([\"'](\w+)[\"']")
#: What dramatiq's script has for dramatiq's own tests: the size of a queue.
OF_TESTS = {"hlen", "scard"}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedRedis]:
    with locked_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(started: LockedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LockedRedis:
    """A server with the users of the file and no keys; nothing was used or refused yet."""
    monkeypatch.setenv("DATABASE_URL", "")
    monkeypatch.setenv("ADJOURN_DATA_DIR", str(tmp_path))
    with started.client("admin") as admin:
        admin.acl_log_reset()
        admin.flushall()
    started.forget_what_was_used()
    return started


def adjourn(*arguments: str, url: str) -> str:
    """Return what a command of ours says, run in this process. Raises what it raises."""
    ran = CliRunner().invoke(cli.app, list(arguments), env={"REDIS_URL": url}, catch_exceptions=False)
    return ran.output


def value(scheduler: Scheduler, metric: str) -> float:
    return scheduler.metrics.registry.get_sample_value(metric) or 0


def schedule_and_work(url: str) -> None:
    """Do what schedulers do, to the end of a tick and of a request, and what workers do, with a message that fails."""
    with connect(url, timeout=5) as client, broker_on(url, DeadLetterNotes(client)) as broker:
        task = CountedActor(broker, HOURLY, name=actor_of(Task.IDLE))
        leader = scheduler_of(broker, url)
        with campaigning(leader):
            # It makes up for the slot that there is, and has told which queues there are.
            wait_for(lambda: value(leader, "scheduler_is_leader") and client.llen("dramatiq:default"), what="a tick")
            assert "sent" in adjourn("trigger", "idle", url=url)
        assert "paused" in adjourn("pause", "idle", url=url)
        adjourn("resume", "idle", url=url)

        def fail() -> None:
            raise ValueError("no way")

        dramatiq.actor(broker=broker, actor_name="failing", max_retries=0)(fail).send()
        # Every command of dramatiq's looks after the messages of dead workers.
        broker.maintenance_chance = 1_000_000
        with working(broker):
            wait_for(lambda: task.runs >= 2 and client.zcard("dramatiq:default.XQ"), what="a dead letter")


def leave_unanswered(admin: redis.Redis) -> None:
    """Have a message be in the hands of a worker that died."""
    admin.zadd("dramatiq:__heartbeats__", {"dead": 1})
    admin.sadd("dramatiq:__acks__.dead.default", "held")
    admin.hset("dramatiq:default.msgs", "held", "garbage")


def measure_and_drain(url: str) -> None:
    """Do what workers do besides."""
    with connect(url, timeout=5) as client:
        assert unsafe_for_claims(client) == []
        BacklogRecord(client).write(
            Backlog(measured_at=NOON, active=0, active_is_estimate=False, tasks=dict.fromkeys(Task, UNKNOWN))
        )
        assert BacklogRecord(client).read() is not None
        presence = WorkerPresence(
            client,
            queues={"default"},
            pid=1,
            started_at=NOON,
            threads=lambda: Threads(8, 3),
            successes=SuccessWatch({}),
        )
        presence.tell()
        presence.leave()
        crew = Crew(client, actor_of(Task.IDLE), limit=2)
        assert crew.join_or_stay("one", candidates=["two"]).called == ["two"]
        assert crew.join_or_stay("one").is_in
        crew.leave("one")


def look(url: str) -> str:
    """Do all that only asks; return the id of a dead letter."""
    check_redis(f"{url.removesuffix('0')}1")
    assert json.loads(adjourn("status", "--json", url=url))["redis"]["state"] == "answers"
    listed = json.loads(adjourn("dead-letters", "list", "--json", url=url))
    [letter] = [one["id"] for one in listed["letters"] if one["actor"] == "failing"]
    assert "no way" in adjourn("dead-letters", "show", letter[:8], url=url)
    return str(letter)


def test_workers_and_schedulers_and_people_may_do_what_they_do_and_nothing_else(server: LockedRedis) -> None:
    url = server.url()
    # Nobody has told of queues yet: they are looked for.
    adjourn("dead-letters", "list", url=url)
    with server.client("admin") as admin:
        leave_unanswered(admin)
    schedule_and_work(url)
    measure_and_drain(url)
    letter = look(url)
    assert "1" in adjourn("dead-letters", "requeue", letter, url=url)
    adjourn("dead-letters", "drop", "--all", "--yes", url=url)

    assert server.refusals() == []
    assert server.used() == commands_of("adjourn")


def test_who_only_looks_may_do_that_and_nothing_else(server: LockedRedis) -> None:
    adjourn("dead-letters", "list", url=server.url("adjourn_monitor"))
    schedule_and_work(server.url())
    measure_and_drain(server.url())
    server.forget_what_was_used()

    look(server.url("adjourn_monitor"))
    assert server.refusals() == []
    # That it looked for queues, when nobody had told of any, was before.
    assert server.used() | {"scan"} == commands_of("adjourn_monitor")


def test_every_command_of_a_script_is_allowed() -> None:
    scripts = [*Path(dramatiqs.__file__).with_suffix("").glob("*.lua")]
    for package in ("actors", "services"):
        scripts += [path for kind in ("py", "lua") for path in (PROJECT / package).rglob(f"*.{kind}")]
    used = {command for path in scripts for command in CALL.findall(path.read_text())}

    assert {name.lower() for name in used} >= {"hset", "publish", "keys"}
    assert {name.lower() for name in used} - commands_of("adjourn") == OF_TESTS


@pytest.mark.parametrize("user", ["adjourn", "adjourn_monitor"])
def test_all_else_is_refused(user: str, server: LockedRedis) -> None:
    with server.client("admin") as admin:
        admin.set("theirs", 1)
        reader = admin.register_script("return redis.call('GET', 'theirs')")
        reader()
    refused = [
        ["GET", "theirs"],
        ["SET", "theirs", "2"],
        ["SET", "adjournment", "2"],
        ["EVAL", "return 1", "0"],
        ["EVALSHA", reader.sha, "0"],
        ["PUBLISH", "theirs", "1"],
        *([command] for command in ("FLUSHALL", "FLUSHDB", "SHUTDOWN", "SAVE", "MONITOR", "RANDOMKEY", "DBSIZE")),
        *(command.split() for command in ("CONFIG GET *", "ACL LIST", "CLIENT LIST", "MODULE LIST")),
        *(command.split() for command in ("SCRIPT FLUSH", "REPLICAOF NO ONE", "SWAPDB 0 1", "MOVE adjourn:x 1")),
    ]
    if user == "adjourn_monitor":
        refused += [["HSET", "adjourn:scheduler:lease", "holder", "me"], ["DEL", "dramatiq:sweeps"], ["KEYS", "*"]]
        refused += [["RPUSH", "dramatiq:sweeps", "x"], ["PUBLISH", "adjourn:scheduler:wake", "x"]]
    with server.client(user) as client:
        for command in refused:
            with pytest.raises(redis.ResponseError, match=r"NOPERM|no permissions|can't|No permissions"):
                pytest.fail(f"{command}: {client.execute_command(*command)}")  # type: ignore[no-untyped-call]


def test_nobody_enters_without_a_name(server: LockedRedis) -> None:
    url = f"redis://127.0.0.1:{server.port}/0"

    with pytest.raises(RedisUnavailableError, match="it asks for a password, and none was given"):
        check_redis(url)
    with pytest.raises(RedisUnavailableError, match="it refuses the user name or the password"):
        check_redis(url.replace("//", "//adjourn:wrong@"))


def test_a_file_with_nobodys_password_does_not_let_redis_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="redis-server ended"), locked_redis(tmp_path, fill_in=False):
        pass


def test_the_page_says_how_to_fill_in_passwords(tmp_path: Path) -> None:
    [script] = re.findall(
        r"^```sh\n(.*?)^```$", (PROJECT / "docs" / "security.md").read_text(), re.DOTALL | re.MULTILINE
    )
    here = script.replace("deploy/redis/users.acl", str(USERS))
    filled = subprocess.run(["bash", "-euc", here], cwd=tmp_path, capture_output=True, text=True, check=True)

    passwords = dict(line.split() for line in filled.stdout.splitlines())
    assert passwords.keys() == {"ADMIN", "ADJOURN", "ADJOURN_MONITOR"}
    server = RedisServer(tmp_path, "--aclfile", str(tmp_path / "users.acl"))
    server.start()
    try:
        for user, password in passwords.items():
            check_redis(f"redis://{user.lower()}:{password}@127.0.0.1:{server.port}/0")
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("hgetall", ["status", "--json"]),
        ("evalsha", ["pause", "idle"]),
        ("hset", ["pause", "idle"]),
        ("smembers", ["dead-letters", "list"]),
    ],
)
def test_what_a_person_is_refused_is_a_line_that_says_so(
    command: str, arguments: list[str], server: LockedRedis
) -> None:
    with server.without(command):
        if arguments[0] == "status":  # which goes on to the database
            said = json.loads(adjourn(*arguments, url=server.url()))["redis"]["error"]
        else:
            with pytest.raises(RedisUnavailableError) as refused:
                adjourn(*arguments, url=server.url())
            said = str(refused.value)

    assert said.endswith("; ACL LOG says what it was, deploy/redis/users.acl what is needed")
    assert "script" not in said.partition(": ")[2].replace("executing the script", "")
    assert server.refusals() == [("adjourn", command)]
