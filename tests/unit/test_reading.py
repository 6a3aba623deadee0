"""Which messages a worker runs, of all that somebody may have put into its queue."""

import json
import pickle
import time
from typing import Any

import dramatiq
import pytest
from dramatiq.brokers.stub import StubBroker

from actors.reading import LONGEST_MESSAGE, UnreadableMessageError, read_message
from services.values import LONGEST_TEXT
from tests.chaos.conversations.garbage import DRAINS, NO_MESSAGE, ODD, REFUSED, SWEEPS, UNREADABLE, message

#: Under which they lie.
REDIS_ID = "0b9e8c4e-6f0a-4f3c-8f0e-0d4f8f8f8f8f"
#: A message with it is as any other, until somebody looks where it lies.
ELSEWHERE = "another's address inside"


@pytest.fixture(scope="module")
def broker() -> dramatiq.Broker:
    """A broker with actors of the names and arguments of ours."""
    broker = StubBroker()

    def sweep() -> None: ...

    def drain(task: str, sweep_id: str) -> None: ...

    dramatiq.actor(broker=broker, actor_name="process_idle_conversations", queue_name=SWEEPS, max_retries=0)(sweep)
    dramatiq.actor(broker=broker, actor_name="drain_backlog", queue_name=DRAINS, max_retries=0)(drain)
    return broker


def read(broker: dramatiq.Broker, queue: str = SWEEPS, **changes: Any) -> "dramatiq.Message[None]":
    """Read a message of ours with ``changes``."""
    return read_message(json.dumps(message(queue, REDIS_ID, **changes)).encode(), queue_name=queue, broker=broker)


@pytest.mark.parametrize("queue", [SWEEPS, DRAINS])
@pytest.mark.parametrize("name", [name for name in UNREADABLE if name not in {NO_MESSAGE, ELSEWHERE}])
def test_what_no_worker_can_run_is_refused_in_one_line(broker: dramatiq.Broker, queue: str, name: str) -> None:
    data = UNREADABLE[name](queue, REDIS_ID)
    assert data is not None
    with pytest.raises(UnreadableMessageError) as refusal:
        read_message(data, queue_name=queue, broker=broker)
    said = str(refusal.value)
    assert said.isprintable()
    assert len(said) <= 2 * LONGEST_TEXT


@pytest.mark.parametrize(
    ("queue", "name"), [(SWEEPS, name) for name in ODD] + [(DRAINS, name) for name in {**ODD, **REFUSED}]
)
def test_what_only_looks_odd_is_run(broker: dramatiq.Broker, queue: str, name: str) -> None:
    data = {**ODD, **REFUSED}[name](queue, REDIS_ID)
    assert data is not None
    assert read_message(data, queue_name=queue, broker=broker).options["redis_message_id"] == REDIS_ID


def test_what_dramatiq_itself_writes_is_run(broker: dramatiq.Broker) -> None:
    sent = broker.get_actor("drain_backlog").message_with_options(
        args=("idle_conversations", "1"), max_retries=None, time_limit=float("inf"), max_age=5, on_failure="other"
    )
    sent = sent.copy(options={"redis_message_id": REDIS_ID, "retries": 2, "traceback": "…", "requeue_timestamp": 5})
    assert read_message(sent.encode(), queue_name=DRAINS, broker=broker) == sent


def test_a_message_for_later_is_run_where_those_lie_and_nowhere_else(broker: dramatiq.Broker) -> None:
    delayed = f"{SWEEPS}.DQ"
    fields = message(SWEEPS, REDIS_ID, queue_name=delayed, options={"eta": 5})
    assert read_message(json.dumps(fields).encode(), queue_name=delayed, broker=broker).options["eta"] == 5
    with pytest.raises(UnreadableMessageError, match="it is for later"):
        read(broker, options={"eta": 5})
    assert read(broker, options={"eta": None})


def test_retries_are_counted_from_0_on(broker: dramatiq.Broker) -> None:
    assert read(broker, options={"retries": 0})
    with pytest.raises(UnreadableMessageError, match="its option retries is not a number from 0 on"):
        read(broker, options={"retries": -1})


def test_an_id_has_as_many_characters_as_a_line_may_show(broker: dramatiq.Broker) -> None:
    assert read(broker, message_id="7" * LONGEST_TEXT)
    for message_id in ("7" * (LONGEST_TEXT + 1), "", "7\n7"):
        with pytest.raises(UnreadableMessageError, match="its message_id is no text of 1 to 255"):
            read(broker, message_id=message_id)


def test_a_message_has_sixteen_mebibytes_and_no_more(broker: dramatiq.Broker) -> None:
    longest = json.dumps(message(SWEEPS, REDIS_ID)).encode().ljust(LONGEST_MESSAGE)
    assert read_message(longest, queue_name=SWEEPS, broker=broker)
    with pytest.raises(UnreadableMessageError, match="it has 16,777,217 bytes"):
        read_message(longest + b" ", queue_name=SWEEPS, broker=broker)


def test_it_says_what_is_wrong(broker: dramatiq.Broker) -> None:
    for changes, said in (
        ({"queue_name": "payments"}, "it says that it is in the queue payments"),
        ({"actor_name": "send_money"}, "there is no actor send_money"),
        ({"args": [1]}, "its arguments are not those of process_idle_conversations: too many positional arguments"),
        ({"colour": "blue"}, "it cannot be read: Message.__init__() got an unexpected keyword argument 'colour'"),
    ):
        with pytest.raises(UnreadableMessageError) as refusal:
            read(broker, **changes)
        assert str(refusal.value) == said


def test_arguments_of_another_version_are_for_the_retries_of_an_actor_that_has_some() -> None:
    broker = StubBroker()
    dramatiq.actor(broker=broker, actor_name="notify", queue_name=SWEEPS)(lambda: None)

    assert read(broker, actor_name="notify", args=["new"]).args == ("new",)


def test_an_actor_whose_arguments_nobody_can_tell_is_run(broker: dramatiq.Broker) -> None:
    dramatiq.actor(broker=broker, actor_name="sleep", queue_name=SWEEPS, max_retries=0)(time.sleep)

    assert read(broker, actor_name="sleep", args=[1]).args == (1,)


def test_messages_that_the_application_encodes_in_its_own_way_are_run(broker: dramatiq.Broker) -> None:
    before = dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    try:
        data = pickle.dumps(message(SWEEPS, REDIS_ID))
        assert read_message(data, queue_name=SWEEPS, broker=broker).options["redis_message_id"] == REDIS_ID
        with pytest.raises(UnreadableMessageError, match="cannot be read"):
            read_message(b"no pickle", queue_name=SWEEPS, broker=broker)
    finally:
        dramatiq.set_encoder(before)
