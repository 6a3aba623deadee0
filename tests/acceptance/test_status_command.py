"""``adjourn status``, ``pause``, ``resume`` and ``trigger``, on real schedulers with a schedule of one second."""

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import redis

from services.cluster.state import Leader, SchedulerState, Status, TaskStatus
from services.cluster.status import read_status
from services.embedded.redis_server import PrivateRedis
from services.operations.dead_letters import letters_key
from services.scheduling.keys import MEMBERS, SEEN, task_key
from tests.acceptance.commands import Command, run, running
from tests.support import wait_for

IDLE, EXPIRED = "process_idle_conversations", "process_expired_conversations"


class Cluster:
    """A Redis and any number of schedulers on it."""

    def __init__(self, directory: Path, client: redis.Redis, variables: dict[str, str], stack: ExitStack) -> None:
        self.directory = directory
        self.client = client
        self.variables = variables
        self._stack = stack
        self._schedulers: list[Command] = []

    def have_schedulers(self, count: int) -> None:
        """Start as many as are missing, and return when all are heard of and one of them leads."""
        self._schedulers = [command for command in self._schedulers if command.process.poll() is None]
        while len(self._schedulers) < count:
            command = running("periodiq", "actors", directory=self.directory, variables=self.variables)
            self._schedulers.append(self._stack.enter_context(command))
        wait_for(lambda: self.status().leader and self._are_heard_of(), what="a leader and its standbys")
        wait_for(lambda: all(task.last_slot for task in self.status().tasks), what="a slot of each task")

    def kill_leader(self) -> Leader:
        """Kill who leads without a chance to resign, and return who that was."""
        leader = self.status().leader
        assert leader is not None
        (command,) = (one for one in self._schedulers if one.process.pid == leader.pid)
        command.send(signal.SIGKILL)
        command.wait()
        return leader

    def status(self) -> Status:
        return read_status(client=self.client)

    def task(self, actor: str) -> TaskStatus:
        (found,) = (task for task in self.status().tasks if task.actor == actor)
        return found

    def wait_for_slots(self, actor: str, count: int) -> None:
        """Return when so many more slots of the task have been claimed."""
        wanted = self._slot(actor) + count
        wait_for(lambda: self._slot(actor) >= wanted, what=f"{count} more slots")

    def messages(self, actor: str) -> list[dict[str, Any]]:
        """Return the messages that wait for a worker."""
        kept: Any = self.client.hgetall("dramatiq:sweeps.msgs")
        return [found for found in map(json.loads, kept.values()) if found["actor_name"] == actor]

    def adjourn(self, *arguments: str) -> str:
        """Run ``adjourn`` and return what it printed."""
        done = run("adjourn", *arguments, directory=self.directory, variables=self.variables)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def shown(self) -> str:
        """Return what ``adjourn status`` prints, whether or not something is down."""
        return run("adjourn", "status", directory=self.directory, variables=self.variables).stdout

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.adjourn("status", "--json"))
        return report

    def _slot(self, actor: str) -> float:
        slot = self.task(actor).last_slot
        return slot.slot.timestamp() if slot else 0

    def _are_heard_of(self) -> bool:
        heard = {one.pid for one in self.status().schedulers if one.state is not SchedulerState.GONE}
        return heard >= {command.process.pid for command in self._schedulers}


def problems(report: dict[str, Any]) -> list[str]:
    """Return what is wrong, besides that most tests here have no worker, so that nothing succeeds."""
    without = {"no_worker", "worker_gone", "no_success"}
    return [problem["kind"] for problem in report["problems"] if problem["kind"] not in without]


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("status")
    database = directory / "adjourn.db"
    database.write_bytes(sqlite_template.read_bytes())
    server = PrivateRedis(directory / "redis").start()
    variables = {
        "REDIS_URL": server.url,
        "DATABASE_URL": f"sqlite:///{database}",
        "BACKGROUND_TASK_INTERVAL": "1",
        "BACKGROUND_TASK_LEASE_TIMEOUT": "5",
        "BACKGROUND_TASK_RENEW_INTERVAL": "1",
        "BACKGROUND_TASK_SCHEDULER_METRICS_PORT": "0",
        "LOGNAME": "ann",
    }
    with ExitStack() as stack:
        stack.callback(server.stop)
        client = stack.enter_context(redis.Redis.from_url(server.url))
        yield Cluster(directory, client, variables, stack)


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    # The tests may come in any order: what a dead scheduler or a worker's run left behind is none of theirs.
    shared_cluster.client.delete(MEMBERS, SEEN, letters_key("sweeps"))
    for actor in (IDLE, EXPIRED):
        shared_cluster.client.hdel(task_key(actor), "run_slot", "run_started_at", "run_ended_at", "run_outcome")
    shared_cluster.have_schedulers(2)
    return shared_cluster


def test_a_leader_a_standby_and_slots_that_move_on_are_shown(cluster: Cluster) -> None:
    report = cluster.report()

    assert problems(report) == []
    assert [one["state"] for one in report["schedulers"]] == ["leading", "standing_by"]
    assert report["leader"]["id"] == report["schedulers"][0]["id"]
    for task in report["tasks"]:
        assert task["schedule"] == "every 1 s"
        assert task["last_slot"]["outcome"] in {"enqueued", "caught_up"}
        assert task["last_slot"]["slot"] < task["next_slot"]
        cluster.wait_for_slots(task["actor"], 1)


def test_a_paused_task_sends_nothing_until_it_goes_on_save_what_is_asked_for(cluster: Cluster) -> None:
    assert cluster.adjourn("pause", "idle") == "idle_conversations is paused; to go on: adjourn resume idle\n"
    sent = len(cluster.messages(IDLE))
    others = len(cluster.messages(EXPIRED))
    cluster.wait_for_slots(IDLE, 2)

    assert len(cluster.messages(IDLE)) == sent
    assert len(cluster.messages(EXPIRED)) > others
    report = cluster.report()
    assert problems(report) == ["paused"]
    assert report["tasks"][0]["paused"]["by"].startswith("ann@")
    assert report["tasks"][0]["last_slot"]["outcome"] == "paused"

    asked, done, paused = cluster.adjourn("trigger", IDLE).splitlines()
    assert asked == "a run of idle_conversations is asked for"
    assert paused == "idle_conversations is paused: that stops its schedule, not this run"
    (message,) = (message for message in cluster.messages(IDLE) if "scheduled_at" not in message["options"])
    assert done.endswith(f": message {message['message_id']}")
    assert len(cluster.messages(IDLE)) == sent + 1
    trigger = cluster.task(IDLE).last_trigger
    request = message["options"]["trigger_id"]
    assert trigger is not None
    assert (trigger.id, cluster.task(IDLE).waiting_trigger) == (request, None)

    assert cluster.adjourn("resume", "idle_conversations").startswith("idle_conversations goes on with its next slot;")
    wait_for(lambda: len(cluster.messages(IDLE)) > sent + 1, what="a message after the pause")
    assert [message["options"].get("trigger_id") for message in cluster.messages(IDLE)].count(request) == 1


def test_a_killed_leader_is_replaced(cluster: Cluster) -> None:
    killed = cluster.kill_leader()
    wait_for(lambda: (leader := cluster.status().leader) and leader.id != killed.id, what="another leader")

    report = cluster.report()
    assert problems(report) == []
    assert report["schedulers"][0]["id"] == report["leader"]["id"] != killed.id
    assert report["leader"]["term"] == report["last_term"] == (killed.term or 0) + 1


def test_runs_are_shown_with_what_became_of_them(shared_cluster: Cluster) -> None:
    cluster = shared_cluster
    cluster.have_schedulers(1)
    worker = running("dramatiq", "actors", "--processes", "1", directory=cluster.directory, variables=cluster.variables)
    with worker, closing(sqlite3.connect(cluster.directory / "adjourn.db")) as database:
        wait_for(lambda: (run := cluster.task(IDLE).last_run) and run.outcome == "done", what="a run")
        database.execute("ALTER TABLE conversations RENAME TO elsewhere")
        wait_for(lambda: (run := cluster.task(IDLE).last_run) and run.outcome == "failed", what="a run that failed")

        # At some moments a run is under way.
        wait_for(lambda: "the last run of idle_conversations failed" in cluster.shown(), what="the failure")
        assert "adjourn.db has no Adjourn tables; run: adjourn migrate" in cluster.shown()
        database.execute("ALTER TABLE elsewhere RENAME TO conversations")  # other tests may come after this one


def test_a_redis_without_schedulers_is_no_failure_and_one_that_is_away_is_a_line(
    redis_url: str, tmp_path: Path
) -> None:
    empty = run("adjourn", "status", directory=tmp_path, variables={"REDIS_URL": redis_url})
    assert (empty.returncode, empty.stderr) == (0, "")
    assert "\n! no scheduler leads: none was ever heard of" in empty.stdout
    assert "adjourn.db (no database yet)" in empty.stdout
    assert not (tmp_path / ".adjourn").exists()

    away = run("adjourn", "pause", "idle", directory=tmp_path, variables={"REDIS_URL": "redis://:pa55word@127.0.0.1:1"})
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr.startswith("adjourn: cannot use Redis at redis://***@127.0.0.1:1: ")
    assert away.stderr.count("\n") == 1
    assert "pa55word" not in away.stderr
