"""Which conversation a client turns to next: a few keys that all are at, some that go idle and come back, new ones.

And some to which it comes back just before they fall due, with a transaction that is still open when they do.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tests.histories.record import Kind

#: Keys that all clients are at, again and again, so that they never go idle.
_HOT = 5
#: Keys that are left alone for about as long as the idle timeout.
_WARM = 70
#: How many of those that were met last may be met again.
_REMEMBERED = 400
#: After so many seconds hot and warm keys are others: the history of one key has an end.
_GENERATION = 30.0
#: Of so many transactions one does other work as well, of so many seconds at most.
_LEISURELY, _OTHER_WORK = 8, 0.4
#: How long before its idle deadline a client comes back to a conversation on the brink, at most, in seconds: that long
#: it keeps its transaction open, at most.
_BRINK = 0.5
#: How often each of the kinds is done where all are possible.
_KINDS = {Kind.MESSAGE: 55, Kind.ACTIVITY: 20, Kind.ACTIVITY_BY_ID: 15, Kind.CLOSE: 10}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a client does next."""

    kind: Kind
    key: str
    conv_id: str | None = None
    #: What else its transaction does, in seconds: after the call, or before it where negative.
    other_work: float = 0.0


class Keys:
    """Chooses for one client. ``known`` maps session keys to the conversation that was last heard of on each."""

    def __init__(
        self,
        client: int,
        known: dict[str, str],
        rng: random.Random,
        *,
        idle_timeout: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._known = known
        self._rng = rng
        self._idle_timeout = idle_timeout
        self._monotonic = monotonic
        self._started = monotonic()
        self._new = 0
        self._met: deque[str] = deque(maxlen=_REMEMBERED)
        #: When to come back to whom.
        self._brinks: list[tuple[float, str]] = []

    def choose(self) -> Choice:
        """Return what to do, and to what."""
        now = self._monotonic()
        if self._brinks and self._brinks[0][0] <= now:
            _, key = heapq.heappop(self._brinks)
            return self._choose_kind(key, self._rng.uniform(0, _BRINK))
        key = self._choose_key(now)
        self._met.append(key)
        leisurely = not self._rng.randrange(_LEISURELY)
        return self._choose_kind(key, self._rng.uniform(-_OTHER_WORK, _OTHER_WORK) if leisurely else 0.0)

    def _choose_kind(self, key: str, other_work: float) -> Choice:
        conv_id = self._known.get(key)
        if conv_id is None:
            return Choice(Kind.MESSAGE, key, other_work=other_work)
        (kind,) = self._rng.choices(list(_KINDS), weights=list(_KINDS.values()))
        named = conv_id if kind in {Kind.ACTIVITY_BY_ID, Kind.CLOSE} else None
        return Choice(kind, key, named, other_work=other_work)

    def _choose_key(self, now: float) -> str:
        generation = int((now - self._started) / _GENERATION)
        drawn = self._rng.random()
        if drawn < 0.35:
            return f"hot:{generation}:{self._rng.randrange(_HOT)}"
        if drawn < 0.65:
            return f"warm:{generation}:{self._rng.randrange(_WARM)}"
        if drawn < 0.7 and self._met:
            # Long after its end, perhaps.
            return self._rng.choice(self._met)
        self._new += 1
        if drawn < 0.85:
            return f"cold:{self._client}:{self._new}"
        key = f"brink:{self._client}:{self._new}"
        heapq.heappush(self._brinks, (now + self._idle_timeout - self._rng.uniform(0, _BRINK), key))
        return key
