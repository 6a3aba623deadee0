"""The lease against a real Redis, with the monotonic clock in the test's hand."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from services.scheduling import keys
from services.scheduling.clock import RedisClock
from services.scheduling.lease import Lease
from tests.servers import redis_server_with
from tests.support import wait_for

TIMEOUT = timedelta(seconds=15)


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class SlowRedis(redis.Redis):
    """A client whose scripts take as long as the test says, by the test's clock."""

    clock: Clock
    delay = 0.0

    def evalsha(self, *arguments: Any) -> Any:
        answer = super().evalsha(*arguments)
        self.clock.seconds += self.delay
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(redis_url: str, clock: Clock) -> Iterator[SlowRedis]:
    with SlowRedis.from_url(redis_url, protocol=2) as client:
        client.clock = clock
        yield client


def lease(client: redis.Redis, clock: Clock, *, timeout: timedelta = TIMEOUT) -> Lease:
    return Lease(client, timeout=timeout, clock=RedisClock(monotonic=clock), monotonic=clock)


def held(client: redis.Redis) -> tuple[str, int]:
    holder, term = cast(list[bytes], client.hmget(keys.LEASE, "holder", "term"))
    return holder.decode(), int(term)


def term(lease: Lease) -> int | None:
    return lease.hold.term if lease.hold else None


def test_one_leads_and_the_others_are_told_who_and_for_how_long(client: SlowRedis, clock: Clock) -> None:
    first, second = lease(client, clock), lease(client, clock)

    assert first.acquire("{}") is None
    assert term(first) == 1
    rival = second.acquire("{}")

    assert rival is not None
    assert rival.holder == first.holder
    assert client.pttl(keys.LEASE) / 1_000 <= rival.remaining <= 15
    assert second.hold is None


def test_a_lease_that_nobody_renews_is_another_ones_when_it_is_over(client: SlowRedis, clock: Clock) -> None:
    crashed, standby = lease(client, clock, timeout=timedelta(seconds=3)), lease(client, clock)
    crashed.acquire("{}")
    rival = standby.acquire("{}")

    assert rival is not None
    assert rival.remaining <= 3
    wait_for(lambda: standby.acquire("{}") is None, what="the end of the lease")
    assert held(client) == (standby.holder, 2)


def test_trust_ends_with_the_lease_and_not_with_its_reply(client: SlowRedis, clock: Clock) -> None:
    client.delay = 4
    leader = lease(client, clock)
    leader.acquire("{}")  # asked at 1,000, answered at 1,004

    clock.seconds = 1_014.9
    assert term(leader) == 1
    clock.seconds = 1_015
    assert leader.hold is None


def test_a_slow_successful_renewal_does_not_extend_trust(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")
    clock.seconds += 5
    client.delay = 12
    assert leader.renew("{}")  # asked at 1,005, answered at 1,017

    clock.seconds = 1_019.9
    assert leader.hold
    clock.seconds = 1_020
    assert leader.hold is None


@pytest.mark.parametrize("delay", [15, 60])
def test_what_took_longer_than_the_lease_lasts_is_not_trusted_at_all(
    client: SlowRedis, clock: Clock, delay: float
) -> None:
    leader = lease(client, clock)
    client.delay = delay

    assert leader.acquire("{}") is None
    assert leader.hold is None
    assert not leader.renew("{}")  # it campaigns instead


def test_a_renewal_counts_anew_from_its_start(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")
    client.pexpire(keys.LEASE, 7_000)
    clock.seconds += 5

    assert leader.renew("{}")
    assert client.pttl(keys.LEASE) > 7_000
    clock.seconds += 14.9
    assert term(leader) == 1


def test_a_leader_whose_term_was_replaced_can_neither_renew_nor_release(client: SlowRedis, clock: Clock) -> None:
    paused, leader = lease(client, clock), lease(client, clock)
    paused.acquire("{}")
    client.delete(keys.LEASE)  # its time is over
    leader.acquire("{}")

    assert not paused.renew("{}")
    assert paused.hold is None
    assert not paused.release()
    assert held(client) == (leader.holder, 2)
    assert leader.renew("{}")


def test_a_term_that_was_replaced_under_the_same_holder_is_over_as_well(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")
    client.hset(keys.LEASE, "term", 7)

    assert not leader.renew("{}")
    assert leader.hold is None


def test_a_late_answer_about_an_old_term_does_not_end_the_new_one(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")
    leader.acquire("{}")

    leader.give_up(1)
    assert term(leader) == 2
    leader.give_up(2)
    assert leader.hold is None


def test_a_release_lets_the_next_one_in_at_once(client: SlowRedis, clock: Clock) -> None:
    leader, standby = lease(client, clock), lease(client, clock)
    leader.acquire("{}")

    assert leader.release()
    assert leader.hold is None
    assert standby.acquire("{}") is None


def test_a_release_after_a_lost_reply_gives_back_what_was_got_unawares(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")
    client.hincrby(keys.LEASE, "term", 1)  # an acquire that was carried out, and never answered

    assert leader.release()
    assert not client.exists(keys.LEASE)


def test_a_try_whose_reply_was_lost_can_be_repeated_and_is_a_term_of_its_own(client: SlowRedis, clock: Clock) -> None:
    leader = lease(client, clock)
    leader.acquire("{}")

    assert leader.acquire("{}") is None
    assert held(client) == (leader.holder, 2)
    assert term(leader) == 2


def test_terms_go_on_when_redis_lost_its_data(client: SlowRedis, clock: Clock) -> None:
    first, second = lease(client, clock), lease(client, clock)
    for _ in range(5):
        first.acquire("{}")
    second.acquire("{}")  # in vain, but it sees the term
    client.flushdb()

    assert second.acquire("{}") is None
    assert term(second) == 6
    assert not first.renew("{}")


@pytest.mark.parametrize("left", [None, 3_600_000])
def test_a_lease_that_would_outlive_its_time_is_cut_to_it(client: SlowRedis, clock: Clock, left: int | None) -> None:
    crashed, standby = lease(client, clock), lease(client, clock)
    crashed.acquire("{}")
    # Redis's clock was put back by an hour, or a person made it last for ever.
    client.persist(keys.LEASE) if left is None else client.pexpire(keys.LEASE, left)

    rival = standby.acquire("{}")

    assert rival is not None
    assert rival.remaining == 15
    assert 0 < client.pttl(keys.LEASE) <= 15_000


def test_a_full_redis_lets_the_leader_renew(tmp_path: Path, clock: Clock) -> None:
    with redis_server_with(tmp_path) as server, SlowRedis.from_url(server.url, protocol=2) as client:
        client.clock = clock
        leader = lease(client, clock)
        leader.acquire("{}")
        client.config_set("maxmemory", 1)
        client.pexpire(keys.LEASE, 7_000)

        assert leader.renew("{}")
        assert client.pttl(keys.LEASE) > 7_000


def test_who_may_not_publish_can_still_resign(tmp_path: Path, clock: Clock) -> None:
    with redis_server_with(tmp_path) as server, redis.Redis.from_url(server.url, protocol=2) as owner:
        owner.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"], reset_channels=True)
        url = server.url.replace("redis://", "redis://app:pw@")
        with SlowRedis.from_url(url, protocol=2) as client:
            client.clock = clock
            leader = lease(client, clock)
            leader.acquire("{}")
            assert leader.release()
        assert not owner.exists(keys.LEASE)


def test_each_scheduler_is_seen_until_it_leaves(client: SlowRedis, clock: Clock) -> None:
    leader, standby = lease(client, clock), lease(client, clock)
    leader.acquire('{"host": "a"}')
    standby.acquire('{"host": "b"}')
    leader.renew('{"host": "a", "loop": "stuck"}')

    assert client.hgetall(keys.MEMBERS) == {
        leader.holder.encode(): b'{"host": "a", "loop": "stuck"}',
        standby.holder.encode(): b'{"host": "b"}',
    }
    standby.release()
    assert client.hkeys(keys.MEMBERS) == client.zrange(keys.SEEN, 0, -1) == [leader.holder.encode()]


def test_a_scheduler_that_is_not_heard_of_for_four_leases_is_forgotten(client: SlowRedis, clock: Clock) -> None:
    crashed, leader = lease(client, clock), lease(client, clock)
    crashed.acquire("{}")
    client.zincrby(keys.SEEN, -60_001, crashed.holder)

    leader.acquire("{}")

    assert client.hkeys(keys.MEMBERS) == [leader.holder.encode()]
