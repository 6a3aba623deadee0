"""The feed of demo and traffic: people who do not exist write to companies that do not exist, in real time."""

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from random import Random
from threading import Event

from sqlalchemy import Engine
from sqlmodel import Session

from services.conversations import Activity, close_conversation, open_or_resume_conversation
from services.database import current_time, open_session
from services.demo.traffic import CHAT, Customer, draw_customers
from services.timeouts import Timeouts

#: New customers a second: enough to fill a screen within seconds, few enough to follow single ones.
ARRIVAL_RATE = 8.0
#: How often what became due is written, in seconds: a transaction for each message would only cost.
FEED_INTERVAL = 0.1
#: Messages in one transaction at most, so that after a stall the sweeps still get their turn.
LARGEST_FEED = 100

_OWNERS = ("kite-airlines", "maple-bank", "harbour-inn", "pedal-and-co", "lumen-energy")
_CHAT_CHANNELS = ("whatsapp", "webchat", "messenger")
_CARE_CHANNEL = "sms"
#: Numbers that are nobody's: set aside for fiction by the authorities of North America, Britain and France.
_AREA_CODES = ("202", "212", "305", "312", "415", "512", "617", "702")


@dataclass(slots=True)
class Fed:
    """What has been written so far, counted after each commit."""

    messages: int = 0
    #: Conversations that a message opened.
    opened: int = 0
    #: Conversations that a company closed.
    closed: int = 0


@dataclass(frozen=True, slots=True)
class _Person:
    owner_id: str
    channel: str
    number: str
    inbox: str


@dataclass(frozen=True, slots=True)
class _Message:
    person: _Person
    #: Whether the conversation is closed upon it.
    closes: bool


def feed_conversations(
    engine: Engine,
    *,
    timeouts: Timeouts,
    rng: Random,
    scale: float,
    fed: Fed,
    stop: Event,
    rate: float = ARRIVAL_RATE,
    closing_share: float = 0.0,
) -> None:
    """Write messages as they come due, by this machine's pace and the database's clock, until ``stop`` is set.

    ``rate`` is in new customers a second; ``scale`` speeds up what they do, as in ``services.demo.traffic``. Upon
    ``closing_share`` of the messages the company has no more to say, and closes the conversation.
    Raises what the database raises; the messages of that transaction are then neither written nor counted.
    """
    messages = _messages_in_order(rng, draw_customers(rng, rate=rate, scale=scale))
    started = time.monotonic()
    at, person = next(messages)
    while not stop.is_set():
        due: list[_Message] = []
        elapsed = time.monotonic() - started
        while at <= elapsed and len(due) < LARGEST_FEED:
            due.append(_Message(person, closes=rng.random() < closing_share))
            at, person = next(messages)
        if due:
            opened = _write_messages(engine, due, timeouts)
            fed.messages += len(due)
            fed.opened += opened
            fed.closed += sum(message.closes for message in due)
        if len(due) < LARGEST_FEED:
            stop.wait(FEED_INTERVAL)


def _write_messages(engine: Engine, messages: list[_Message], timeouts: Timeouts) -> int:
    """Write them in one transaction; return how many conversations they opened."""
    with open_session(engine) as session, session.begin():
        # Asked within the transaction: on SQLite that is after any sweep that it waited for.
        now = current_time(session.connection())
        return sum(_write_message(session, message, now, timeouts).opened for message in messages)


def _write_message(session: Session, message: _Message, now: datetime, timeouts: Timeouts) -> Activity:
    person = message.person
    arrived = open_or_resume_conversation(
        session,
        owner_id=person.owner_id,
        channel=person.channel,
        from_number=person.number,
        to_number=person.inbox,
        now=now,
        timeouts=timeouts,
    )
    if message.closes:
        close_conversation(session, conv_id=arrived.conversation.conv_id, now=now)
    return arrived


def _messages_in_order(rng: Random, customers: Iterator[Customer]) -> Iterator[tuple[float, _Person]]:
    """Yield who writes and when, in seconds from the start, over all customers in order of time."""
    upcoming: list[tuple[float, int, _Person]] = []
    tie_break = count()
    for serial, customer in enumerate(customers):
        while upcoming and upcoming[0][0] <= customer.arrives_at:
            at, _, writing = heapq.heappop(upcoming)
            yield at, writing
        person = _invent_person(rng, serial, customer)
        for after in customer.message_times:
            heapq.heappush(upcoming, (customer.arrives_at + after, next(tie_break), person))


def _invent_person(rng: Random, serial: int, customer: Customer) -> _Person:
    channel = rng.choice(_CHAT_CHANNELS) if customer.shape is CHAT else _CARE_CHANNEL
    owner = rng.randrange(len(_OWNERS))
    return _Person(_OWNERS[owner], channel, _fictional_number(serial), f"+44207946{100 + owner:04}")


def _fictional_number(serial: int) -> str:
    """Return the number of the customer with this serial, in E.164."""
    kind, each = serial % 3, serial // 3
    # Strides that share no factor with the sizes: all numbers are used before one comes again, in no visible order.
    if kind == 0:
        line = each * 367 % (100 * len(_AREA_CODES))
        return f"+1{_AREA_CODES[line % len(_AREA_CODES)]}55501{line // len(_AREA_CODES):02}"
    if kind == 1:
        return f"+447700900{each * 367 % 1_000:03}"
    return f"+3363998{each * 3_671 % 10_000:04}"
