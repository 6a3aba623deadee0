"""What a run leaves behind: everything that was seen in Redis, and what was done to it. The verdict reads nothing else.

All instants are seconds since the epoch, by the clock of the one machine that Redis and the harness run on.
"""

from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What is done to the schedulers."""

    LEADER_KILLED = "leader killed"
    LEADER_PAUSED = "leader paused past its lease"
    LEADER_TERMINATED = "leader terminated"
    REDIS_RESTARTED = "Redis restarted, data kept"
    REDIS_EMPTIED = "Redis restarted, data lost"
    REPLY_DROPPED = "reply dropped, connection closed"
    REPLY_SWALLOWED = "reply swallowed, then silence"
    REQUEST_SWALLOWED = "request swallowed"
    RENEWALS_LOST = "renewals lost past the lease"
    CONNECTIONS_CUT = "connections cut"
    ALL_KILLED = "all killed, started at once"
    CLOCKS_APART = "two clocks apart"


@dataclass(frozen=True, slots=True)
class Push:
    """A message on dramatiq's list."""

    actor: str
    #: The slot that it is for.
    slot: int
    #: dramatiq's ``redis_message_id``: two of them for a slot are two runs.
    message_id: str
    seen_at: float
    caught_up: bool
    #: How often Redis had lost its data by then.
    generation: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A change of the mark of a task, and what was the newest message of the task in the same instant."""

    actor: str
    slot: int
    message_id: str
    term: int
    newest_message_id: str
    newest_slot: int
    #: When, by Redis itself.
    enqueued_at: float
    seen_at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Reign:
    """A lease that somebody got."""

    holder: str
    term: int
    #: When, by Redis itself.
    since: float
    seen_at: float
    generation: int


@dataclass(frozen=True, slots=True)
class Absence:
    """A stretch in which no lease was there to be seen: there was none, or no Redis."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Outage:
    """What a fault may cost: the slots due from ``start`` to ``deadline``, apart from the latest that was missed."""

    start: float
    deadline: float
    #: Somebody must get a new lease in it.
    new_leader: bool
    #: The same leader may be the one who is late, and then makes up for it.
    same_leader: bool
    #: Messages may have been under way all that time.
    delayed: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """From one fault to the next."""

    number: int
    kind: Kind
    #: What was drawn, for people.
    what: str
    start: float
    end: float
    outages: tuple[Outage, ...]


@dataclass(slots=True)
class Record:
    """A whole run."""

    actors: tuple[str, ...]
    pushes: list[Push] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    #: What the harness noticed on its way: a process that ended by itself, a state never reached.
    incidents: list[str] = field(default_factory=list)
