"""What is done to the queues: messages doubled, dead-lettered and requeued, and garbage of all kinds put into them.

A message is only a reason to look: what is due, the database says. So none of this may end anything early or twice, and
the ticks behind it have to be run.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from tests.chaos.conversations.commands import run_adjourn
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.garbage import (
    DRAINS,
    NO_MESSAGE,
    ODD,
    REFUSED,
    SWEEPS,
    UNREADABLE,
    Pushed,
    is_dead_letter,
    left,
    push,
    push_again,
)
from tests.chaos.conversations.stack import INTERVAL, Stack
from tests.support import attempts

#: How long it may take until workers are done with all that was put into the queues, in seconds.
_PATIENCE = 30.0
#: How long there may be no tick to be copied, in seconds.
_NEXT_TICK = 5.0 * INTERVAL
#: Many more messages that nobody can run than all workers can hold.
_FLOOD = 1_000


def _double(stack: Stack) -> str:
    """Put ticks into their queue again: twice and ten times, waiting and being worked on, under their id and others."""
    copies: list[Pushed] = []
    with _client(stack) as client:
        with stack.postgres.connect(autocommit=False) as connection:
            # Whoever runs waits for it, and so do the clients.
            connection.execute("LOCK TABLE conversations IN SHARE MODE")
            _wait_for_message(client)
            for times in (1, 9):
                for under_its_own_id in (True, False):
                    time.sleep(0.2)
                    copies += push_again(client, SWEEPS, times=times, under_its_own_id=under_its_own_id)
        # And now some that nobody may have taken yet.
        for _ in range(stack.rng.randint(2, 5)):
            _wait_for_message(client)
            copies += push_again(client, SWEEPS, times=1, under_its_own_id=stack.rng.random() < 0.5)
        _wait_until_done(stack, client, copies)
    _see(stack, "a tick to copy", copies)
    return f"{len(copies)} copies of ticks"


def _wait_for_message(client: redis.Redis) -> None:
    for _ in attempts(_NEXT_TICK, pause=0.001):
        if client.hlen(f"dramatiq:{SWEEPS}.msgs"):
            return


def _kill_letters(stack: Stack) -> str:
    """Move ticks that nobody has taken to the dead letters, and have the command requeue them while all is running."""
    with _client(stack) as client:
        for worker in stack.workers:
            worker.pause()
        time.sleep(stack.rng.uniform(1, 3) * INTERVAL)
        letters = _move_to_dead_letters(client)
        for worker in stack.workers:
            worker.go_on()
        _see(stack, "a tick to move", letters)
        time.sleep(stack.rng.uniform(0, 1))
        run_adjourn(stack, "dead-letters", "list")
        run_adjourn(stack, "dead-letters", "requeue", "--all")
        remain = [one for one in letters if is_dead_letter(client, one)]
        if remain:
            stack.incidents.append(f"{len(remain)} of {len(letters)} dead letters were not requeued")
        # Under other ids by now.
        for _ in attempts(_PATIENCE):
            if not client.llen(f"dramatiq:{SWEEPS}"):
                break
        else:
            stack.incidents.append(f"requeued letters were not run within {_PATIENCE:g} s")
    return f"{len(letters)} ticks made dead letters, and requeued"


def _move_to_dead_letters(client: redis.Redis) -> list[Pushed]:
    """Do what dramatiq does when a message fails for good, to all that wait."""
    moved = []
    waiting: Any = client.lrange(f"dramatiq:{SWEEPS}", 0, -1)
    for redis_id in waiting:
        payload: Any = client.hget(f"dramatiq:{SWEEPS}.msgs", redis_id)
        with client.pipeline() as pipe:
            pipe.lrem(f"dramatiq:{SWEEPS}", 1, redis_id)
            pipe.hdel(f"dramatiq:{SWEEPS}.msgs", redis_id)
            pipe.hset(f"dramatiq:{SWEEPS}.XQ.msgs", redis_id, payload)
            pipe.zadd(f"dramatiq:{SWEEPS}.XQ", {redis_id: time.time_ns() // 1_000_000})
            pipe.execute()
        moved.append(Pushed("a tick", SWEEPS, redis_id.decode()))
    return moved


def _put_garbage(stack: Stack) -> str:
    """Put one of everything that nobody should send into both queues, in any order."""
    kinds = [(SWEEPS, UNREADABLE), (SWEEPS, ODD), (DRAINS, UNREADABLE), (DRAINS, ODD), (DRAINS, REFUSED)]
    plan = [(queue, name, writes) for queue, of_kind in kinds for name, writes in of_kind.items()]
    stack.rng.shuffle(plan)
    with _client(stack) as client:
        pushed = [push(client, queue, name, writes) for queue, name, writes in plan]
        _wait_until_done(stack, client, pushed)
        unreadable = [one for one in pushed if one.name in UNREADABLE]
        _check_letters(stack, client, pushed)
        _check_lines(stack, unreadable)
        run_adjourn(stack, "dead-letters", "list")
        run_adjourn(stack, "dead-letters", "drop", "--all", "--yes")
    return f"{len(pushed)} messages, {len(unreadable)} of which nobody can run"


def _flood(stack: Stack) -> str:
    """Put thousands of messages that nobody can run before the next tick."""
    names = [stack.rng.choice(["no JSON", "binary", "an unknown actor", NO_MESSAGE]) for _ in range(_FLOOD)]
    with _client(stack) as client:
        pushed = [push(client, SWEEPS, name, UNREADABLE[name]) for name in names]
        _wait_until_done(stack, client, pushed)
        _check_letters(stack, client, pushed)
        run_adjourn(stack, "dead-letters", "drop", "--all", "--yes")
    return f"{len(pushed)} messages that nobody can run"


def _check_letters(stack: Stack, client: redis.Redis, pushed: Sequence[Pushed]) -> None:
    """Note what should have become a dead letter and is none, and the other way about."""
    for one in pushed:
        is_expected = one.name in UNREADABLE and one.name != NO_MESSAGE
        if is_dead_letter(client, one) != is_expected:
            stack.incidents.append(f"{one.name} in {one.queue} is {'no' if is_expected else 'a'} dead letter")


def _check_lines(stack: Stack, unreadable: Sequence[Pushed]) -> None:
    """Note what was set aside without a line that says so, or with several."""
    logged = "".join(one.output for one in stack.processes if one.kind == "worker")
    ids = [
        line["redis_message_id"]
        for line in map(json.loads, (line for line in logged.splitlines() if line.startswith("{")))
        if line.get("logger") == "actors.sorting" and "redis_message_id" in line
    ]
    for one in unreadable:
        count = ids.count(one.redis_id)
        if count != 1:
            stack.incidents.append(f"{count} lines say that {one.name} in {one.queue} was set aside")


def _wait_until_done(stack: Stack, client: redis.Redis, pushed: Sequence[Pushed]) -> None:
    remain = list(pushed)
    for _ in attempts(_PATIENCE, pause=0.2):
        remain = left(client, remain)
        if not remain:
            return
    for name in sorted({f"{one.name} in {one.queue}" for one in remain}):
        stack.incidents.append(f"no worker was done with {name} within {_PATIENCE:g} s")


@contextmanager
def _client(stack: Stack) -> Iterator[redis.Redis]:
    """Yield a client that decodes nothing: garbage is no text."""
    with redis.Redis(port=stack.redis.port, socket_timeout=5) as client:
        yield client


def _see(stack: Stack, what: str, is_seen: object) -> None:
    if not is_seen:
        stack.incidents.append(f"a fault did not come about: {what} was not seen")


FAULTS: tuple[Fault, ...] = (
    Fault("ticks doubled", _double),
    Fault("ticks dead-lettered and requeued", _kill_letters),
    Fault("garbage in the queues", _put_garbage),
    Fault("a flood of garbage", _flood),
)
