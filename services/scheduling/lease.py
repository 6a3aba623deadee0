"""The lease: the right to lead, which one scheduler holds at a time, under a term that grows with each holder.

redis-py's own Lock has no term, and its release and its extension know a token only: a message could not be fenced
with it. Duration and renewal are River's (15 s, renewed every 5 s); counting trust from the start of an attempt is
what Kubernetes' client-go does.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from redis import Redis

from services.scheduling import keys
from services.scheduling.clock import RedisClock
from services.scheduling.scripts import load_script


@dataclass(frozen=True, slots=True)
class Hold:
    """The lease in this process's hand."""

    term: int
    #: Until when nobody else can have it, on the monotonic clock, in seconds.
    trusted_until: float


@dataclass(frozen=True, slots=True)
class Rival:
    """Who holds the lease instead."""

    holder: str
    #: For how long still unless it is renewed, in seconds.
    remaining: float


class Lease:
    """One scheduler's hand on the lease in Redis.

    What it holds is trusted for ``timeout`` from the *start* of the attempt that got it: Redis counts from a later
    moment, so the trust ends first. The calls raise redis.RedisError when Redis does not answer; what they changed is
    then unknown, and none of them does harm when it is repeated.
    """

    def __init__(
        self, client: Redis, *, timeout: timedelta, clock: RedisClock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        #: One a process.
        self.holder = str(uuid.uuid4())
        self._timeout = timeout.total_seconds()
        self._clock = clock
        self._monotonic = monotonic
        self._highest_term = 0
        self._hold: Hold | None = None
        self._acquire = load_script(client, "acquire")
        self._renew = load_script(client, "renew")
        self._release = load_script(client, "release")

    @property
    def hold(self) -> Hold | None:
        """What is held and still trusted."""
        hold = self._hold
        return hold if hold is not None and self._monotonic() < hold.trusted_until else None

    @property
    def timeout_ms(self) -> int:
        """How long it lasts unless it is renewed, in milliseconds."""
        return int(self._timeout * 1000)

    def acquire(self, about: str) -> Rival | None:
        """Try to take it under a new term; return who has it instead, None when it is ours.

        ``about`` is what others are told of this scheduler, JSON.
        """
        asked_at = self._monotonic()
        won, seconds, microseconds, holder, term, remaining = self._acquire(
            keys=[keys.LEASE, keys.TERM, keys.MEMBERS, keys.SEEN],
            args=[self.holder, self.timeout_ms, self._highest_term, about],
        )
        self._clock.read(int(seconds), int(microseconds), asked_at=asked_at)
        self._highest_term = max(self._highest_term, int(term))
        if not won:
            self._hold = None
            return Rival(holder.decode(errors="replace"), int(remaining) / 1000)
        self._hold = Hold(int(term), asked_at + self._timeout)
        return None

    def renew(self, about: str) -> bool:
        """Hold it for longer; return whether it was still ours. If not, it is given up here as well."""
        hold = self.hold
        if hold is None:
            return False
        asked_at = self._monotonic()
        held, seconds, microseconds = self._renew(
            keys=[keys.LEASE, keys.MEMBERS, keys.SEEN], args=[self.holder, hold.term, self.timeout_ms, about]
        )
        self._clock.read(int(seconds), int(microseconds), asked_at=asked_at)
        self._hold = Hold(hold.term, asked_at + self._timeout) if held else None
        return bool(held)

    def give_up(self, term: int) -> None:
        """Trust ``term`` no more: Redis said that the lease carries another."""
        hold = self._hold
        if hold is not None and hold.term == term:
            self._hold = None

    def release(self) -> bool:
        """Give it back, at the end of this process, and wake those who stand by; return whether it was ours."""
        self._hold = None
        return bool(
            self._release(keys=[keys.LEASE, keys.MEMBERS, keys.SEEN], args=[self.holder, keys.WAKE]),
        )


def forget_schedulers(client: Redis) -> None:
    """Take the lease from whoever had it: only for where no scheduler can be alive, or one would lose its term."""
    client.delete(keys.LEASE, keys.MEMBERS, keys.SEEN)
