"""What the services do under threads is explained by the checker, and what they do with a rule taken out is not."""

import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine, bindparam, text
from sqlalchemy import event as hooks

from models import Conversation
from models.conversation import active, conversations
from services import conversations as services
from services import endings, messages, sweeps
from services.database import create_database_engine, current_time, open_session
from services.timeouts import Timeouts
from tests.histories import final
from tests.histories.check import check
from tests.histories.findings import Finding, FindingKind
from tests.histories.record import Answer, Kind, Operation, Outcome
from tests.support import MOMENT, NOON, wait_for

#: Short, so that deadlines fall all the time, and of both kinds.
SHORT = Timeouts(idle=timedelta(milliseconds=40), expiry=timedelta(milliseconds=150))


@dataclass
class Clients:
    """Clients of the services that write down what they do."""

    engine: Engine
    operations: list[Operation] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=lambda: count(1))

    def clock(self) -> datetime:
        with self.engine.connect().execution_options(read_only=True) as connection:
            return current_time(connection)

    def operate(
        self,
        client: int,
        kind: Kind,
        key: str,
        *,
        now: datetime | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """Do one operation and write it down, at the database's time unless ``now`` says another."""
        conv_id = self.known[key] if kind in {Kind.ACTIVITY_BY_ID, Kind.CLOSE} else None
        invoked = time.monotonic()
        now = now or self.clock()
        with open_session(self.engine) as session:
            conversation, opened = self._ask(session, kind, key, conv_id, now)
            told = {one.name: getattr(conversation, one.name) for one in fields(Answer) if one.name != "opened"}
            before_commit()
            session.commit()
        self.known[key] = str(conversation.conv_id)
        operation = Operation(
            number=next(self._numbers),
            client=client,
            kind=kind,
            key=key,
            conv_id=conv_id,
            now=now,
            idle_timeout=SHORT.idle.total_seconds(),
            expire_after=SHORT.expiry.total_seconds(),
            invoked=invoked,
            returned=time.monotonic(),
            outcome=Outcome.OK,
            answer=Answer(**told | {"conv_id": str(conversation.conv_id), "opened": opened}),
        )
        self.operations.append(operation)

    def _ask(
        self, session: Any, kind: Kind, key: str, conv_id: str | None, now: datetime
    ) -> tuple[Conversation, bool | None]:
        if kind is Kind.CLOSE:
            return services.close_conversation(session, conv_id=uuid.UUID(conv_id), now=now), None
        if kind is Kind.MESSAGE:
            activity = services.open_or_resume_conversation(
                session,
                owner_id="acme",
                channel="sms",
                from_number="+33600000001",
                to_number="+33123456789",
                session_key=key,
                now=now,
                timeouts=SHORT,
            )
        elif conv_id is not None:
            activity = services.record_activity(session, conv_id=uuid.UUID(conv_id), now=now, timeouts=SHORT)
        else:
            activity = services.record_activity(session, session_key=key, now=now, timeouts=SHORT)
        return activity.conversation, activity.opened

    def run(self, *, clients: int, operations: int, keys: int) -> None:
        """Have all of them at it at once, and two sweeps beside them."""
        done = threading.Event()
        with ThreadPoolExecutor(clients + 2) as pool:
            processes = (sweeps.process_idle_conversations, sweeps.process_expired_conversations)
            sweeping = [pool.submit(self._sweep, process, done) for process in processes]
            try:
                for client in [pool.submit(self._act, number, operations, keys) for number in range(clients)]:
                    client.result(timeout=60)
            finally:
                done.set()
            for sweep in sweeping:
                sweep.result(timeout=60)

    def _act(self, client: int, operations: int, keys: int) -> None:
        rng = random.Random(client)
        for _ in range(operations):
            key = f"key-{rng.randrange(keys)}"
            kind = rng.choices(list(Kind), weights=(4, 4, 4, 1))[0] if key in self.known else Kind.MESSAGE
            self.operate(client, kind, key)
            if not rng.randrange(8):
                time.sleep(rng.random() * 2 * SHORT.idle.total_seconds())

    def _sweep(self, process: Callable[..., Any], done: threading.Event) -> None:
        while not done.wait(0.005):
            process(self.engine, now=self.clock())

    def found(self) -> list[Finding]:
        """Return what the checker finds."""
        return check(self.operations, final.read_database(self.engine.url.render_as_string(hide_password=False)))

    def kinds(self) -> set[FindingKind]:
        return {finding.kind for finding in self.found()}


@pytest.fixture
def clients(engine: Engine) -> Clients:
    return Clients(engine)


@pytest.fixture
def on_postgresql(postgresql_url: str) -> Iterator[Clients]:
    engine = create_database_engine(postgresql_url)
    yield Clients(engine)
    engine.dispose()


def test_what_threads_do_at_once_is_explained(clients: Clients) -> None:
    clients.run(clients=4, operations=30, keys=2)

    assert len(clients.operations) == 120
    assert clients.found() == []


# With a rule taken out


def waits_for_a_lock(engine: Engine) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return bool(connection.execute(text(query)).scalar_one())


def test_without_the_unique_index_two_active_conversations_are_found(on_postgresql: Clients) -> None:
    clients = on_postgresql

    @hooks.listens_for(clients.engine, "before_cursor_execute", retval=True)
    def open_whatever_is_there(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return re.sub(r"ON CONFLICT .*? WHERE false", "", statement, flags=re.DOTALL), parameters

    with clients.engine.begin() as connection:
        connection.execute(text("DROP INDEX conversations_active_session_key"))
    with ThreadPoolExecutor(1) as pool:
        beside: list[Future[None]] = []

        def open_another() -> None:
            beside.append(pool.submit(clients.operate, 2, Kind.MESSAGE, "key"))
            wait_for(lambda: beside[0].done() or waits_for_a_lock(clients.engine))

        # The second began before the first was committed, and does not see it.
        clients.operate(1, Kind.MESSAGE, "key", before_commit=open_another)
        beside[0].result(timeout=60)

    assert clients.kinds() == {FindingKind.TWO_ACTIVE}


@pytest.mark.parametrize("looks_again", [True, False])
def test_a_sweep_that_does_not_look_again_at_the_deadline_is_found(
    on_postgresql: Clients,
    monkeypatch: pytest.MonkeyPatch,
    looks_again: bool,  # noqa: FBT001
) -> None:
    clients = on_postgresql
    if not looks_again:
        # Pick, then update by the id, as it is done elsewhere.
        monkeypatch.setattr(endings, "_PLACE", conversations.c.conv_id)
        monkeypatch.setattr(endings, "_PARTITION", conversations.c.owner_id)
        monkeypatch.setattr(sweeps, "_IDLE", replace(sweeps._IDLE))  # noqa: SLF001 - its statement is made anew

        @hooks.listens_for(clients.engine, "before_cursor_execute", retval=True)
        def lock_nothing(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
            return statement.replace("FOR NO KEY UPDATE SKIP LOCKED", ""), parameters

    clients.operate(1, Kind.MESSAGE, "key", now=NOON)
    deadline = NOON + SHORT.idle
    with ThreadPoolExecutor(1) as pool:
        sweeping: list[Future[Any]] = []

        def sweep_meanwhile() -> None:
            sweeping.append(pool.submit(sweeps.process_idle_conversations, clients.engine, now=deadline))
            wait_for(lambda: sweeping[0].done() or waits_for_a_lock(clients.engine))

        # It has taken the row when the sweep comes, and is committed when that goes on.
        clients.operate(1, Kind.ACTIVITY, "key", now=deadline - MOMENT, before_commit=sweep_meanwhile)
        assert sweeping[0].result(timeout=60).count == (0 if looks_again else 1)

    kinds = clients.kinds()
    assert kinds == set() if looks_again else FindingKind.ENDED_EARLY in kinds


def test_a_message_that_resumes_what_is_past_its_deadline_is_found(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "ongoing", lambda _moment: active)
    monkeypatch.setattr(services, "BY_ID", messages.Resumption(conversations.c.conv_id == bindparam("given_conv_id")))

    clients.operate(1, Kind.MESSAGE, "key", now=NOON)
    clients.operate(1, Kind.ACTIVITY_BY_ID, "key", now=NOON + SHORT.idle)

    assert clients.kinds() == {FindingKind.UNEXPLAINED}
