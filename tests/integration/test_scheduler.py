"""Schedulers on a real Redis: who leads, what the leader makes up for, and what a broker sends through it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Middleware, MiddlewareError, Retries

from actors.broker import TickBroker
from services.schedules import Cron, Every, Schedule
from services.scheduling import keys
from services.scheduling.queue import Outcome
from tests.schedulers import (
    CountedActor,
    broker_on,
    campaigning,
    messages,
    scheduler_of,
    wait_until_drained,
    working,
)
from tests.servers import redis_server_with, relay_to
from tests.support import wait_for

SECOND = timedelta(seconds=1)
HOURLY = Every(seconds=3_600)
TASK = keys.task_key("task")
#: So long that within a test only a wake-up changes anything, however busy the machine is.
SLOW = {"lease_timeout": "300", "renew_interval": "150"}
#: As quick as the settings allow.
QUICK = {"lease_timeout": "2", "renew_interval": "1"}


class Process:
    """What a scheduler's process has: a broker with one actor, and a scheduler of it."""

    def __init__(self, broker: TickBroker, url: str, schedule: Schedule | None, **variables: str) -> None:
        self.broker = broker
        self.task = CountedActor(broker, schedule)
        self.scheduler = scheduler_of(broker, url, **variables)

    @property
    def leads(self) -> bool:
        return self.value("scheduler_is_leader") == 1

    def value(self, metric: str, **labels: str) -> float:
        return self.scheduler.metrics.registry.get_sample_value(metric, labels) or 0

    def ticks(self, outcome: Outcome) -> float:
        return self.value("scheduler_ticks_total", actor="task", outcome=outcome)

    def tick(self) -> None:
        """Send as Periodiq does: with the second in which it woke up."""
        self.task.actor.send_with_options(scheduled_at="2001-01-01 00:00:00+00:00")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        yield client


@pytest.fixture
def process(redis_url: str) -> Iterator[Process]:
    with broker_on(redis_url) as broker:
        yield Process(broker, redis_url, HOURLY, **SLOW)


@pytest.fixture
def another(redis_url: str) -> Iterator[Process]:
    with broker_on(redis_url) as broker:
        yield Process(broker, redis_url, HOURLY, **SLOW)


@pytest.fixture
def log() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


def current_slot(schedule: Schedule = HOURLY) -> datetime:
    slot = schedule.slot_at(datetime.now(UTC))
    assert slot is not None
    return slot


def claim(client: redis.Redis, slot: datetime) -> None:
    """Have ``slot`` enqueued by somebody else."""
    client.hset(TASK, mapping={"slot": int(slot.timestamp()), "message_id": "theirs"})


def events(log: list[Any], name: str) -> list[Any]:
    return [line for line in list(log) if line["event"] == name]


def listeners(client: redis.Redis) -> set[str]:
    """Return the connections that wait to be woken."""
    connections: Any = client.client_list(_type="pubsub")
    return {one["id"] for one in connections}


# Leading


def test_one_leads_and_the_other_stands_by_until_it_is_woken_by_a_resignation(
    process: Process, another: Process
) -> None:
    with campaigning(another.scheduler):
        with campaigning(process.scheduler):
            wait_for(lambda: process.leads != another.leads, what="a leader")
            first, second = (process, another) if process.leads else (another, process)
            first.scheduler.stop()
            # Its lease would have to run out, or minutes to pass, if nobody woke it.
            wait_for(lambda: second.leads, what="the other's leadership")
        assert not first.leads
        assert first.value("scheduler_leader_changes_total") == 1
        # It counts once it leads.
        wait_for(lambda: second.value("scheduler_leader_changes_total") == 1, what="the count of its lead")


def test_a_scheduler_whose_connection_has_silently_died_listens_on_another(tmp_path: Path) -> None:
    with redis_server_with(tmp_path) as server, relay_to(server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        with broker_on(url) as broker, redis.Redis.from_url(server.url, protocol=2) as client:
            process = Process(broker, url, HOURLY, **QUICK)
            with campaigning(process.scheduler):
                ears = wait_for(lambda: listeners(client), what="its ear")
                relay.fall_silent()
                wait_for(lambda: listeners(client) - ears, what="its other ear")


def test_a_leader_that_vanishes_is_replaced_when_its_lease_is_over(redis_url: str, client: redis.Redis) -> None:
    client.hset(keys.LEASE, mapping={"holder": "crashed", "term": 6, "timeout": 1_000})
    client.pexpire(keys.LEASE, 3_000)
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, HOURLY, **SLOW)  # its next try would be in minutes
        with campaigning(process.scheduler):
            wait_for(lambda: process.leads, what="the new leader")
    assert client.get(keys.TERM) == "7"


def test_a_leader_whose_lease_is_gone_stops_leading_at_once_when_it_is_told_so(
    process: Process, client: redis.Redis, log: list[Any]
) -> None:
    with campaigning(process.scheduler):
        wait_for(lambda: process.ticks(Outcome.CAUGHT_UP), what="its first tick")
        client.hset(keys.LEASE, mapping={"holder": "another", "term": 9})
        process.tick()

        assert process.ticks(Outcome.NOT_LEADER) == 1
        assert not process.leads
        wait_for(lambda: events(log, "standing by"), what="its next try")
        assert [line["term"] for line in events(log, "demoted")] == [1]

        client.delete(keys.LEASE)
        client.publish(keys.WAKE, "look")
        wait_for(lambda: process.leads, what="its next term")
        assert client.hget(keys.LEASE, "term") == "10"


def test_a_redis_that_goes_away_is_reported_once_and_so_is_its_return(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path) as server, broker_on(server.url) as broker:
        # Long enough for a busy machine to be in time for each renewal.
        process = Process(broker, server.url, Every(seconds=1), lease_timeout="6", renew_interval="1")
        with campaigning(process.scheduler):
            wait_for(lambda: process.leads, what="a leader")
            server.kill()
            process.tick()
            wait_for(lambda: not process.leads, what="the end of its trust")
            process.tick()
            server.start()  # with nothing in it
            wait_for(lambda: process.leads, what="the leader's return")
            with redis.Redis.from_url(server.url, protocol=2) as client:
                wait_for(lambda: client.llen("dramatiq:default"), what="a tick")
        assert process.ticks(Outcome.FAILED) >= 1
        assert process.ticks(Outcome.NOT_LEADER) >= 1
        assert (
            len(events(log, "redis is down")) == len(events(log, "redis is back")) == len(events(log, "demoted")) == 1
        )
        assert [line["term"] for line in events(log, "leading")] == [1, 2]


def test_a_scheduler_that_never_reached_redis_goes_on_trying(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path) as server:
        server.kill()
        with broker_on(server.url) as broker:
            process = Process(broker, server.url, HOURLY, **QUICK)
            with campaigning(process.scheduler):
                wait_for(lambda: events(log, "redis is down"), what="the report")
                server.start()
                wait_for(lambda: process.leads, what="a leader")


def test_a_redis_that_may_drop_claims_is_warned_of_at_the_start(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path, "--maxmemory-policy", "allkeys-lru") as server, broker_on(server.url) as broker:
        process = Process(broker, server.url, HOURLY, **SLOW)
        with campaigning(process.scheduler):
            wait_for(lambda: process.leads, what="a leader")

    (warning,) = events(log, "this redis is not safe for schedulers")
    assert "allkeys-lru" in warning["reason"]
    assert "noeviction" in warning["reason"]


def test_a_redis_that_refuses_to_tell_about_itself_or_to_wake_anybody_is_warned_of_and_used(
    tmp_path: Path, log: list[Any]
) -> None:
    with redis_server_with(tmp_path, "--rename-command", "INFO", "") as server:
        with redis.Redis.from_url(server.url, protocol=2) as owner:
            owner.acl_setuser(
                "app", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"], reset_channels=True
            )
        url = server.url.replace("redis://", "redis://app:pw@")
        with broker_on(url) as broker:
            process = Process(broker, url, HOURLY, **QUICK)
            with campaigning(process.scheduler):
                wait_for(lambda: process.leads, what="a leader")
                wait_for(lambda: [line for line in log if "nobody can wake" in line["event"]], what="the warning")

    assert "INFO" in events(log, "this redis is not safe for schedulers")[0]["reason"]


def test_a_redis_that_cannot_be_used_at_all_is_warned_of_once(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path, "--cluster-enabled", "yes") as server, broker_on(server.url) as broker:
        process = Process(broker, server.url, HOURLY, **QUICK)
        tried: list[None] = []
        process.scheduler._election._about = lambda: tried.append(None) or "{}"  # type: ignore[func-returns-value] # noqa: SLF001 - to count
        with campaigning(process.scheduler):
            wait_for(lambda: len(tried) > 2, what="some tries")

    (warning,) = events(log, "this redis is not safe for schedulers")
    assert "cluster" in warning["reason"]
    assert len(events(log, "redis refuses")) == 1


# Catching up


def test_a_new_leader_makes_up_the_latest_missed_slot_once_and_marks_it(
    process: Process, redis_url: str, client: redis.Redis
) -> None:
    claim(client, current_slot() - timedelta(hours=9))
    with campaigning(process.scheduler):
        wait_for(lambda: process.leads and messages(redis_url), what="the message")
        process.tick()  # Periodiq's loop is a little late
        process.tick()

    (message,) = messages(redis_url)
    assert message["options"]["scheduled_at"] == current_slot().isoformat()
    assert message["options"]["caught_up"] is True
    assert process.ticks(Outcome.CAUGHT_UP) == 1
    assert process.ticks(Outcome.DUPLICATE) == 2
    assert process.value("scheduler_tick_lateness_seconds_count", actor="task") == 1
    assert process.value("scheduler_tick_lateness_seconds_sum", actor="task") == pytest.approx(
        (datetime.now(UTC) - current_slot()).total_seconds(), abs=30
    )


def test_a_standby_that_takes_over_makes_up_what_was_missed_at_once(
    process: Process, another: Process, client: redis.Redis
) -> None:
    with campaigning(process.scheduler):
        wait_for(lambda: process.ticks(Outcome.CAUGHT_UP), what="a leader")
        others = wait_for(lambda: listeners(client), what="its ear")
        with campaigning(another.scheduler):
            wait_for(lambda: listeners(client) - others, what="a standby that listens")
            wait_for(lambda: client.hlen(keys.MEMBERS) == 2, what="its campaign")
            claim(client, current_slot() - timedelta(hours=1))
            process.scheduler.stop()

            wait_for(lambda: another.ticks(Outcome.CAUGHT_UP), what="what was missed")


def test_a_mark_of_a_clock_that_was_put_back_keeps_no_new_leader_from_making_up(
    process: Process, redis_url: str, client: redis.Redis
) -> None:
    claim(client, current_slot() + timedelta(hours=3))
    with campaigning(process.scheduler):
        wait_for(lambda: messages(redis_url), what="the message")


def test_the_leader_leaves_what_is_just_due_to_periodiqs_loop(
    process: Process, redis_url: str, client: redis.Redis
) -> None:
    slot = current_slot()
    claim(client, slot - timedelta(hours=1))
    process.scheduler._lease.acquire("{}")  # noqa: SLF001 - without its thread, whose renewals are these
    process.scheduler.clock._monotonic = lambda: 0.0  # noqa: SLF001 - it stands, however long a step takes
    for late, sent in ((0.9, 0), (1.1, 1)):
        said = slot + late * SECOND
        process.scheduler.clock.read(int(said.timestamp()), said.microsecond, asked_at=0.0)
        process.scheduler._go_on_leading()  # noqa: SLF001 - see above
        assert len(messages(redis_url)) == sent


def test_a_slot_that_was_missed_for_longer_than_the_window_is_said_to_be_once(
    redis_url: str, client: redis.Redis, log: list[Any]
) -> None:
    daily = ten_minutes_ago()
    claim(client, current_slot(daily) - timedelta(days=1))
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, daily, catchup_window="9m", **QUICK)
        with campaigning(process.scheduler):
            wait_for(lambda: events(log, "missed: older than the catch-up window"), what="the line")
            renewals = client.zscore(keys.SEEN, process.scheduler._lease.holder)  # noqa: SLF001 - who it is
            client.publish(keys.WAKE, "renew")
            wait_for(lambda: client.zscore(keys.SEEN, process.scheduler._lease.holder) != renewals, what="a renewal")  # noqa: SLF001 - the same
    (line,) = events(log, "missed: older than the catch-up window")
    assert line["slot"] == current_slot(daily).isoformat()


def test_a_restart_misses_nothing_of_a_schedule_that_was_kept(
    redis_url: str, client: redis.Redis, log: list[Any]
) -> None:
    daily = ten_minutes_ago()
    claim(client, current_slot(daily))
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, daily, catchup_window="9m", **SLOW)
        with campaigning(process.scheduler):
            wait_for(lambda: client.hget(TASK, "schedule"), what="the leader's look at its tasks")
            process.tick()
    assert not [line for line in log if "missed" in line["event"]]


@pytest.mark.parametrize("mark", ["100000000000000000", "soon", "-99999999999999999999", ""])
def test_a_mark_that_makes_no_sense_keeps_no_task_waiting(
    redis_url: str, client: redis.Redis, log: list[Any], mark: str
) -> None:
    client.hset(TASK, "slot", mark)
    with broker_on(redis_url) as broker:
        CountedActor(broker, ten_minutes_ago())
        CountedActor(broker, ten_minutes_ago(), name="other")
        with campaigning(scheduler_of(broker, redis_url, **SLOW)):
            wait_for(lambda: len(messages(redis_url)) == 2, what="both messages")
    assert not events(log, "the election failed, and goes on")


def test_a_tick_that_fails_for_long_is_an_error_once(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path) as server, broker_on(server.url) as broker:
        process = Process(broker, server.url, Every(seconds=1))
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see below
        with redis.Redis.from_url(server.url, protocol=2) as client:
            client.config_set("maxmemory", 1)
            for _ in range(3):
                process.tick()
            errors = [line["log_level"] for line in events(log, "tick not enqueued")]
            assert sorted(errors) == ["debug", "debug", "error"]

            client.config_set("maxmemory", 0)
            process.tick()
            client.config_set("maxmemory", 1)
            wait_for(lambda: process.tick() or len(events(log, "tick not enqueued")) > 3, what="a failure")  # type: ignore[func-returns-value]
        assert events(log, "tick not enqueued")[3]["log_level"] == "error"


def test_the_key_of_one_task_keeps_no_other_task_waiting(redis_url: str, client: redis.Redis, log: list[Any]) -> None:
    client.set(TASK, "somebody's")
    with broker_on(redis_url) as broker:
        CountedActor(broker, ten_minutes_ago())
        CountedActor(broker, ten_minutes_ago(), name="other")
        with campaigning(scheduler_of(broker, redis_url, **SLOW)):
            wait_for(lambda: messages(redis_url), what="the other's message")

    assert [message["actor_name"] for message in messages(redis_url)] == ["other"]
    assert all("WRONGTYPE" in line["reason"] for line in events(log, "tick not enqueued"))
    assert not events(log, "redis is down")


def test_a_resignation_whose_answer_is_lost_is_tried_again(tmp_path: Path, log: list[Any]) -> None:
    with redis_server_with(tmp_path) as server, relay_to(server.port) as relay:
        url = f"redis://127.0.0.1:{relay.port}/0"
        with broker_on(url) as broker:
            process = Process(broker, url, HOURLY, **SLOW)
            with campaigning(process.scheduler):
                wait_for(lambda: process.ticks(Outcome.CAUGHT_UP), what="a leader")
                relay.lose_answer_to(keys.WAKE.encode())  # none but the release names it now
    assert [line["term"] for line in events(log, "resigned")] == [1]


def test_a_pause_and_its_end_are_each_logged_once(redis_url: str, client: redis.Redis, log: list[Any]) -> None:
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, Every(seconds=1))
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see below
        client.hset(TASK, "paused_at", 1)

        def tick_until(count: int, outcome: Outcome) -> None:
            wait_for(lambda: process.tick() or process.ticks(outcome) >= count, what=f"{count} slots {outcome}")  # type: ignore[func-returns-value]

        tick_until(2, Outcome.PAUSED)
        client.hdel(TASK, "paused_at")
        tick_until(2, Outcome.ENQUEUED)

    said = [line["event"] for line in log if line.get("log_level") == "info" and "slots" in line["event"]]
    assert said == ["its slots pass without a message: it is paused", "its slots are enqueued again"]


def test_a_slot_that_was_enqueued_before_is_not_made_up(process: Process, redis_url: str, client: redis.Redis) -> None:
    claim(client, current_slot())
    with campaigning(process.scheduler):
        wait_for(lambda: client.hget(TASK, "schedule"), what="the leader's look at its tasks")
        process.tick()

    assert messages(redis_url) == []
    assert process.ticks(Outcome.DUPLICATE) == 1


def test_a_slot_older_than_the_window_is_not_made_up(redis_url: str, client: redis.Redis) -> None:
    daily = ten_minutes_ago()
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, daily, catchup_window="9m")
        with campaigning(process.scheduler):
            wait_for(lambda: client.hget(TASK, "schedule"), what="the leader's look at its tasks")
    assert messages(redis_url) == []

    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, daily, catchup_window="12m")
        with campaigning(process.scheduler):
            wait_for(lambda: messages(redis_url), what="the message")


def test_the_leader_sends_at_each_renewal_what_periodiqs_loop_has_missed(redis_url: str) -> None:
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, Every(seconds=1), **QUICK)
        with campaigning(process.scheduler):  # there is no loop at all
            wait_for(lambda: len(messages(redis_url)) >= 3, what="ticks without a loop")

    slots = [message["options"]["scheduled_at"] for message in messages(redis_url)]
    assert slots == sorted(set(slots))


def test_a_loop_that_is_stuck_is_reported_once_and_to_the_others(
    process: Process, client: redis.Redis, log: list[Any]
) -> None:
    process.scheduler.loop.expect("every hour", seconds=-60)
    with campaigning(process.scheduler):
        wait_for(lambda: process.leads, what="a leader")
        client.publish(keys.WAKE, "renew")
        wait_for(lambda: client.hvals(keys.MEMBERS) and len(events(log, "leading")) == 1, what="a renewal")
        (about,) = client.hvals(keys.MEMBERS)
        assert json.loads(about)["loop"] == "stuck"
        assert process.value("scheduler_loop_alive") == 0
    assert len([line for line in log if "loop is stuck" in line["event"]]) == 1


# What a broker sends


def test_a_tick_carries_its_slot_and_not_the_second_of_waking(
    process: Process, redis_url: str, client: redis.Redis
) -> None:
    claim(client, current_slot() - timedelta(hours=1))
    process.scheduler._lease.acquire("{}")  # noqa: SLF001 - without a thread that catches up before it
    process.tick()

    (message,) = messages(redis_url)
    assert message["options"]["scheduled_at"] == current_slot().isoformat()


def ten_minutes_ago() -> Cron:
    early = datetime.now(UTC) - timedelta(minutes=10)
    return Cron(f"{early.minute} {early.hour} * * *")


@pytest.mark.parametrize(
    ("schedule", "outcome"), [(Every(seconds=1), Outcome.ENQUEUED), (ten_minutes_ago(), Outcome.CAUGHT_UP)]
)
def test_a_tick_of_a_late_loop_is_marked_and_one_in_time_is_not(
    redis_url: str, schedule: Schedule, outcome: Outcome
) -> None:
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, schedule)
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
        process.tick()

    (message,) = messages(redis_url)
    assert message["options"].get("caught_up", False) == (outcome is Outcome.CAUGHT_UP)
    assert process.ticks(outcome) == 1


def test_a_loop_that_slept_through_the_window_sends_nothing(redis_url: str, client: redis.Redis) -> None:
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, ten_minutes_ago(), catchup_window="9m")
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
        process.tick()
    assert messages(redis_url) == []
    assert not client.exists(TASK)


def test_who_stands_by_sends_no_tick_and_asks_no_middleware(redis_url: str) -> None:
    asked: list[str] = []

    class Watch(Middleware):
        def before_enqueue(self, *_: object) -> None:
            asked.append("before")

    with broker_on(redis_url, Watch()) as broker:
        process = Process(broker, redis_url, HOURLY)
        process.tick()

    assert process.ticks(Outcome.NOT_LEADER) == 1
    assert not asked
    assert not messages(redis_url)


def test_messages_that_are_no_ticks_go_the_ordinary_way_whoever_leads(process: Process, redis_url: str) -> None:
    process.task.actor.send()
    process.task.actor.send_with_options(delay=60_000)

    assert [set(message["options"]) for message in messages(redis_url)] == [{"redis_message_id"}]
    assert [set(message["options"]) for message in messages(redis_url, "default.DQ")] == [{"redis_message_id", "eta"}]


def test_middleware_sees_a_tick_before_and_after_and_nothing_after_one_that_was_not_sent(redis_url: str) -> None:
    seen: list[tuple[str, str]] = []

    class Watch(Middleware):
        def before_enqueue(self, _: Any, message: Any, delay: Any) -> None:
            assert delay is None
            seen.append(("before", message.options["scheduled_at"]))

        def after_enqueue(self, _: Any, message: Any, delay: Any) -> None:
            assert delay is None
            seen.append(("after", message.options["scheduled_at"]))

    with broker_on(redis_url, Watch()) as broker:
        process = Process(broker, redis_url, HOURLY)
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
        process.tick()
        process.tick()

    slot = current_slot().isoformat()
    assert seen == [("before", slot), ("after", slot), ("before", slot)]


def test_a_middleware_that_vetoes_a_tick_does_not_end_the_scheduler(redis_url: str, log: list[Any]) -> None:
    class Veto(Middleware):
        def before_enqueue(self, *_: object) -> None:
            raise MiddlewareError("not today")

    with broker_on(redis_url, Veto()) as broker:
        process = Process(broker, redis_url, HOURLY)
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
        process.tick()

    assert messages(redis_url) == []
    assert process.ticks(Outcome.FAILED) == 1
    assert [line["reason"] for line in events(log, "tick not enqueued")] == ["not today"]


def test_a_tick_that_always_fails_is_tried_at_renewals_only(redis_url: str) -> None:
    vetoes: list[str] = []

    class Veto(Middleware):
        def before_enqueue(self, *_: object) -> None:
            vetoes.append("no")
            raise MiddlewareError("never")

    with broker_on(redis_url, Veto()) as broker:
        process = Process(broker, redis_url, Every(seconds=1), **QUICK)
        with campaigning(process.scheduler):
            wait_for(lambda: len(vetoes) >= 3, what="the third try")
    assert len(vetoes) < 10


def test_a_trigger_is_carried_out_at_once_and_once(process: Process, redis_url: str, client: redis.Redis) -> None:
    claim(client, current_slot())
    with campaigning(process.scheduler):
        wait_for(lambda: client.hget(TASK, "schedule"), what="the leader's look at its tasks")
        client.hset(TASK, mapping={"trigger_id": "r1", "trigger_by": "ann@host"})
        client.publish(keys.WAKE, "trigger")
        wait_for(lambda: client.hget(TASK, "triggered_id") == "r1", what="the triggered message")

    (message,) = messages(redis_url)
    assert "scheduled_at" not in message["options"]
    assert client.hget(TASK, "trigger_id") is None


def test_a_trigger_that_cannot_be_sent_keeps_no_other_task_waiting(
    redis_url: str, client: redis.Redis, log: list[Any]
) -> None:
    class Veto(Middleware):
        def before_enqueue(self, _: Any, message: Any, delay: Any) -> None:
            del delay
            if message.actor_name == "task":
                raise MiddlewareError("not this one")

    client.hset(TASK, "trigger_id", "r1")
    with broker_on(redis_url, Veto()) as broker:
        CountedActor(broker, None)
        CountedActor(broker, ten_minutes_ago(), name="other")
        with campaigning(scheduler_of(broker, redis_url, **SLOW)):
            wait_for(lambda: messages(redis_url), what="the other's message")

    assert [message["actor_name"] for message in messages(redis_url)] == ["other"]
    assert {line["reason"] for line in events(log, "trigger not confirmed")} == {"not this one"}
    assert [line["log_level"] for line in events(log, "trigger not confirmed")].count("error") == 1
    assert client.hget(TASK, "trigger_id") == "r1"


def test_a_task_without_a_schedule_can_be_triggered(redis_url: str, client: redis.Redis) -> None:
    client.hset(TASK, mapping={"trigger_id": "r1", "schedule": "every 60 s", "next_slot": "1"})
    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, None, **SLOW)
        with campaigning(process.scheduler):
            wait_for(lambda: messages(redis_url), what="the message")
    assert client.hmget(TASK, "schedule", "next_slot") == [None, None]


# The contract with dramatiq: a tick lies in Redis as any message does.


def everything(client: redis.Redis) -> dict[str, Any]:
    """Return what dramatiq keeps in Redis, without what is different each time."""
    kept: dict[str, Any] = {}
    redis_client: Any = client
    for key in redis_client.scan_iter("dramatiq*"):
        kind = redis_client.type(key)
        if kind == "list":
            kept[key] = [len(one) for one in redis_client.lrange(key, 0, -1)]
        elif kind == "hash":
            kept[key] = []
            for message_id, text in redis_client.hgetall(key).items():
                message = json.loads(text)
                assert message["options"].pop("redis_message_id") == message_id
                assert message["options"].pop("scheduled_at")
                assert abs(message.pop("message_timestamp") / 1000 - datetime.now(UTC).timestamp()) < 60
                assert len(message.pop("message_id")) == 36
                kept[key].append((list(message), message))
        elif kind == "zset":
            kept[key] = [len(one) for one in redis_client.zrange(key, 0, -1)]
        else:
            raise AssertionError(f"dramatiq keeps a {kind} at {key}: look at what its new version does")
    return kept


def test_a_tick_lies_in_redis_exactly_as_dramatiq_would_have_put_it(redis_url: str, client: redis.Redis) -> None:
    options = {"scheduled_at": current_slot().isoformat(), "caught_up": True, "term": 1}
    plain = RedisBroker(url=redis_url, middleware=[Retries()])  # type: ignore[no-untyped-call]
    CountedActor(plain, None).actor.send_with_options(**options)
    plain.client.close()
    expected = everything(client)
    client.flushdb()

    with broker_on(redis_url) as broker:
        process = Process(broker, redis_url, ten_minutes_ago())
        process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
        process.tick()

    assert expected.keys() == {"dramatiq:default", "dramatiq:default.msgs", "dramatiq:__heartbeats__"}
    assert everything(client) == expected


def test_the_push_is_called_with_what_dramatiq_calls_it_with(process: Process, redis_url: str) -> None:
    called: list[dict[str, Any]] = []

    def note(**given: Any) -> None:
        called.append(given)

    plain = RedisBroker(url=redis_url, middleware=[])  # type: ignore[no-untyped-call]
    plain.broker_id = process.broker.broker_id
    scripts: Any = plain.scripts
    scripts["dispatch"] = note
    message = process.task.actor.message().copy(options={"redis_message_id": "id"})
    plain.do_enqueue(message.queue_name, "id", message.copy(options={"term": 7}).encode())
    plain.client.close()

    (given,) = called
    push = process.broker._pushing(message)(7)  # noqa: SLF001 - what the fence hands on
    command, at, *rest = given["args"]
    assert given["keys"] == [push.key]
    assert (command, abs(at - push.arguments[1]) < 60_000) == (push.arguments[0], True)
    del rest[4:6], (mine := list(push.arguments[2:]))[4:6]  # whether to maintain, and in which portions
    assert rest == mine


def test_a_worker_takes_a_tick_and_leaves_nothing_of_it(process: Process, redis_url: str, client: redis.Redis) -> None:
    process.scheduler._lease.acquire("{}")  # noqa: SLF001 - see above
    process.tick()
    with working(process.broker):
        wait_until_drained(redis_url)

    assert process.task.runs == 1
    assert client.keys("dramatiq:default*") == []
