"""Whether any order of a key's operations, and of sweeps between them, explains the answers and the final state.

The search of Wing and Gong (Testing and verifying concurrent objects, 1993) in the form of Lowe's just-in-time
linearization (Testing for linearizability, 2017): time is walked from one return to the next, with every state that
the key may be in by then and the operations under way that have taken effect in it. An operation takes effect no sooner
than the next return needs it. When no state is left, the operation that returned is one that nothing explains.

Three things keep the states few, whatever the length of the history. What was answered by somebody who has not
returned yet is known here all the same, so a state that already makes it impossible is dropped. An operation under way
that its answer allows, and that can change nothing any more, takes effect at once. And an operation of unknown outcome
is tried only where its stamp says that it may have changed something, is remembered only while it might be tried again,
and not at all where the same state is reached without it.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

from tests.histories.model import Deed, Life, Model, Seen, State

#: States at one time before the search gives up. Eight clients of a key make a dozen.
MOST_STATES = 5_000


@dataclass(frozen=True, slots=True)
class Call:
    """An operation, with what its client's clock said, in seconds."""

    deed: Deed
    invoked: float
    #: None when its outcome is unknown: it takes effect at any time from ``invoked`` on, or never.
    returned: float | None


@dataclass(frozen=True, slots=True)
class Stuck:
    """What nothing explains."""

    #: The operation after whose return no state was left; None when it was the final state.
    call: Call | None
    #: Where the key may have stood before that.
    states: tuple[State, ...]


class TooManyStatesError(Exception):
    """There were more states than the search holds."""


class Clock:
    """How far the database's clock may have been at a time of the clients' clock.

    ``readings`` are pairs of the time from which somebody was about to read the clock and what it showed: whatever was
    over by then happened when it showed no more.
    """

    def __init__(self, readings: Sequence[tuple[float, int]]) -> None:
        ascending = sorted(readings)
        self._times = [time for time, _ in ascending]
        self._bounds = [bound for _, bound in ascending]
        for place in range(len(ascending) - 2, -1, -1):
            self._bounds[place] = min(self._bounds[place], self._bounds[place + 1])

    def latest(self, time: float) -> float:
        """Return what the clock showed at most, in microseconds since 1970, at ``time``."""
        place = bisect_left(self._times, time)
        return self._bounds[place] if place < len(self._bounds) else float("inf")


class _Configuration(NamedTuple):
    state: State
    #: The numbers of the operations under way that have taken effect.
    done: frozenset[int] = frozenset()
    #: The numbers of those of unknown outcome that have, as far as they might again.
    spent: frozenset[int] = frozenset()


class Search:
    """The search over one key."""

    def __init__(self, model: Model, calls: Sequence[Call], clock: Clock, *, most_states: int = MOST_STATES) -> None:
        self._model = model
        self._calls = calls
        self._clock = clock
        self._most_states = most_states
        #: Stamps of messages that set different idle deadlines.
        self._contested = _contested_stamps(call.deed for call in calls)
        #: Answered, invoked, not returned.
        self._under_way: dict[int, Deed] = {}
        #: Invoked and never answered: by stamp.
        self._unknown: defaultdict[int, list[Deed]] = defaultdict(list)
        self._stamps: list[int] = []
        self._stamp_of: dict[int, int] = {}
        self._chances = _Chances(model.lives)

    def run(self) -> Stuck | None:
        """Return what nothing explains, None when all is explained.

        Raises TooManyStatesError.
        """
        possible = {_Configuration(State())}
        for call, is_return in _in_time(self._calls):
            deed = call.deed
            if is_return and call.returned is not None:
                before = possible
                limit = self._clock.latest(call.returned)
                possible = {
                    after._replace(done=after.done - {deed.number}) for after in self._spread(before, limit, until=deed)
                }
                del self._under_way[deed.number]
                if not possible:
                    return Stuck(call, tuple({one.state for one in before}))
            elif call.returned is None:
                if not self._unknown[deed.now]:
                    self._stamps.insert(bisect_left(self._stamps, deed.now), deed.now)
                self._unknown[deed.now].append(deed)
                self._stamp_of[deed.number] = deed.now
            else:
                self._under_way[deed.number] = deed
        limit = self._clock.latest(float("inf"))
        if any(self._model.is_final(one.state) for one in self._spread(possible, limit, until=None)):
            return None
        return Stuck(None, tuple({one.state for one in possible}))

    def _spread(self, begin: set[_Configuration], limit: float, until: Deed | None) -> Iterator[_Configuration]:
        """Yield what can come of ``begin``; with ``until``, only that in which it has just taken effect."""
        known: defaultdict[tuple[State, frozenset[int]], list[frozenset[int]]] = defaultdict(list)
        numbers = count()
        # Those first that have spent least: whatever else reaches the same state has no more before it.
        agenda = [(len(one.spent), next(numbers), one) for one in begin]
        heapify(agenda)
        tried = 0
        while agenda:
            _, _, one = heappop(agenda)
            cheaper = known[one.state, one.done]
            if any(spent <= one.spent for spent in cheaper):
                continue
            cheaper.append(one.spent)
            tried += 1
            if tried > self._most_states:
                raise TooManyStatesError
            if until is None:
                yield one
            elif until.number in one.done:
                yield one
                continue
            for after in self._steps(one, limit):
                heappush(agenda, (len(after.spent), next(numbers), after))

    def _steps(self, one: _Configuration, limit: float) -> Iterator[_Configuration]:
        """Yield what one step makes of it."""
        for number, deed in self._under_way.items():
            if number not in one.done:
                yield from self._settled(self._model.take(one.state, deed), one.done | {number}, one.spent)
        yield from self._settled(self._model.sweep(one.state, limit), one.done, one.spent)
        for deed in self._helpful(one.state, one.spent):
            yield from self._settled(self._model.take(one.state, deed), one.done, one.spent | {deed.number})

    def _settled(self, state: State | None, done: frozenset[int], spent: frozenset[int]) -> Iterator[_Configuration]:
        """Yield ``state``, with what changes nothing in it done, unless an answer that is to come forbids it."""
        if state is None:
            return
        looked = []
        for number, deed in self._under_way.items():
            if number in done or deed.answer is None:
                continue
            if _is_past(deed.answer, state):
                return
            if self._can_only_look(deed, state) and self._model.take(state, deed) == state:
                looked.append(number)
        if spent:
            spent = frozenset(one for one in spent if self._chances.has(self._stamp_of[one], state))
        yield _Configuration(state, done.union(looked) if looked else done, spent)

    def _can_only_look(self, deed: Deed, state: State) -> bool:
        """Whether ``deed`` never changes the conversation of ``state``, if it changes nothing now.

        With the stamp of the last activity it may: set its idle deadline again, once another of that stamp changed it.
        """
        is_older = deed.now < state.updated_at or (deed.now == state.updated_at and deed.now not in self._contested)
        return deed.closes is not None or is_older

    def _helpful(self, state: State, spent: frozenset[int]) -> Iterator[Deed]:
        """Yield the operations of unknown outcome that can change ``state`` into one that leads to the final state.

        Of those that do the same, one.
        """
        if not self._stamps:
            return
        lives = self._model.lives
        stamps: set[int] = set()
        if state.place + 1 < len(lives):
            stamps.add(lives[state.place + 1].created_at)
        if state.active:
            life = lives[state.place]
            stamps.update(change.occurred_at for change in (life.begun, life.ended) if change is not None)
            if state.progress:
                last = min(life.updated_at, state.idle_at - 1, life.expires_at - 1)
                first = bisect_left(self._stamps, state.updated_at)
                stamps.update(self._stamps[first : bisect_right(self._stamps, last)])
        for stamp in stamps:
            unspent = (deed for deed in self._unknown.get(stamp, ()) if deed.number not in spent)
            yield from {(deed.closes, deed.idle_at, deed.expires_at): deed for deed in unspent}.values()


class _Chances:
    """Where an operation of unknown outcome may still change anything: what its stamp says of it."""

    def __init__(self, lives: Sequence[Life]) -> None:
        #: The last conversation that opened, began or ended with a stamp.
        self._last_place: dict[int, int] = {}
        for place, life in enumerate(lives):
            changes = (life.begun, life.ended)
            for stamp in (life.created_at, *(change.occurred_at for change in changes if change is not None)):
                self._last_place[stamp] = place
        #: The earliest stamp of an opening, among those from a place on.
        self._earliest = [float("inf")] * (len(lives) + 1)
        for place in range(len(lives) - 1, -1, -1):
            self._earliest[place] = min(self._earliest[place + 1], lives[place].created_at)

    def has(self, stamp: int, state: State) -> bool:
        """Whether what has ``stamp`` may change ``state`` or what comes after it."""
        if state.active and stamp >= state.updated_at:
            return True
        return self._last_place.get(stamp, -2) >= state.place or self._earliest[state.place + 1] <= stamp


def _is_past(answer: Seen, state: State) -> bool:
    """Whether nothing that comes after ``state`` can be answered so: instants and conversations only go forward."""
    if answer.ended_at is not None or answer.place > state.place:
        return False
    if answer.place < state.place or not state.active:
        return True
    return bool(answer.opened) or answer.updated_at < state.updated_at


def _contested_stamps(deeds: Iterable[Deed]) -> frozenset[int]:
    idle_at: dict[int, int] = {}
    messages = [deed for deed in deeds if deed.closes is None]
    return frozenset(deed.now for deed in messages if idle_at.setdefault(deed.now, deed.idle_at) != deed.idle_at)


def _in_time(calls: Sequence[Call]) -> list[tuple[Call, bool]]:
    """Return invocations (False) and returns (True) in their order; at the same time, nobody came before anybody."""
    moments = [(call.invoked, 0, call.deed.number, call) for call in calls]
    moments += [(call.returned, 1, call.deed.number, call) for call in calls if call.returned is not None]
    return [(call, bool(is_return)) for _, is_return, _, call in sorted(moments, key=lambda moment: moment[:3])]
