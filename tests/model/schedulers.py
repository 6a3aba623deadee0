"""The protocol of the schedulers as a model to search: two of them, one Redis, and a network that loses and delays.

It shares nothing with the services: it says what they should do, in as few words as will do. What stands for what:

- A *request* that was sent is executed now, later or never: also after its sender has given up, died or been replaced.
  Its reply arrives or is lost. Requests overtake each other. A reply that arrives late is one that arrives at once at
  a process that pauses afterwards.
- Time is left out. The lease may end at any moment, even while its holder renews it and trusts it: what is never done
  twice must not depend on any clock. Slots fall due one after the other, at any moment.
- A process may die at any moment. One that starts in its place has a new name, and may wait for ever before it does
  anything, so "restarted at once" stands for "dead" too.
- Each has two hands, as the real one has two threads: one enqueues a slot, the other deals with the lease. That the
  other one enqueues as well is covered: an enqueue that was given up is still in flight beside the next.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from tests.model.search import Step

#: By how many slots the clock may be put back without anything being enqueued again for it.
PUT_BACK = 0


class Check(IntEnum):
    """What of the lease a script compares before it acts."""

    NOTHING = 0
    HOLDER = 1
    HOLDER_AND_TERM = 2


class Claim(Enum):
    """When a slot is marked as claimed."""

    WITH_PUSH = "in one step with the push"
    BEFORE_PUSH = "in a step before the push"
    AFTER_PUSH = "in a step after the push"


@dataclass(frozen=True)
class Rules:
    """The protocol, rule by rule, so that each can be left out to see what it is good for."""

    enqueue_checks: Check = Check.HOLDER_AND_TERM
    claim: Claim = Claim.WITH_PUSH
    #: A slot at or before the mark is not pushed.
    heeds_mark: bool = True
    #: How far ahead of the clock a mark may lie and still count.
    mark_ahead: float = PUT_BACK
    #: How far ahead of the clock a slot may be enqueued.
    slot_ahead: int = 0
    #: A repeated enqueue bears the same message id,
    repeats_message_id: bool = True
    #: by which it is known, and answered as the first time:
    knows_repeats: bool = True
    #: whoever leads by now.
    looks_for_repeats_first: bool = True
    acquire_heeds_holder: bool = True
    acquire_answers_own_holder: bool = True
    terms_grow: bool = True
    renew_checks: Check = Check.HOLDER_AND_TERM
    #: Renewing writes holder and term again instead of letting what is there last longer.
    renew_writes: bool = False
    #: What a process that ends compares to give the lease back,
    release_checks: Check = Check.HOLDER
    #: and whether it does so even if it does not know that it holds it.
    releases_unasked: bool = True


class Redis(NamedTuple):
    """What is kept in Redis: of one task, since all do alike."""

    #: Who holds the lease; 0: nobody.
    holder: int = 0
    term: int = 0
    last_term: int = 0
    #: The last slot that was claimed; 0: none,
    mark: int = 0
    #: for which message,
    message: int = 0
    version: int = 0
    #: with which outcome.
    outcome: str = ""
    is_paused: bool = False
    #: The last slot that was pushed, or passed over in a pause. Nobody reads it: it is there to judge by.
    done: int = 0


class Request(NamedTuple):
    """A command on its way to Redis."""

    kind: str
    holder: int
    #: For an acquire: the highest term that the sender has seen.
    term: int = 0
    slot: int = 0
    message: int = 0
    #: 1 for a repeat that is not to be known by its message id.
    version: int = 0


class Answer(NamedTuple):
    """What a request has done."""

    redis: Redis
    #: "granted", "refused", "held", "lost", "released"; or the outcome of an enqueue.
    says: str
    broken: str = ""


class Scheduler(NamedTuple):
    """One process: what it knows, and what it waits for."""

    #: Its UUID, as it were: no two ever have the same.
    name: int
    #: Under which it believes to lead; 0: it stands by.
    term: int = 0
    #: The highest that it has seen.
    highest_term: int = 0
    #: The enqueue that has had no reply yet,
    waits_for: Request | None = None
    #: and whether, unknown to it, that has pushed its message.
    has_pushed: bool = False


class State(NamedTuple):
    """All there is at one moment."""

    redis: Redis = Redis()
    #: What Redis would know after a restart.
    saved: Redis = Redis()
    #: The last slot that fell due.
    clock: int = 0
    schedulers: tuple[Scheduler, ...] = (Scheduler(1), Scheduler(2))
    #: Those in flight.
    requests: tuple[Request, ...] = ()
    #: The highest term that was ever given.
    given: int = 0
    #: How many names and message ids were ever given.
    names: int = 2
    messages: int = 0
    #: How often Redis was restarted.
    restarts: int = 0


def execute(redis: Redis, request: Request, *, now: float, rules: Rules) -> Answer:
    """Execute ``request`` as Redis should, in one step; ``now`` is in the units of slots."""
    return _SCRIPTS[request.kind](redis, request, now, rules)


def _acquire(redis: Redis, request: Request, now: float, rules: Rules) -> Answer:
    del now
    is_own = redis.holder == request.holder
    if redis.holder and (not rules.acquire_answers_own_holder if is_own else rules.acquire_heeds_holder):
        return Answer(redis, "refused")
    broken = "" if is_own or not redis.holder else "a scheduler takes the lease that another holds"
    term = max(redis.last_term, request.term) + 1 if rules.terms_grow else 1
    return Answer(redis._replace(holder=request.holder, term=term, last_term=term), "granted", broken)


def _renew(redis: Redis, request: Request, now: float, rules: Rules) -> Answer:
    del now
    if not _leads(redis, request, rules.renew_checks):
        return Answer(redis, "lost")
    if rules.renew_writes:
        broken = "" if redis.holder in {0, request.holder} else "a scheduler takes the lease that another holds"
        return Answer(redis._replace(holder=request.holder, term=request.term), "held", broken)
    return Answer(redis, "held")


def _release(redis: Redis, request: Request, now: float, rules: Rules) -> Answer:
    del now
    if not _leads(redis, request, rules.release_checks if request.term else min(rules.release_checks, Check.HOLDER)):
        return Answer(redis, "lost")
    broken = "" if redis.holder in {0, request.holder} else "a scheduler gives back the lease that another holds"
    return Answer(redis._replace(holder=0, term=0), "released", broken)


def _enqueue(redis: Redis, request: Request, now: float, rules: Rules) -> Answer:  # noqa: PLR0911 - as the script
    is_repeat = (redis.message, redis.version) == (request.message, request.version)
    if rules.knows_repeats and rules.looks_for_repeats_first and is_repeat:
        return Answer(redis, redis.outcome)
    if not _leads(redis, request, rules.enqueue_checks):
        return Answer(redis, "not_leader")
    if rules.knows_repeats and is_repeat:
        return Answer(redis, redis.outcome)
    if rules.heeds_mark and request.slot <= redis.mark <= now + rules.mark_ahead:
        return Answer(redis, "duplicate")
    if request.slot > now + rules.slot_ahead:
        return Answer(redis, "early")
    if redis.is_paused:
        return Answer(_claim(redis, request, "paused")._replace(done=request.slot), "paused")
    if rules.claim is Claim.BEFORE_PUSH:
        return Answer(_claim(redis, request, "enqueued"), "half done")
    pushed, says, broken = _push(redis, request, now)
    if rules.claim is Claim.AFTER_PUSH:
        return Answer(pushed, "half done", broken)
    return Answer(_claim(pushed, request, "enqueued"), says, broken)


def _second_half(redis: Redis, request: Request, now: float, rules: Rules) -> Answer:
    if rules.claim is Claim.BEFORE_PUSH:
        return _push(redis, request, now)
    return Answer(_claim(redis, request, "enqueued"), "enqueued")


def _claim(redis: Redis, request: Request, outcome: str) -> Redis:
    return redis._replace(mark=request.slot, message=request.message, version=request.version, outcome=outcome)


def _push(redis: Redis, request: Request, now: float) -> Answer:
    """Push the message, and judge whether that is right."""
    broken = ""
    if request.slot <= redis.done <= now + PUT_BACK:
        broken = f"slot {request.slot} is pushed after slot {redis.done}"
    elif redis.holder != request.holder:
        broken = "a scheduler pushes and does not hold the lease"
    elif not redis.term == redis.last_term == request.term:
        broken = "a scheduler pushes under a term that was replaced"
    return Answer(redis._replace(done=request.slot), "enqueued", broken)


_SCRIPTS: dict[str, Callable[[Redis, Request, float, Rules], Answer]] = {
    "acquire": _acquire,
    "renew": _renew,
    "release": _release,
    "enqueue": _enqueue,
    "second half": _second_half,
}


def _leads(redis: Redis, request: Request, check: Check) -> bool:
    if check is Check.NOTHING:
        return True
    return redis.holder == request.holder and (check is Check.HOLDER or redis.term == request.term)


def name(number: int) -> str:
    """Return a name for the reader."""
    return chr(ord("A") + number - 1)


@dataclass(frozen=True)
class Schedulers:
    """Two schedulers and what may happen to them: a model to search."""

    rules: Rules = Rules()
    #: How many slots fall due.
    slots: int = 2
    #: How many requests may be in flight.
    in_flight: int = 2
    #: By how many slots each is ahead, or behind.
    skews: tuple[int, int] = (0, 0)
    #: Whether the task may be paused.
    pauses: bool = False
    #: How often Redis may be restarted without what it was told last,
    restarts: int = 0
    #: and whether it knows anything then.
    saves: bool = True
    #: Whether the clock may be put back.
    clock_goes_back: bool = False
    #: Whether what makes no difference is left out, which spares most states. See ``canonical``.
    is_reduced: bool = True

    def start(self) -> State:
        """Return two schedulers that have just started, and an empty Redis."""
        return State()

    def steps(self, state: State) -> Iterator[Step[State]]:
        """Return all that may happen next."""
        yield from self._surroundings(state)
        for index in range(len(state.schedulers)):
            yield from self._scheduler(state, index)
        for request in dict.fromkeys(state.requests):
            yield from self._network(state, request)

    def _surroundings(self, state: State) -> Iterator[Step[State]]:
        redis = state.redis
        if redis.holder:
            yield Step(("the lease of {} ends", name(redis.holder)), state._replace(redis=_without_lease(redis)))
        if state.clock < self.slots:
            yield Step(("slot {} falls due", state.clock + 1), state._replace(clock=state.clock + 1))
        if self.pauses:
            turned = redis._replace(is_paused=not redis.is_paused)
            yield Step(("the task is {}", "resumed" if redis.is_paused else "paused"), state._replace(redis=turned))
        if state.restarts < self.restarts:
            if self.saves and state.saved == Redis() != redis:
                yield Step(("Redis saves its data",), state._replace(saved=redis))
            then = state._replace(redis=state.saved, saved=Redis(), restarts=state.restarts + 1)
            yield Step(("Redis is restarted with what it saved",), then)
        if self.clock_goes_back:
            for clock in range(state.clock):
                yield Step(("the clock is put back to slot {}", clock), state._replace(clock=clock))

    def _scheduler(self, state: State, index: int) -> Iterator[Step[State]]:
        one = state.schedulers[index]
        who = name(one.name)
        may_send = len(state.requests) < self.in_flight
        fresh = state._replace(names=state.names + 1)
        successor = Scheduler(state.names + 1)
        yield Step(("{} dies; {} is started", who, name(successor.name)), _with(fresh, index, successor))
        yield from self._resign(state, index, _with(fresh, index, successor))
        if one.term:
            yield Step(("{} trusts its lease no more", who), _with(state, index, one._replace(term=0)))
        if one.waits_for:
            given_up = one._replace(waits_for=None, has_pushed=False)
            yield Step(("{} gives up its enqueue", who), _with(state, index, given_up))
        if not may_send:
            return
        if one.term and (self.rules.renew_writes or not self.is_reduced):
            yield Step(("{} asks to renew", who), _sent(state, Request("renew", one.name, one.term)))
        if not one.term:
            yield Step(("{} asks for the lease", who), _sent(state, self._asking(one)))
        if one.waits_for:
            again = one.waits_for._replace(version=0 if self.rules.repeats_message_id else 1)
            then = _sent(_with(state, index, one._replace(waits_for=again)), again)
            yield Step(("{} repeats its enqueue of slot {}", who, again.slot), then)
        elif one.term:
            for slot in {state.clock, state.clock + self.skews[index]}:
                if 1 <= slot <= self.slots:
                    request = Request("enqueue", one.name, one.term, slot, state.messages + 1)
                    then = _with(state, index, one._replace(waits_for=request))
                    then = _sent(then._replace(messages=request.message), request)
                    yield Step(("{} asks to enqueue slot {} (message {})", who, slot, request.message), then)

    def _asking(self, one: Scheduler) -> Request:
        return Request("acquire", one.name, one.highest_term if self.restarts else 0)  # else Redis knows better

    def _resign(self, state: State, index: int, gone: State) -> Iterator[Step[State]]:
        one = state.schedulers[index]
        who, successor = name(one.name), name(state.names + 1)
        if not one.term and not self.rules.releases_unasked:
            broken = "a scheduler has ended in order, and its lease stays" if state.redis.holder == one.name else ""
            yield Step(("{} ends; {} is started", who, successor), gone, broken)
        elif len(state.requests) < self.in_flight:
            then = _sent(gone, Request("release", one.name, one.term))
            yield Step(("{} gives its lease back and ends; {} is started", who, successor), then)

    def _network(self, state: State, request: Request) -> Iterator[Step[State]]:
        """Return what may become of a request: executed, with or without a reply, or lost."""
        rest = list(state.requests)
        rest.remove(request)
        state = state._replace(requests=tuple(rest))
        what = (name(request.holder), request.kind) + ((request.slot,) if request.slot else ())
        words = "{}'s {}" + " of slot {}" * bool(request.slot)
        yield Step((f"{words} is lost", *what), state)  # of a second half: its sender has died in between

        answer = execute(state.redis, request, now=state.clock, rules=self.rules)
        then, broken = self._executed(state, request, answer)
        yield Step((f"{words}: {answer.says}; the reply is lost", *what), then, broken)
        for index, one in enumerate(then.schedulers):
            if one.name == request.holder and answer.says != "half done":
                told, wrongly = _tell(one, request, answer)
                if told != one or wrongly:
                    yield Step((f"{words}: {answer.says}", *what), _with(then, index, told), wrongly)

    def _executed(self, state: State, request: Request, answer: Answer) -> tuple[State, str]:
        redis, says, broken = answer
        then = state._replace(redis=redis)
        if says == "granted":
            if redis.term <= state.given and not self.restarts:
                broken = "a term is given twice"
            then = then._replace(given=max(state.given, redis.term))
        elif request.kind == "release" and redis.holder == request.holder:
            if not any(other.kind == "acquire" and other.holder == request.holder for other in state.requests):
                broken = "a scheduler has ended in order, and its lease stays"
        elif says == "half done":
            then = _sent(then, request._replace(kind="second half"))
        if redis.done != state.redis.done and not redis.is_paused:
            then = then._replace(schedulers=tuple(_noting(one, request) for one in then.schedulers))
        return then, broken

    def hopeless(self, state: State) -> str:
        """Return whether either scheduler could not enqueue the latest slot, alone and without any further fault.

        That is asked when nothing is in flight: what is, is executed or lost sooner or later, and either leads to a
        state that is asked about. The other scheduler is dead, or paused.
        """
        if not state.requests:
            for one in state.schedulers:
                if not self._succeeds(state, one):
                    return f"one scheduler alone never enqueues slot {state.clock}"
        return ""

    def _succeeds(self, state: State, one: Scheduler) -> bool:
        redis, now = state.redis, state.clock
        message = state.messages
        for _ in range(8):
            if not now or now <= redis.done <= now + PUT_BACK:
                return True
            if not one.term:
                request = self._asking(one)
            elif one.waits_for:
                request = one.waits_for
            else:
                message += 1
                request = Request("enqueue", one.name, one.term, now, message)
            answer = execute(redis, request, now=now, rules=self.rules)
            if answer.says == "half done":
                answer = execute(answer.redis, request._replace(kind="second half"), now=now, rules=self.rules)
            redis = answer.redis
            if answer.says == "refused" and redis.holder != one.name:
                redis = _without_lease(redis)  # which nobody renews
            one, _ = _tell(one, request, answer)
        return False

    def canonical(self, state: State) -> State:
        """Return ``state`` with names, terms and messages numbered anew, and without what makes no difference."""
        one, two = self._in_order(state)
        redis, saved = state.redis, state.saved
        waiting = [request for request in (one.waits_for, two.waits_for) if request]
        names, messages = {0: 0}, {0: 0}
        for number in (one.name, two.name, redis.holder, saved.holder):
            names.setdefault(number, len(names))
        for request in waiting:
            messages.setdefault(request.message, len(messages))

        def order(request: Request) -> tuple[object, ...]:
            kind, holder, term, slot, message, version = request
            is_known = message != redis.message, message != saved.message
            return kind, names.get(holder, 9), term, slot, messages.get(message, 9), version, is_known

        requests = [request for request in state.requests if not self.is_reduced or self._matters(request, state)]
        requests.sort(key=order)
        for request in requests:
            names.setdefault(request.holder, len(names))
            messages.setdefault(request.message, len(messages))
        terms = self._terms(state)

        def anew(request: Request) -> Request:
            kind, holder, term, slot, message, version = request
            return Request(kind, names[holder], terms[term], slot, messages[message], version)

        def kept(redis: Redis) -> Redis:
            message = messages.get(redis.message, -1 if redis.message else 0)
            holder, term, last_term = names[redis.holder], terms[redis.term], terms[redis.last_term]
            return Redis(holder, term, last_term, redis.mark, message, *redis[5:])

        def known(one: Scheduler) -> Scheduler:
            number, term, highest_term, waits_for, has_pushed = one
            highest_term = terms[highest_term] if self.restarts else 0
            return Scheduler(names[number], terms[term], highest_term, waits_for and anew(waits_for), has_pushed)

        return State(
            redis=kept(redis),
            saved=kept(saved) if self.restarts else saved,
            clock=state.clock,
            schedulers=(known(one), known(two)),
            requests=tuple(sorted(map(anew, requests))),
            given=terms[state.given],
            names=len(names) - 1,
            messages=len(messages) - 1,
            restarts=state.restarts,
        )

    def _in_order(self, state: State) -> tuple[Scheduler, Scheduler]:
        """Return the schedulers in an order that does not depend on their names, if they are alike otherwise."""
        one, two = state.schedulers
        first, second = (one.term, one.name == state.redis.holder), (two.term, two.name == state.redis.holder)
        if self.skews[0] != self.skews[1] or first < second:
            return one, two
        return (one, two) if first == second and _order(one, state) <= _order(two, state) else (two, one)

    def _matters(self, request: Request, state: State) -> bool:
        """Return whether ``request`` may change anything: if not, it is as good as lost."""
        redis, rules = state.redis, self.rules
        if request.kind in {"acquire", "renew", "second half"}:
            return True
        if request.kind == "enqueue":
            may_be_in_force_again = request.term > redis.last_term or state.restarts < self.restarts
            if may_be_in_force_again or any(one.waits_for == request for one in state.schedulers):
                return True
        if request.kind == "release" and request.holder in {redis.holder, state.saved.holder}:
            return True
        check = rules.enqueue_checks if request.kind == "enqueue" else rules.release_checks
        if check is Check.HOLDER_AND_TERM and request.term:
            return _leads(redis, request, check)
        may_hold = any(other.kind == "acquire" and other.holder == request.holder for other in state.requests)
        may_hold |= any(one.name == request.holder for one in state.schedulers)
        return may_hold or _leads(redis, request, check)

    def _terms(self, state: State) -> dict[int, int]:
        """Return the new number of each term: those that were replaced are one, if they can never come again."""
        one, two = state.schedulers
        redis = state.redis
        used = {0, one.term, two.term, redis.term, redis.last_term, state.given}
        used.update([request.term for request in state.requests])
        used.update([one.waits_for.term for one in state.schedulers if one.waits_for])
        if self.restarts:
            used.update([one.highest_term, two.highest_term, state.saved.term, state.saved.last_term])
        if not self.is_reduced or self.rules.renew_writes or state.restarts < self.restarts:
            return {term: rank for rank, term in enumerate(sorted(used))}
        replaced = {term for term in used if 0 < term < redis.last_term}
        in_force = {term: rank for rank, term in enumerate(sorted(used - replaced - {0}), 2)}
        return {0: 0, **dict.fromkeys(replaced, 1), **in_force}


def _tell(one: Scheduler, request: Request, answer: Answer) -> tuple[Scheduler, str]:
    """Return what a scheduler makes of a reply, and what is wrong with it."""
    says, broken = answer.says, ""
    is_last = answer.redis.message == request.message  # what was pushed before the last is not looked for
    if says == "granted" and not one.term:
        return one._replace(term=answer.redis.term, highest_term=answer.redis.term), ""
    if request.kind == "enqueue" and one.waits_for == request:
        if (says == "enqueued") > one.has_pushed or (says != "enqueued" and one.has_pushed and is_last):
            broken = f"a scheduler is told {says} of slot {request.slot}, and that is not so"
        one = one._replace(waits_for=None, has_pushed=False)
    if says in {"lost", "not_leader"} and one.term == request.term:
        one = one._replace(term=0)
    return one, broken


def _noting(one: Scheduler, pushed: Request) -> Scheduler:
    return one._replace(has_pushed=True) if one.waits_for and one.waits_for.message == pushed.message else one


def _with(state: State, index: int, one: Scheduler) -> State:
    schedulers = (one, state.schedulers[1]) if index == 0 else (state.schedulers[0], one)
    return state._replace(schedulers=schedulers)


def _sent(state: State, request: Request) -> State:
    return state._replace(requests=(*state.requests, request))


def _without_lease(redis: Redis) -> Redis:
    return redis._replace(holder=0, term=0)


def _order(one: Scheduler, state: State) -> tuple[object, ...]:
    """Return by what two schedulers are told apart that have the same term."""
    waits_for = one.waits_for
    of_enqueue = (waits_for.slot, waits_for.term, waits_for.message == state.redis.message) if waits_for else ()
    sent = sorted([(request.kind, *request[2:4]) for request in state.requests if request.holder == one.name])
    return one.has_pushed, of_enqueue, sent
