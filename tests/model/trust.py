"""Who believes to lead, and for how long: the lease with time in it, and without slots.

Time passes in ticks, for Redis and the schedulers alike. A request is executed at any time after it was sent, and its
reply arrives at any time after that. The scripts are those of the model without time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from tests.model.schedulers import Redis, Request, Rules, execute, name
from tests.model.search import Step


class Trust(Enum):
    """From when on a lease is trusted."""

    FROM_ASKING = "since it was asked for"
    FROM_REPLY = "since the reply"


class Attempt(NamedTuple):
    """An acquire or a renewal that a scheduler waits for."""

    #: Ticks since it began.
    age: int = 0
    #: What Redis has said, which has not arrived yet,
    says: str = ""
    #: under which term.
    term: int = 0


class Scheduler(NamedTuple):
    """One process."""

    name: int
    term: int = 0
    #: For how many ticks it trusts its lease still.
    trust: int = 0
    attempt: Attempt | None = None


class Sent(NamedTuple):
    """A request in flight."""

    request: Request
    #: Whether its sender waits for it.
    is_awaited: bool


class State(NamedTuple):
    """All there is at one moment."""

    redis: Redis = Redis()
    #: For how many ticks the lease lasts still.
    remaining: int = 0
    schedulers: tuple[Scheduler, ...] = (Scheduler(1), Scheduler(2))
    sent: tuple[Sent, ...] = ()
    names: int = 2


@dataclass(frozen=True)
class TrustingSchedulers:
    """Two schedulers that campaign, renew and resign: a model to search."""

    rules: Rules = field(default_factory=Rules)
    trust: Trust = Trust.FROM_ASKING
    #: In ticks.
    lease: int = 3
    #: For how long a lease is trusted, in ticks.
    trusted: int = 3
    in_flight: int = 2

    def start(self) -> State:
        """Return two schedulers that have just started."""
        return State()

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Return all that may happen next, and whether a scheduler is wrong then."""
        for words, then in self._steps(state):
            trusting = [one.name for one in then.schedulers if one.trust]
            broken = "two schedulers trust that they lead" if len(trusting) > 1 else ""
            if trusting and then.redis.holder not in trusting:
                broken = broken or "a scheduler trusts a lease that it does not hold"
            yield Step(words, then, broken)

    def _steps(self, state: State) -> Iterator[tuple[tuple[str | int, ...], State]]:
        yield ("time passes",), _later(state, self.lease)
        for index, one in enumerate(state.schedulers):
            yield from self._scheduler(state, index, one)
        for sent in dict.fromkeys(state.sent):
            yield from self._network(state, sent)

    def _scheduler(self, state: State, index: int, one: Scheduler) -> Iterator[tuple[tuple[str | int, ...], State]]:
        who, successor = name(one.name), Scheduler(state.names + 1)
        forgotten = state._replace(
            sent=tuple(
                sent._replace(is_awaited=sent.is_awaited and sent.request.holder != one.name) for sent in state.sent
            )
        )
        gone = _with(forgotten, index, successor)._replace(names=successor.name)
        yield ("{} dies; {} is started", who, name(successor.name)), gone
        may_send = len(state.sent) < self.in_flight
        if may_send:
            then = gone._replace(sent=(*gone.sent, Sent(Request("release", one.name), is_awaited=False)))
            yield ("{} gives its lease back and ends; {} is started", who, name(successor.name)), then
        if one.attempt:
            yield ("{} waits no longer", who), _with(forgotten, index, one._replace(attempt=None))
            if one.attempt.says:
                yield ("{} is told {}", who, one.attempt.says), _with(state, index, self._told(one, one.attempt))
        elif may_send:
            request = Request("renew" if one.trust else "acquire", one.name, one.term if one.trust else 0)
            then = _with(state, index, one._replace(attempt=Attempt()))
            then = then._replace(sent=(*then.sent, Sent(request, is_awaited=True)))
            yield ("{} asks to {}", who, request.kind), then

    def _told(self, one: Scheduler, attempt: Attempt) -> Scheduler:
        trust = self.trusted - (attempt.age if self.trust is Trust.FROM_ASKING else 0)
        if attempt.says in {"refused", "lost"} or trust <= 0:
            return Scheduler(one.name)
        return Scheduler(one.name, attempt.term, trust)

    def _network(self, state: State, sent: Sent) -> Iterator[tuple[tuple[str | int, ...], State]]:
        rest = list(state.sent)
        rest.remove(sent)
        state = state._replace(sent=tuple(rest))
        request = sent.request
        yield ("{}'s {} is lost", name(request.holder), request.kind), state
        answer = execute(state.redis, request, now=0, rules=self.rules)
        redis = answer.redis
        remaining = self.lease if answer.says in {"granted", "held"} else state.remaining
        then = state._replace(redis=redis, remaining=remaining if redis.holder else 0)
        if sent.is_awaited:
            term = redis.term if answer.says == "granted" else request.term
            then = then._replace(
                schedulers=tuple(
                    one._replace(attempt=one.attempt._replace(says=answer.says, term=term))
                    if one.name == request.holder and one.attempt
                    else one
                    for one in then.schedulers
                )
            )
        yield ("{}'s {}: {}", name(request.holder), request.kind, answer.says), then

    def hopeless(self, state: State) -> str:
        """Return nothing: this model is about who trusts, not about what gets done."""
        del state
        return ""

    def canonical(self, state: State) -> State:
        """Return ``state`` with names and terms numbered anew: the last term is 2, all that were replaced are 1."""
        one, two = sorted(state.schedulers, key=lambda one: _order(one, state))
        redis = state.redis
        names = {0: 0}
        ordered = sorted(state.sent, key=lambda sent: (sent.request.kind, sent.request.term, sent.is_awaited))
        for number in (one.name, two.name, redis.holder, *[sent.request.holder for sent in ordered]):
            names.setdefault(number, len(names))

        def ranked(term: int) -> int:
            return (1 if term < redis.last_term else 2) if term else 0

        def anew(one: Scheduler) -> Scheduler:
            attempt = one.attempt and one.attempt._replace(term=ranked(one.attempt.term))
            return Scheduler(names[one.name], ranked(one.term), one.trust, attempt)

        return State(
            redis=Redis(names[redis.holder], ranked(redis.term), ranked(redis.last_term)),
            remaining=state.remaining,
            schedulers=(anew(one), anew(two)),
            sent=tuple(
                sorted(
                    Sent(
                        Request(sent.request.kind, names[sent.request.holder], ranked(sent.request.term)),
                        sent.is_awaited,
                    )
                    for sent in state.sent
                )
            ),
            names=len(names) - 1,
        )


def _with(state: State, index: int, one: Scheduler) -> State:
    schedulers = (one, state.schedulers[1]) if index == 0 else (state.schedulers[0], one)
    return state._replace(schedulers=schedulers)


def _later(state: State, lease: int) -> State:
    """Return ``state`` a tick later."""

    def older(one: Scheduler) -> Scheduler:
        attempt = one.attempt and one.attempt._replace(age=min(one.attempt.age + 1, lease))
        trust = max(one.trust - 1, 0)
        return Scheduler(one.name, one.term if trust else 0, trust, attempt)

    remaining = max(state.remaining - 1, 0)
    redis = state.redis if remaining else state.redis._replace(holder=0, term=0)
    return state._replace(redis=redis, remaining=remaining, schedulers=tuple(map(older, state.schedulers)))


def _order(one: Scheduler, state: State) -> tuple[object, ...]:
    """Return by what two schedulers are told apart, other than their names."""
    sent = sorted((sent.request.kind, sent.request.term) for sent in state.sent if sent.request.holder == one.name)
    return one.term, one.trust, one.attempt or (), one.name == state.redis.holder, sent
