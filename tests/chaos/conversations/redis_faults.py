"""What is done to Redis: restarted, full, slow, emptied, read-only, its connections cut.

It holds only what may be lost. While it does not answer nothing is ended by sweeps, and messages still end what is past
its deadline on their keys. Each fault sees to it that it was felt: Redis counts what it refused, cut and forgot.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.latency import slow_road
from tests.chaos.conversations.processes import Process
from tests.chaos.conversations.stack import RENEW, Stack
from tests.support import attempts, free_port

#: Longer than a worker or a scheduler waits for an answer, in seconds.
_BEYOND_PATIENCE = 6.0
#: How long a state lasts at least, in seconds: some ticks.
_LEAST = 2.0
#: How long a refusal, or a process, may take to come, in seconds.
_PATIENCE = 30.0


def _restart_with_data(stack: Stack) -> str:
    return _stop(stack, is_emptied=False)


def _restart_without_data(stack: Stack) -> str:
    return _stop(stack, is_emptied=True)


def _stop(stack: Stack, *, is_emptied: bool) -> str:
    is_killed = stack.rng.random() < 0.5
    down = stack.rng.choice([0.0, 1.5, 4.0])
    run_id = _info(stack, "server")["run_id"]
    (stack.redis.kill if is_killed else stack.redis.stop)()
    time.sleep(down)
    if is_emptied:
        stack.redis.empty()
    stack.redis.start()
    _see(stack, "the restart", _info(stack, "server")["run_id"] != run_id)
    return f"{'SIGKILL' if is_killed else 'shutdown'}, down for {down:g} s, data {'lost' if is_emptied else 'kept'}"


def _fill(stack: Stack) -> str:
    length = stack.rng.uniform(_LEAST, 6)
    with _client(stack) as client:
        refused = _errors(stack, "OOM")
        client.config_set("maxmemory-policy", "noeviction")
        try:
            client.config_set("maxmemory", _info(stack, "memory")["used_memory"] // 2)
            time.sleep(length)
            _wait_for_errors(stack, "OOM", refused)
            count = _errors(stack, "OOM") - refused
        finally:
            client.config_set("maxmemory", 0)
    _see(stack, "a refusal for want of memory", count > 0)
    return f"maxmemory reached for {length:.1f} s, {count} writes refused"


def _make_read_only(stack: Stack) -> str:
    length = stack.rng.uniform(_LEAST, 5)
    said = _refusals(stack)
    with _client(stack) as client:
        try:
            client.replicaof("127.0.0.1", free_port())
            time.sleep(length)
            # Redis 6 does not count what it refuses of a script as READONLY.
            are_told = any(_are_told(stack, said) for _ in attempts(_PATIENCE))
        finally:
            client.replicaof("NO", "ONE")
    _see(stack, "a refusal as of a replica", are_told)
    return f"the replica of a dead master for {length:.1f} s"


def _refusals(stack: Stack) -> list[int]:
    """Return how often each worker has said that Redis is a replica."""
    return [one.output.count("this Redis is a replica now") for one in stack.workers]


def _are_told(stack: Stack, before: list[int]) -> bool:
    return all(now > then for now, then in zip(_refusals(stack), before, strict=True))


def _pause_clients(stack: Stack) -> str:
    length = stack.rng.choice([0.5, 2.0, _BEYOND_PATIENCE])
    with _client(stack, timeout=_PATIENCE) as client:
        client.client_pause(round(length * 1000))
        began = time.monotonic()
        client.ping()
        took = time.monotonic() - began
    _see(stack, "the silence of a pause", took > length / 2)
    return f"CLIENT PAUSE for {length:g} s"


def _block(stack: Stack) -> str:
    """Have Redis do nothing for a while, several times."""
    lengths = [stack.rng.choice([0.3, 1.0, _BEYOND_PATIENCE]) for _ in range(2)]
    with _client(stack, timeout=_PATIENCE) as client:
        for length in lengths:
            began = time.monotonic()
            client.execute_command("DEBUG", "SLEEP", length)  # type: ignore[no-untyped-call]
            _see(stack, "the sleep", time.monotonic() - began >= length)
            time.sleep(0.5)
    return f"blocked for {' and '.join(f'{length:g}' for length in lengths)} s"


def _take_long_roads(stack: Stack) -> str:
    """Have all processes reach Redis by a network of 50 to 500 ms each way, for a while."""
    length = stack.rng.uniform(6, 9)
    with slow_road(stack.redis.port, least=0.05, most=0.5, rng=stack.rng) as road:
        _replace_all(stack, REDIS_URL=f"redis://127.0.0.1:{road.port}/0")
        before = road.passed
        time.sleep(length)
        passed = road.passed - before
        _replace_all(stack)
    _see(stack, "anything on the slow road", passed > 0)
    return f"50 to 500 ms each way for {length:.1f} s, {passed} times something was passed on"


def _replace_all(stack: Stack, **environment: str) -> None:
    """Put others in the place of all processes, and return when these work."""
    old: list[Process] = [*stack.workers, *stack.schedulers]
    for one in old:
        one.terminate()
    for one in old:
        stack.finish(one)
    for one in old:
        stack.replace(one, **environment)
    for _ in attempts(_PATIENCE):
        if all("ready for action" in one.output for one in stack.workers):
            return
    stack.incidents.append(f"no word of {', '.join(map(str, stack.workers))} within {_PATIENCE:g} s")


def _flush(stack: Stack) -> str:
    """Empty Redis several times, at any moment of ticks and runs."""
    times = stack.rng.randint(3, 8)
    forgotten = 0
    with _client(stack) as client:
        for _ in range(times):
            time.sleep(stack.rng.uniform(0, 0.7))
            forgotten += int(client.dbsize())
            (client.flushall if stack.rng.random() < 0.5 else client.flushdb)()
    _see(stack, "anything to forget", forgotten > 0)
    return f"emptied {times} times, {forgotten} keys"


def _cut(stack: Stack) -> str:
    """Cut all connections several times."""
    times = stack.rng.randint(3, 12)
    cut = 0
    with _client(stack) as client:
        for _ in range(times):
            time.sleep(stack.rng.uniform(0, 0.5))
            for kind in ("normal", "pubsub"):
                # Whoever asks is spared.
                found: Any = client.client_kill_filter(_type=kind)
                cut += int(found)
    _see(stack, "anyone connected", cut > 0)
    return f"{cut} connections cut, in {times} strokes"


@contextmanager
def _client(stack: Stack, *, timeout: float = 5.0) -> Iterator[redis.Redis]:
    client = stack.redis.client()
    client.connection_pool.connection_kwargs["socket_timeout"] = timeout
    try:
        yield client
    finally:
        client.close()


def _info(stack: Stack, section: str) -> dict[str, Any]:
    with _client(stack) as client:
        found: Any = client.info(section)
        return dict(found)


def _errors(stack: Stack, kind: str) -> int:
    """Return how often Redis has refused with an error of a kind, since it was started."""
    stat = _info(stack, "errorstats").get(f"errorstat_{kind}")
    return int(stat["count"]) if stat else 0


def _wait_for_errors(stack: Stack, kind: str, before: int) -> None:
    for _ in attempts(_PATIENCE):
        if _errors(stack, kind) > before:
            return


def _see(stack: Stack, what: str, is_seen: object) -> None:
    if not is_seen:
        stack.incidents.append(f"a fault did not come about: {what} was not seen")


_BACK = "a leader whose lease could not be renewed campaigns again at its renewals"

FAULTS: tuple[Fault, ...] = (
    Fault("Redis restarted, data kept", _restart_with_data, allowed=RENEW + 1, because=_BACK),
    Fault("Redis restarted, data lost", _restart_without_data, allowed=RENEW + 1, because=_BACK),
    Fault("Redis full", _fill, allowed=RENEW + 1, because=_BACK),
    Fault("Redis read-only", _make_read_only, allowed=RENEW + 1, because=_BACK),
    Fault("Redis silent", _pause_clients, allowed=RENEW + 1, because=_BACK),
    Fault("Redis blocked", _block, allowed=RENEW + 1, because=_BACK),
    Fault(
        "Redis behind a slow network",
        _take_long_roads,
        allowed=RENEW + 3,
        because="all processes are started anew at its end",
    ),
    Fault("Redis flushed", _flush, allowed=RENEW + 1, because=_BACK),
    Fault("connections to Redis cut", _cut, allowed=RENEW + 1, because=_BACK),
)
