"""Reading endings while they are written: the numbers of events are not in the order of their commits."""

import itertools
import random
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, text
from sqlmodel import Session

from models import Conversation
from services.conversations import close_conversation
from services.database import create_database_engine, open_session
from services.errors import InvalidValueError
from services.event_reader import EndingReader
from tests.support import NOON, all_events, open_conversation, opened


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Engine]:
    """An engine with a connection for each of those who write at once."""
    engine = create_database_engine(postgresql_url, pool_size=12)
    yield engine
    engine.dispose()


def close(session: Session, conversation: Conversation) -> None:
    close_conversation(session, conv_id=conversation.conv_id, now=NOON)


def closed(engine: Engine, *numbers: int) -> None:
    """Open and close the conversations of these customers, a transaction each."""
    for number in numbers:
        with open_session(engine) as session:
            close(session, open_conversation(session, number=number).conversation)
            session.commit()


def read(reader: EndingReader, engine: Engine, after: int, limit: int = 100) -> tuple[list[int | None], int]:
    """Return the numbers of the events that are read, and the position."""
    with open_session(engine, read_only=True) as session:
        endings = reader.read(session, after=after, limit=limit)
        return [one.event_id for one in endings.events], endings.position


def ended_ids(engine: Engine) -> list[int | None]:
    return [one.event_id for one in all_events(engine) if one.ended]


def test_all_is_read_page_by_page_and_then_what_is_new(engine: Engine) -> None:
    closed(engine, 1, 2, 3)
    opened(engine, number=4)
    opened(engine, number=4)  # its event is no ending
    reader = EndingReader()
    first, second, third = ended_ids(engine)

    assert read(reader, engine, 0, limit=2) == ([first, second], second)
    assert read(reader, engine, 0, limit=2) == ([first, second], second), "what was not kept is read again"
    ids, position = read(reader, engine, second or 0, limit=2)
    assert ids == [third]
    assert read(reader, engine, position) == ([], position)

    closed(engine, 5)
    assert read(reader, engine, position)[0] == ended_ids(engine)[3:]
    assert read(EndingReader(), engine, 0)[0] == ended_ids(engine)


def test_nothing_is_read_where_nothing_ended(engine: Engine) -> None:
    assert read(EndingReader(), engine, 0) == ([], 0)


def test_a_limit_that_makes_no_sense_is_refused(session: Session) -> None:
    with pytest.raises(InvalidValueError, match="limit: 0 is out of range"):
        EndingReader().read(session, after=0, limit=0)


def test_an_ending_that_is_committed_after_a_later_one_is_not_left_out(postgresql: Engine) -> None:
    reader = EndingReader()
    first, second = (opened(postgresql, number=number) for number in (1, 2))
    with open_session(postgresql) as slow:
        close(slow, first)
        with open_session(postgresql) as quick:
            close(quick, second)
            quick.commit()
        assert len(ended_ids(postgresql)) == 1, "the later one is there, alone"

        assert read(reader, postgresql, 0) == ([], 0)
        slow.commit()

    ids, _ = read(reader, postgresql, 0)
    assert ids == ended_ids(postgresql)
    assert len(ids) == 2


def test_an_ending_that_is_rolled_back_holds_nothing_up(postgresql: Engine) -> None:
    reader = EndingReader()
    conversation = opened(postgresql, number=1)
    with open_session(postgresql) as slow:
        close(slow, conversation)
        closed(postgresql, 2)
        assert read(reader, postgresql, 0) == ([], 0)
        slow.rollback()

    assert read(reader, postgresql, 0)[0] == ended_ids(postgresql) != []


def test_who_began_to_write_later_is_not_waited_for(postgresql: Engine) -> None:
    reader = EndingReader()
    first, second, third = (opened(postgresql, number=number) for number in (1, 2, 3))
    with open_session(postgresql) as slow, open_session(postgresql) as slower:
        close(slow, first)
        with open_session(postgresql) as quick:
            close(quick, second)
            quick.commit()
        assert read(reader, postgresql, 0) == ([], 0)
        close(slower, third)
        slow.commit()

        ids, position = read(reader, postgresql, 0)
        assert len(ids) == 2
        assert read(reader, postgresql, position) == ([], position)
        slower.commit()
    assert read(reader, postgresql, position)[0] == ended_ids(postgresql)[2:]


@pytest.mark.parametrize("statement", [1, 2, 3])
def test_it_does_not_matter_between_which_of_its_statements_another_commits(postgresql: Engine, statement: int) -> None:
    first, second = (opened(postgresql, number=number) for number in (1, 2))
    reader, looking = EndingReader(), create_database_engine(postgresql.url)
    looks = itertools.count(1)
    with open_session(postgresql) as slow:

        def meanwhile(*_: object) -> None:
            if next(looks) == statement:
                close(slow, first)
                with open_session(postgresql) as quick:
                    close(quick, second)
                    quick.commit()

        event.listen(looking, "after_cursor_execute", meanwhile)
        ids, position = read(reader, looking, 0)
        slow.commit()
    while position < (ended_ids(postgresql)[-1] or 0):
        more, position = read(reader, looking, position)
        ids += more
    looking.dispose()

    assert ids == ended_ids(postgresql)
    assert len(ids) == 2


def test_a_transaction_reads_what_it_has_ended_itself(postgresql: Engine) -> None:
    conversation = opened(postgresql)
    with open_session(postgresql) as session:
        close(session, conversation)
        endings = EndingReader().read(session, after=0)

    assert [one.conv_id for one in endings.events] == [conversation.conv_id]


def test_while_many_write_at_once_each_ending_is_read_once_and_in_order(postgresql: Engine) -> None:
    writers, each = 6, 40
    failures: list[Exception] = []

    def write(writer: int) -> None:
        chance = random.Random(writer)
        try:
            for turn in range(each):
                with open_session(postgresql) as session:
                    number = writer * each + turn
                    close(session, open_conversation(session, number=number).conversation)
                    # Its number is given; that others commit before it does is a matter of this.
                    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": chance.choice([0, 0, 0.005, 0.02])})
                    session.commit() if chance.random() < 0.9 else session.rollback()
        except Exception as error:  # noqa: BLE001 - it is for the thread that looks
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    reader, seen, position = EndingReader(), list[int | None](), 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ids, position = read(reader, postgresql, position, limit=7)
        seen += ids
    written = ended_ids(postgresql)
    while position < (written[-1] or 0):
        ids, position = read(reader, postgresql, position, limit=7)
        seen += ids

    assert failures == []
    assert seen == written
    assert len(seen) > writers * each / 2
