"""How each kind of fault is injected. What it is allowed to cost stands in ``bounds``.

Each fault draws its details from the cluster's generator, so a seed repeats the plan; when exactly a fault meets a
process is up to the machine.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.proxy import Gate, Loss, Trap
from tests.chaos.resp import Request
from tests.chaos.scheduling.bounds import BOUNDS, CUT_FROM_ALL, CUT_FROM_LEADER, CUT_ONCE, LEASE
from tests.chaos.scheduling.cluster import STEADY_TIMEOUT, Cluster
from tests.chaos.scheduling.ledger import LEASE_KEY
from tests.chaos.scheduling.records import Kind, Outage

#: A trap that is not full after this many seconds is taken away: the leader may have changed.
_TRAP_TIMEOUT = 8.0
#: How far the clocks are apart, in seconds.
_LEAST_SHIFT, _MOST_SHIFT = 2, 180


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, for people, and what it may cost."""

    what: str
    outages: tuple[Outage, ...]


def inject(kind: Kind, cluster: Cluster) -> Done:
    """Do it, and return when there is only left to wait for the recovery."""
    return _INJECTORS[kind](cluster)


def _kill_leader(cluster: Cluster) -> Done:
    leader = cluster.leader
    at = time.time()
    leader.kill()
    cluster.replace(leader)
    return Done(f"SIGKILL to {leader}", (BOUNDS[Kind.LEADER_KILLED].outage(at, at),))


def _pause_leader(cluster: Cluster) -> Done:
    leader = cluster.leader
    length = LEASE + cluster.rng.uniform(0.2, 3)
    at = time.time()
    leader.pause()
    time.sleep(length)
    leader.go_on()
    return Done(f"SIGSTOP to {leader} for {length:.1f} s", (BOUNDS[Kind.LEADER_PAUSED].outage(at, at + length),))


def _terminate_leader(cluster: Cluster) -> Done:
    leader = cluster.leader
    at = cluster.terminate(leader)
    cluster.finish(leader)
    cluster.replace(leader)
    return Done(f"SIGTERM to {leader}", (BOUNDS[Kind.LEADER_TERMINATED].outage(at, at),))


def _restart_redis(cluster: Cluster) -> Done:
    what, at = _stop_redis(cluster)
    cluster.server.start()
    return Done(what, (BOUNDS[Kind.REDIS_RESTARTED].outage(at, time.time()),))


def _empty_redis(cluster: Cluster) -> Done:
    with cluster.ledger.pause():
        what, at = _stop_redis(cluster)
        cluster.server.empty()
        cluster.ledger.forget()
        cluster.server.start()
    return Done(what, (BOUNDS[Kind.REDIS_EMPTIED].outage(at, time.time()),))


def _stop_redis(cluster: Cluster) -> tuple[str, float]:
    kill = cluster.rng.random() < 0.5
    down = cluster.rng.choice([0.0, 1.2, LEASE + 0.5])
    at = time.time()
    (cluster.server.kill if kill else cluster.server.stop)()
    time.sleep(down)
    return f"{'SIGKILL' if kill else 'shutdown'}, down for {down:g} s", at


def _drop_replies(cluster: Cluster) -> Done:
    return _lose(cluster, Kind.REPLY_DROPPED, Loss.REPLY_CLOSED)


def _swallow_replies(cluster: Cluster) -> Done:
    return _lose(cluster, Kind.REPLY_SWALLOWED, Loss.REPLY_SILENT)


def _swallow_requests(cluster: Cluster) -> Done:
    return _lose(cluster, Kind.REQUEST_SWALLOWED, cluster.rng.choice([Loss.REQUEST_CLOSED, Loss.REQUEST_SILENT]))


def _lose(cluster: Cluster, kind: Kind, loss: Loss) -> Done:
    """Lose some of the leader's next enqueues, or of its next words about the lease."""
    name, matches = cluster.rng.choice([("enqueue", _is_enqueue), ("renewal", _is_about_lease)])
    trap = Trap(matches=matches, loss=loss, times=cluster.rng.randint(1, 3))
    leader = cluster.leader
    leader.proxy.set_trap(trap)
    deadline = time.monotonic() + _TRAP_TIMEOUT
    while len(trap.fired) < trap.times and time.monotonic() < deadline:
        time.sleep(0.01)
    leader.proxy.set_trap(None)
    what = f"{loss.name.lower().replace('_', ' ')} for {len(trap.fired)} of {trap.times} {name} of {leader}"
    if not trap.fired:
        cluster.record.incidents.append(f"{what}: it never sent one")
        return Done(what, ())
    return Done(what, (BOUNDS[kind].outage(trap.fired[0], trap.fired[-1]),))


def _lose_renewals(cluster: Cluster) -> Done:
    """Lose all that the leader says about the lease, for longer than it lasts; what it enqueues would get through."""
    loss = cluster.rng.choice([Loss.REQUEST_CLOSED, Loss.REQUEST_SILENT])
    longer = cluster.rng.uniform(1, 2.5)
    leader = cluster.leader
    at = time.time()
    leader.proxy.set_trap(Trap(matches=_is_about_lease, loss=loss, times=sys.maxsize))
    another = cluster.wait_for(
        lambda look: look.leader_pid not in {None, leader.pid}, seconds=STEADY_TIMEOUT, what="another leader"
    )
    # Both are alive now, and one of them led before.
    time.sleep(longer)
    leader.proxy.set_trap(None)
    what = f"{loss.name.lower().replace('_', ' ')} for each renewal of {leader}, until {longer:.1f} s after another led"
    return Done(what, (BOUNDS[Kind.RENEWALS_LOST].outage(at, another),))


def _is_enqueue(request: Request) -> bool:
    return request.is_script and request.mentions(b"scheduled_at")


def _is_about_lease(request: Request) -> bool:
    return request.is_script and request.mentions(LEASE_KEY.encode()) and not request.mentions(b"scheduled_at")


def _cut_connections(cluster: Cluster) -> Done:
    everyone = cluster.rng.random() < 0.5
    how = cluster.rng.choice(["once", "refused", "held back"])
    length = cluster.rng.choice([0.7, LEASE - 0.5, LEASE + 1.5])
    leader = cluster.leader
    proxies = [one.proxy for one in (cluster.schedulers if everyone else [leader])]
    whose = "all connections" if everyone else f"connections of {leader}"
    at = time.time()
    if how == "once":
        for proxy in proxies:
            proxy.cut()
        return Done(f"{whose}, once", (CUT_ONCE.outage(at, at),))
    for proxy in proxies:
        proxy.set_gate(Gate.REFUSING if how == "refused" else Gate.HOLDING)
    time.sleep(length)
    for proxy in proxies:
        proxy.set_gate(Gate.OPEN)
    bound = CUT_FROM_ALL if everyone else CUT_FROM_LEADER
    return Done(f"{whose}, {how} for {length:g} s", (bound.outage(at, time.time()),))


def _kill_all(cluster: Cluster) -> Done:
    at = time.time()
    for one in cluster.schedulers:
        one.kill()
    started = [cluster.replace(one) for one in cluster.schedulers]
    up = cluster.wait_for_members(started, every=False)
    return Done(f"SIGKILL to all {len(started)}", (BOUNDS[Kind.ALL_KILLED].outage(at, up),))


def _set_clocks_apart(cluster: Cluster) -> Done:
    """Have leaders with clocks that are fast, slow and right follow one another."""
    rng = cluster.rng
    fast, slow = rng.uniform(_LEAST_SHIFT, _MOST_SHIFT), -rng.uniform(_LEAST_SHIFT, _MOST_SHIFT)
    shifts = [fast, slow] if rng.random() < 0.5 else [slow, fast]
    old = cluster.standbys
    for one in old:
        cluster.terminate(one)
    for one in old:
        cluster.finish(one)
    shifted = [cluster.replace(one, clock_shift=shifts[index % 2]) for index, one in enumerate(old)]
    cluster.wait_for_members(shifted)
    cluster.wait_until_steady()
    handovers = [_hand_over(cluster)]
    cluster.wait_until_steady()
    handovers.append(_hand_over(cluster))
    # Back to one clock, so that the next fault is about itself.
    for one in [one for one in cluster.standbys if one.clock_shift]:
        cluster.terminate(one)
        cluster.finish(one)
        cluster.replace(one)
    if cluster.leader.clock_shift:
        cluster.wait_until_steady()
        handovers.append(_hand_over(cluster))
    return Done(
        f"clocks {fast:+.1f} s and {slow:+.1f} s, {len(handovers)} handovers",
        tuple(BOUNDS[Kind.CLOCKS_APART].outage(at, at) for at in handovers),
    )


def _hand_over(cluster: Cluster) -> float:
    """Have the leader resign, start one with the right clock in its place, and return when."""
    leader = cluster.leader
    at = cluster.terminate(leader)
    cluster.finish(leader)
    cluster.replace(leader)
    cluster.wait_for(
        lambda look: look.leader_pid not in {None, leader.pid}, seconds=STEADY_TIMEOUT, what="another leader"
    )
    return at


_INJECTORS: dict[Kind, Callable[[Cluster], Done]] = {
    Kind.LEADER_KILLED: _kill_leader,
    Kind.LEADER_PAUSED: _pause_leader,
    Kind.LEADER_TERMINATED: _terminate_leader,
    Kind.REDIS_RESTARTED: _restart_redis,
    Kind.REDIS_EMPTIED: _empty_redis,
    Kind.REPLY_DROPPED: _drop_replies,
    Kind.REPLY_SWALLOWED: _swallow_replies,
    Kind.REQUEST_SWALLOWED: _swallow_requests,
    Kind.RENEWALS_LOST: _lose_renewals,
    Kind.CONNECTIONS_CUT: _cut_connections,
    Kind.ALL_KILLED: _kill_all,
    Kind.CLOCKS_APART: _set_clocks_apart,
}
