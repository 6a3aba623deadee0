"""Which faults come when: rare enough for what grows between them to be seen."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from services.scheduling.keys import LEASE as LEASE_KEY
from services.scheduling.keys import MEMBERS
from tests.chaos.conversations import postgres_faults, redis_faults, worker_faults
from tests.chaos.conversations.faults import Fault
from tests.chaos.conversations.stack import LEASE, Stack
from tests.soak.verdict import Terms


@dataclass(frozen=True, slots=True)
class Plan:
    """A form of the soak. Times are in seconds."""

    name: str
    length: float
    #: Between two readings.
    sampling: float
    terms: Terms
    #: When each is done, from the start of the watch.
    faults: tuple[tuple[float, Fault], ...]
    #: How long ago a conversation ended that is archived: longer than a client remembers it. None: none is.
    archive_after: timedelta | None = None
    #: What the superuser sets.
    settings: tuple[str, ...] = ()

    @property
    def statements(self) -> tuple[str, ...]:
        """The settings, and that they be heeded."""
        return (*(f"ALTER SYSTEM SET {setting}" for setting in self.settings), "SELECT pg_reload_conf()")


def _kill_leader(stack: Stack) -> str:
    with stack.redis.client() as client:
        holder = client.hget(LEASE_KEY, "holder")
        told = client.hget(MEMBERS, str(holder)) or "{}"
    pid = json.loads(str(told)).get("pid")
    leader = next((one for one in stack.schedulers if one.pid == pid), None)
    assert leader is not None, f"the lease is {holder}'s, and that is none of ours"
    leader.kill()
    stack.replace(leader)
    return f"SIGKILL to {leader}, which led"


_LEADER_KILLED = Fault(
    "leader killed",
    _kill_leader,
    allowed=LEASE + 1.0,
    because="the lease of the dead scheduler has to lapse, and the next one to see it",
)
_KNOWN = {
    fault.name: fault
    for fault in (*worker_faults.FAULTS, *postgres_faults.FAULTS, *redis_faults.FAULTS, _LEADER_KILLED)
}


def _every(seconds: float, names: Sequence[str]) -> tuple[tuple[float, Fault], ...]:
    return tuple((number * seconds, _KNOWN[name]) for number, name in enumerate(names, 1))


HOUR = Plan(
    name="an hour",
    length=3600,
    sampling=10,
    terms=Terms(warm_up=600, least=900),
    # What begins a new series, of a server or of all clients, comes early; one worker lives from the start to the end.
    faults=_every(
        300,
        (
            "worker killed in a batch",
            "Redis restarted, data lost",
            "PostgreSQL restarted",
            "Redis restarted, data kept",
            "connections terminated",
            "connections to Redis cut",
            "leader killed",
            "worker killed in a batch",
            "a due row locked",
            "connections terminated",
            "connections to Redis cut",
        ),
    ),
    archive_after=timedelta(minutes=5),
    # PostgreSQL's own default, where the chaos has 5 s.
    settings=("autovacuum_naptime = '1min'",),
)
#: What ended stays in these, and what is in these stays in their indexes.
_KEPT = (
    "conversations",
    "conversations_pkey",
    "conversation_events",
    "conversation_events_pkey",
    "conversation_events_conv_id_ended",
    "latest_conversations",
    "latest_conversations_pkey",
)
# Too short to archive anything.
SHORT = Plan(
    name="a minute",
    length=60,
    sampling=1,
    terms=Terms(
        warm_up=20,
        least=20,
        slack=100,
        growing=frozenset((name, figure) for name in _KEPT for figure in ("size", "rows", "bytes a row")),
    ),
    faults=_every(20, ("leader killed", "connections to Redis cut")),
)
