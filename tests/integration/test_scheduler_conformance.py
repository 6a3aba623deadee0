"""The scripts on a real Redis against the model of them that was searched: the same requests, the same answers."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import redis
from dramatiq.brokers.redis import RedisBroker
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from services.scheduling import keys
from services.scheduling.scripts import load_script
from tests.model.schedulers import Redis, Request, Rules, execute

LEASE = timedelta(seconds=15)
#: One unit of the model is a second here.
RULES = Rules(mark_ahead=15, slot_ahead=1)
TASK = keys.task_key("task")
MEMBERS = [keys.MEMBERS, keys.SEEN]

holders = st.integers(1, 3)
#: More often the one in force, or the one before, than one that never was.
ages = st.sampled_from([0, 0, 0, 1, 2, -1])
outcomes = st.sampled_from(["enqueued", "caught_up"])


class Scripts(RuleBasedStateMachine):
    """Requests in any order, also from schedulers that lost their term long ago, or twice."""

    client: redis.Redis
    scripts: dict[str, Callable[..., Any]]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.started_at = int(self.client.time()[0])
        self.model = Redis()
        self.sent: list[Request] = []
        self.outcomes: dict[int, str] = {}
        self.queue: list[str] = []
        self.highest_term = 0

    # What is asked of Redis

    @rule(holder=holders, age=ages)
    def acquire(self, holder: int, age: int) -> None:
        self.send(Request("acquire", holder, max(self.highest_term - age, 0)))

    @rule(holder=holders, age=ages)
    def renew(self, holder: int, age: int) -> None:
        self.send(Request("renew", holder, self.model.last_term - age))

    @rule(holder=holders)
    def release(self, holder: int) -> None:
        self.send(Request("release", holder))

    @rule(holder=holders, age=ages, slot=st.integers(-30, 3), outcome=outcomes)
    def enqueue(self, holder: int, age: int, slot: int, outcome: str) -> None:
        self.send(self.message(holder, self.model.last_term - age, self.started_at + slot, outcome))

    @precondition(lambda self: self.model.holder)
    @rule(step=st.integers(-1, 2), outcome=outcomes)
    def the_leader_enqueues_a_slot_near_the_last(self, step: int, outcome: str) -> None:
        slot = (self.model.mark or self.started_at - 30) + step
        self.send(self.message(self.model.holder, self.model.term, slot, outcome))

    @precondition(lambda self: self.model.holder)
    @rule(ahead=st.integers(0, 2), outcome=outcomes)
    def the_leader_enqueues_the_present_slot_or_the_next(self, ahead: int, outcome: str) -> None:
        slot = int(self.client.time()[0]) + ahead
        self.send(self.message(self.model.holder, self.model.term, slot, outcome))

    @precondition(lambda self: self.model.holder)
    @rule()
    def the_leader_renews_late(self) -> None:
        self.client.pexpire(keys.LEASE, LEASE // 3)
        self.send(Request("renew", self.model.holder, self.model.term))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def a_request_comes_again(self, data: st.DataObject) -> None:
        self.send(data.draw(st.sampled_from(self.sent[:-11:-1])))

    # What happens to it

    @precondition(lambda self: self.sent)
    @rule(what=st.sampled_from(["lease ends", "lease ends", "paused", "paused", "scripts forgotten", "all forgotten"]))
    def something_happens(self, what: str) -> None:
        if what == "lease ends":
            self.client.pexpire(keys.LEASE, 0)
            self.model = self.model._replace(holder=0, term=0)
        elif what == "paused":
            if self.model.is_paused:
                self.client.hdel(TASK, "paused_at")
            else:
                self.client.hset(TASK, "paused_at", 1)
            self.model = self.model._replace(is_paused=not self.model.is_paused)
        elif what == "scripts forgotten":
            self.client.script_flush()
        else:
            self.client.flushdb()
            self.model, self.queue = Redis(), []

    @precondition(lambda self: self.model.mark)
    @rule(seconds=st.sampled_from([5, 14, 15, 16, 50]))
    def the_clock_is_put_back(self, seconds: int) -> None:
        """To be exact: all that came of it is put ahead."""
        mark, done = self.model.mark + seconds, self.model.done + seconds
        self.client.hset(TASK, "slot", mark)
        self.model = self.model._replace(mark=mark, done=done)

    # What comes of it

    def message(self, holder: int, term: int, slot: int, outcome: str) -> Request:
        """Return the enqueue of a message that never was before."""
        self.outcomes[len(self.outcomes) + 1] = outcome
        return Request("enqueue", holder, term, slot, len(self.outcomes))

    def send(self, request: Request) -> None:
        """Have ``request`` executed by both, and compare what they say."""
        self.sent.append(request)
        before = self.client.pttl(keys.LEASE)
        said, now = getattr(self, f"_{request.kind}")(request)
        answer = execute(self.model, request, now=now, rules=RULES)
        assert not answer.broken
        is_first = answer.redis.message != self.model.message
        self.model = answer.redis
        self.highest_term = max(self.highest_term, self.model.last_term)
        expected = answer.says
        if expected == "enqueued":
            expected = self.outcomes[request.message]
            if is_first:
                self.queue.append(f"message-{request.message}")
        assert said == expected
        after, longest = self.client.pttl(keys.LEASE), LEASE / timedelta(milliseconds=1)
        if said in {"granted", "held"}:
            assert longest - 5_000 < after <= longest
        elif said != "released":
            assert after <= before

    def _acquire(self, request: Request) -> tuple[str, float]:
        won, _, _, holder, term, _ = self.scripts["acquire"](
            keys=[keys.LEASE, keys.TERM, *MEMBERS],
            args=[_name(request.holder), LEASE // timedelta(milliseconds=1), request.term, "{}"],
        )
        if not won:
            assert (holder, term) == (_name(self.model.holder), self.model.term)
        return "granted" if won else "refused", 0

    def _renew(self, request: Request) -> tuple[str, float]:
        held, _, _ = self.scripts["renew"](
            keys=[keys.LEASE, *MEMBERS],
            args=[_name(request.holder), request.term, LEASE // timedelta(milliseconds=1), "{}"],
        )
        return "held" if held else "lost", 0

    def _release(self, request: Request) -> tuple[str, float]:
        released = self.scripts["release"](keys=[keys.LEASE, *MEMBERS], args=[_name(request.holder), keys.WAKE])
        return "released" if released else "lost", 0

    def _enqueue(self, request: Request) -> tuple[str, float]:
        message = f"message-{request.message}"
        push = ("enqueue", 1, "default", "broker", 60_000, 60_000, 0, 1, message, "{}")
        outcome, milliseconds = self.scripts["enqueue"](
            keys=[keys.LEASE, TASK, "dramatiq"],
            args=[
                *(_name(request.holder), request.term, request.slot, request.slot + 1, message),
                *(self.outcomes[request.message], RULES.mark_ahead, *push),
            ],
        )
        # The moment by which the script has judged, unless it did not judge but answered as before.
        return outcome, milliseconds / 1000

    @invariant()
    def redis_holds_what_the_model_holds(self) -> None:
        model = self.model
        holder, term = self.client.hmget(keys.LEASE, "holder", "term")
        assert (holder, int(term or 0)) == (_name(model.holder) if model.holder else None, model.term)
        assert int(self.client.get(keys.TERM) or 0) == model.last_term
        mark, message, outcome = self.client.hmget(TASK, "slot", "message_id", "outcome")
        assert int(mark or 0) == model.mark
        assert message == (f"message-{model.message}" if model.message else None)
        said = self.outcomes[model.message] if model.outcome == "enqueued" else model.outcome
        assert outcome == (said if model.message else None)
        assert [*self.client.lrange("dramatiq:default", 0, -1)] == self.queue
        assert {*self.client.hkeys("dramatiq:default.msgs")} == set(self.queue)


def _name(holder: int) -> str:
    return f"scheduler-{holder}"


def test_the_scripts_do_to_redis_what_the_model_that_was_searched_does(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True, protocol=2) as client:
        dispatch = RedisBroker(client=client, middleware=[]).scripts["dispatch"]  # type: ignore[no-untyped-call]

        class OnThisRedis(Scripts):
            pass

        OnThisRedis.client = client
        OnThisRedis.scripts = {name: load_script(client, name) for name in ("acquire", "renew", "release")}
        OnThisRedis.scripts["enqueue"] = load_script(client, "enqueue", push=dispatch)
        run_state_machine_as_test(
            OnThisRedis,
            settings=settings(
                max_examples=80,
                stateful_step_count=40,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
