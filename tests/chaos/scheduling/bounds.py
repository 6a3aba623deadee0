"""How long each kind of fault may cost slots, and why.

A bound is an instant, computed from when the fault was injected and from when its cause was taken away. Until then
slots may be missing; of those that are, the latest must be made up for. Nothing may be missing after it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.scheduling.records import Kind, Outage

#: The settings of the schedulers under test, in seconds.
INTERVAL = 1
LEASE = 3.0
RENEW = 1.0
#: How long a scheduler waits for an answer of Redis before it gives the attempt up.
ANSWER = 1.0
#: "A crash costs at most the lease, plus one second"; "a standby leads within one second".
PROMISED = 1.0
#: What a busy machine and the ledger's own pause may add to an instant.
SLACK = 0.25


@dataclass(frozen=True, slots=True)
class Bound:
    """The rule of a kind. See ``Outage`` for the flags."""

    deadline: Callable[[float, float], float]
    new_leader: bool = False
    same_leader: bool = False
    delayed: bool = False

    def outage(self, injected: float, lifted: float) -> Outage:
        """Return what the fault may cost."""
        return Outage(
            start=injected,
            deadline=self.deadline(injected, lifted),
            new_leader=self.new_leader,
            same_leader=self.same_leader,
            delayed=self.delayed,
        )


BOUNDS = {
    Kind.LEADER_KILLED: Bound(
        lambda injected, _: injected + LEASE + PROMISED,
        # The lease of the dead has to lapse.
        new_leader=True,
    ),
    Kind.LEADER_PAUSED: Bound(
        lambda injected, _: injected + LEASE + PROMISED,
        # As after a death; that it wakes up again must cost nothing.
        new_leader=True,
    ),
    Kind.LEADER_TERMINATED: Bound(
        lambda injected, _: injected + PROMISED,
        # It gives the lease back and wakes the others.
        new_leader=True,
    ),
    Kind.REDIS_RESTARTED: Bound(
        lambda _, lifted: lifted + RENEW + PROMISED,
        # Nothing can be enqueued without Redis; once it answers, everyone tries again at least every renew interval.
        same_leader=True,
    ),
    Kind.REDIS_EMPTIED: Bound(
        lambda _, lifted: lifted + RENEW + PROMISED,
        # As with its data; besides, the slot before may be enqueued again, for Redis forgot that it was.
        same_leader=True,
    ),
    Kind.REPLY_DROPPED: Bound(
        lambda injected, _: injected,
        # The command was carried out, and the closed connection says at once that it has to be repeated.
    ),
    Kind.REPLY_SWALLOWED: Bound(
        lambda _, lifted: lifted + ANSWER + RENEW,
        # Each silence costs the wait for an answer, and a leader unsure of its lease has to campaign again.
        same_leader=True,
        delayed=True,
    ),
    Kind.REQUEST_SWALLOWED: Bound(
        lambda _, lifted: lifted + ANSWER + RENEW,
        # As above; a lease that was not renewed may besides go to another.
        same_leader=True,
        delayed=True,
    ),
    Kind.RENEWALS_LOST: Bound(
        lambda injected, _: injected + LEASE + PROMISED,
        # As after a death, though the old leader is alive and its other requests get through.
        new_leader=True,
    ),
    Kind.ALL_KILLED: Bound(
        lambda injected, lifted: max(injected + LEASE, lifted) + PROMISED,
        # The first of the new ones has to be up, and the lease of the dead has to lapse.
        new_leader=True,
    ),
    Kind.CLOCKS_APART: Bound(
        lambda injected, _: injected + PROMISED,
        # What is done to the leaders is SIGTERM; what their clocks say must not matter.
        new_leader=True,
    ),
}

#: Connections are cut in several ways.
CUT_ONCE = Bound(
    lambda injected, _: injected,
    # A closed connection is opened again, and what was under way is repeated.
)
CUT_FROM_LEADER = Bound(
    lambda injected, lifted: min(lifted + ANSWER + RENEW, injected + LEASE) + PROMISED,
    # Either the leader is back before its lease lapses, or another leads.
    same_leader=True,
    delayed=True,
)
CUT_FROM_ALL = Bound(
    lambda _, lifted: lifted + ANSWER + RENEW,
    # An attempt that hangs is given up after the wait for an answer, and then made again.
    same_leader=True,
    delayed=True,
)
