"""A conversation whose end the database refuses: found, set aside, tried again; the others end on time."""

import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from benchmarks.statements import statements_of
from models import SetAsideConversation
from services import due, set_aside
from services.conversations import close_conversation, get_conversation
from services.database import create_database_engine, open_session
from services.due import Batch
from services.set_aside import FIRST_WAIT, LONGEST_WAIT, TooManySetAsideError, list_set_aside, try_again
from services.sweeps import Sweep, find_idle_conversations, process_expired_conversations, process_idle_conversations
from tests.support import MOMENT, NOON, all_conversations, all_events, opened

DUE = NOON + timedelta(hours=1)
SECOND = timedelta(seconds=1)
GREMLIN = "the platform does not like this one"


def open_some(engine: Engine, count: int) -> list[uuid.UUID]:
    """Open so many, each due a second after the one before; all are due at ``DUE``."""
    return [opened(engine, number=number, now=NOON + number * SECOND).conv_id for number in range(count)]


def poison(engine: Engine, conv_ids: Iterable[uuid.UUID]) -> None:
    """Have a trigger of the platform's refuse every change of these rows."""
    named = ", ".join(f"'{conv_id}'" for conv_id in conv_ids)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql(
                f"CREATE TRIGGER gremlin BEFORE UPDATE ON conversations WHEN OLD.conv_id IN ({named}) "
                f"BEGIN SELECT RAISE(ABORT, '{GREMLIN}'); END"
            )
            return
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION gremlin() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{GREMLIN}' USING DETAIL = 'of ' || OLD.from_number; END $$; "
            f"CREATE TRIGGER gremlin BEFORE UPDATE ON conversations FOR EACH ROW "
            f"WHEN (OLD.conv_id IN ({named})) EXECUTE FUNCTION gremlin()"
        )


def cure(engine: Engine) -> None:
    on = "" if engine.dialect.name == "sqlite" else " ON conversations"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TRIGGER gremlin{on}")


def listed(engine: Engine, *, limit: int = 100) -> list[SetAsideConversation]:
    with open_session(engine) as session:
        return list_set_aside(session, limit=limit)


def active_ids(engine: Engine) -> set[uuid.UUID]:
    return {one.conv_id for one in all_conversations(engine) if one.is_active}


def sweep(engine: Engine, now: datetime = DUE, batch_size: int = 8) -> Sweep:
    """Sweep at ``now``, in no time."""
    return process_idle_conversations(engine, now=now, batch_size=batch_size, stopwatch=float)


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterable[Engine]:
    engine = create_database_engine(postgresql_url)
    yield engine
    engine.dispose()


# Finding it


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("place", [0, 11, 19])
def test_one_row_that_is_refused_is_set_aside_and_the_others_end_in_the_same_sweep(
    engine: Engine, place: int, batch_size: int
) -> None:
    conv_ids = open_some(engine, 20)
    poison(engine, [conv_ids[place]])

    done = sweep(engine, batch_size=batch_size)

    assert (done.count, done.set_aside, done.drained) == (19, 1, True)
    assert active_ids(engine) == {conv_ids[place]}
    assert {event.conv_id for event in all_events(engine)} == {*conv_ids} - {conv_ids[place]}
    (kept,) = listed(engine)
    assert (kept.conv_id, kept.tries, kept.set_aside_at) == (conv_ids[place], 1, kept.tried_at)
    assert kept.reason == GREMLIN
    assert kept.retry_at == kept.tried_at + FIRST_WAIT


def test_it_takes_as_many_transactions_as_a_bisection_does(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 64)
    poison(postgresql, [conv_ids[40]])

    with statements_of(postgresql) as sent:
        done = sweep(postgresql, batch_size=64)

    assert done.count == 63
    batches = [statement for statement, _ in sent if "set_config" in statement]
    # Six halves down to one row, each half and those before it, and doubling from one row up again.
    assert len(batches) <= 6 + 6 + 6


def test_several_rows_that_are_refused_side_by_side_are_each_set_aside(engine: Engine) -> None:
    conv_ids = open_some(engine, 30)
    bad = [*conv_ids[4:9], conv_ids[20], conv_ids[29]]
    poison(engine, bad)

    done = sweep(engine)

    assert (done.count, done.set_aside) == (23, 7)
    assert active_ids(engine) == {*bad}
    assert [one.conv_id for one in listed(engine)] == sorted(bad, key=conv_ids.index)


def test_the_reason_holds_nothing_of_the_row(postgresql: Engine) -> None:
    (conv_id,) = open_some(postgresql, 1)
    poison(postgresql, [conv_id])

    sweep(postgresql)

    (kept,) = listed(postgresql)
    assert get_from_number(postgresql, conv_id) not in kept.reason


def get_from_number(engine: Engine, conv_id: uuid.UUID) -> str:
    with open_session(engine) as session:
        return get_conversation(session, conv_id=conv_id).from_number


def test_a_constraint_of_the_platform_that_the_end_would_break_names_itself(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 5)
    with postgresql.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE conversations ADD CONSTRAINT stays_open "
            f"CHECK (ended_at IS NULL OR conv_id <> '{conv_ids[2]}')"
        )

    assert sweep(postgresql).count == 4

    (kept,) = listed(postgresql)
    assert kept.reason == 'new row for relation "conversations" violates check constraint "stays_open"'


def test_a_constraint_that_is_checked_at_the_commit_is_found_as_well(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 10)
    with postgresql.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE FUNCTION gremlin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'too late'; END $$;
            CREATE CONSTRAINT TRIGGER gremlin AFTER UPDATE ON conversations DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW WHEN (NEW.conv_id = '{conv_ids[6]}') EXECUTE FUNCTION gremlin()
        """)

    assert (sweep(postgresql).count, [one.conv_id for one in listed(postgresql)]) == (9, [conv_ids[6]])


def test_a_policy_of_the_platform_that_refuses_a_row_is_not_taken_for_a_missing_right(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 6)
    with postgresql.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE FUNCTION gremlin() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'not yours'; END $$;
            CREATE TRIGGER gremlin BEFORE UPDATE ON conversations FOR EACH ROW
            WHEN (OLD.conv_id = '{conv_ids[1]}') EXECUTE FUNCTION gremlin()
        """)

    assert (sweep(postgresql).count, [one.reason for one in listed(postgresql)]) == (5, ["not yours"])


def test_a_trigger_that_undoes_the_end_without_a_word_is_found_as_well(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 12)
    with postgresql.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE FUNCTION keep_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
            CREATE TRIGGER keep_it BEFORE UPDATE ON conversations FOR EACH ROW
            WHEN (OLD.conv_id IN ('{conv_ids[0]}', '{conv_ids[1]}')) EXECUTE FUNCTION keep_it()
        """)

    # Two are as many as a batch: the sweep would not come to those behind them.
    done = sweep(postgresql, batch_size=2)

    assert (done.count, done.set_aside) == (10, 2)
    assert {one.reason for one in listed(postgresql)} == {"its row stays as it is: a trigger or a rule undoes its end"}


def test_a_trigger_of_sqlite_that_undoes_the_end_without_a_word_leaves_no_event(sqlite_url: str) -> None:
    engine = create_database_engine(sqlite_url)
    conv_ids = open_some(engine, 10)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER keep_it BEFORE UPDATE ON conversations "
            f"WHEN OLD.conv_id IN ('{conv_ids[0]}', '{conv_ids[4]}') BEGIN SELECT RAISE(IGNORE); END"
        )

    done = sweep(engine, batch_size=4)

    assert (done.count, done.set_aside, done.drained) == (8, 2, True)
    assert {event.conv_id for event in all_events(engine)} == {*conv_ids} - {conv_ids[0], conv_ids[4]}
    with open_session(engine) as session:
        assert close_conversation(session, conv_id=conv_ids[0], now=DUE).is_active
        session.commit()
    assert len(all_events(engine)) == 8
    engine.dispose()


# What is not a row's fault


def test_what_fails_without_rows_as_well_is_no_row_s_fault(postgresql: Engine) -> None:
    open_some(postgresql, 3)
    with postgresql.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE conversation_events RENAME TO moved")

    with pytest.raises(DBAPIError, match='relation "conversation_events" does not exist'):
        sweep(postgresql)

    assert listed(postgresql) == []


def give_way(engine: Engine, times: int) -> None:
    """Have the end of any conversation answered so many times as when PostgreSQL chose it to end a deadlock."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"""
            CREATE SEQUENCE conflicts;
            CREATE FUNCTION gremlin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('conflicts') <= {times} THEN RAISE deadlock_detected; END IF;
            RETURN NEW;
            END $$;
            CREATE TRIGGER gremlin BEFORE UPDATE ON conversations FOR EACH ROW EXECUTE FUNCTION gremlin()
        """)


def test_a_conflict_with_another_transaction_is_tried_again_at_once(postgresql: Engine) -> None:
    open_some(postgresql, 3)
    give_way(postgresql, due.MOST_CONFLICTS)

    assert (sweep(postgresql).count, listed(postgresql)) == (3, [])


def test_a_row_that_is_in_conflict_each_time_does_not_keep_the_others(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 10)
    refuse_by(postgresql, conv_ids[4], "RAISE deadlock_detected")

    assert (sweep(postgresql).count, [one.conv_id for one in listed(postgresql)]) == (9, [conv_ids[4]])


@pytest.mark.parametrize("code", ["25006", "28000", "40001", "55000", "P0004", "XX001"])
def test_a_trigger_may_refuse_by_any_code_that_is_about_the_statement(postgresql: Engine, code: str) -> None:
    conv_ids = open_some(postgresql, 10)
    refuse_by(postgresql, conv_ids[4], f"RAISE SQLSTATE '{code}'")

    assert (sweep(postgresql).count, [one.conv_id for one in listed(postgresql)]) == (9, [conv_ids[4]])


@pytest.mark.parametrize("undo", ["RETURN OLD", "NEW.status := OLD.status; NEW.ended_at := NULL; RETURN NEW"])
def test_a_trigger_that_puts_the_row_back_leaves_no_event(postgresql: Engine, undo: str) -> None:
    conv_ids = open_some(postgresql, 10)
    refuse_by(postgresql, conv_ids[4], undo)
    told: list[Batch] = []

    done = process_idle_conversations(postgresql, now=DUE, batch_size=4, on_batch=told.append)

    assert (done.count, [one.conv_id for one in listed(postgresql)]) == (9, [conv_ids[4]])
    assert {event.conv_id for event in all_events(postgresql)} == {*conv_ids} - {conv_ids[4]}
    assert sum(sum(batch.lags.counts) for batch in told if batch.lags) == 9


def test_after_a_batch_that_took_too_long_they_are_small(postgresql: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    conv_ids = open_some(postgresql, 128)
    refuse_by(postgresql, None, "PERFORM pg_sleep(0.02); RETURN NEW")
    monkeypatch.setattr(due, "BATCH_TIMEOUT", timedelta(seconds=1))

    done = sweep(postgresql, batch_size=128)

    assert (done.count, done.set_aside) == (len(conv_ids), 0)
    assert done.batches == 16


def test_a_lock_on_the_whole_table_is_no_row_s_fault(postgresql: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    open_some(postgresql, 4)
    monkeypatch.setattr(due, "BATCH_TIMEOUT", timedelta(milliseconds=200))
    monkeypatch.setattr(due, "PROBE_TIMEOUT", timedelta(milliseconds=100))

    with postgresql.begin() as holder:
        holder.exec_driver_sql("LOCK TABLE conversations IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DBAPIError, match="statement timeout"):
            sweep(postgresql)

    assert listed(postgresql) == []


def refuse_by(engine: Engine, conv_id: uuid.UUID | None, what: str) -> None:
    """Have a trigger do so at every change of a conversation, or of any."""
    when = "" if conv_id is None else f"WHEN (OLD.conv_id = '{conv_id}')"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE FUNCTION gremlin() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what}; END $$; "
            f"CREATE TRIGGER gremlin BEFORE UPDATE ON conversations FOR EACH ROW {when} EXECUTE FUNCTION gremlin()"
        )


def test_when_too_many_are_refused_it_is_not_they(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "MOST", 3)
    conv_ids = open_some(engine, 20)
    poison(engine, conv_ids)

    with pytest.raises(TooManySetAsideError, match=f"3 conversations are set aside, .*: {GREMLIN}"):
        sweep(engine)

    assert [one.conv_id for one in listed(engine)] == conv_ids[:3]
    cure(engine)
    assert sweep(engine, now=DUE + FIRST_WAIT).count == 20
    assert listed(engine) == []


def test_those_that_have_ended_since_leave_room_for_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_aside, "MOST", 3)
    conv_ids = open_some(engine, 10)
    poison(engine, conv_ids[:3])
    sweep(engine)
    cure(engine)
    with open_session(engine) as session:
        for conv_id in conv_ids[:3]:
            close_conversation(session, conv_id=conv_id, now=DUE)
        session.commit()
    another, _ = open_some(engine, 12)[10:]
    poison(engine, [another])

    assert sweep(engine).set_aside == 1
    assert [one.conv_id for one in listed(engine)] == [another]


# Trying it again


def tried(engine: Engine, now: datetime) -> int:
    """Sweep at ``now``; return how often the one that is set aside was tried by then."""
    sweep(engine, now=now)
    (kept,) = listed(engine)
    return kept.tries


def test_it_is_left_out_until_its_time_and_waits_twice_as_long_each_time(engine: Engine) -> None:
    poison(engine, open_some(engine, 1))
    now, wait = DUE, FIRST_WAIT
    assert tried(engine, now) == 1

    for tries in range(2, 10):
        assert tried(engine, now + wait - MOMENT) == tries - 1
        now += wait
        assert tried(engine, now) == tries
        wait = min(2 * wait, LONGEST_WAIT)
        (kept,) = listed(engine)
        assert (kept.retry_at, kept.set_aside_at) == (now + wait, DUE)
    assert wait == LONGEST_WAIT


@pytest.mark.parametrize("process", [process_idle_conversations, process_expired_conversations])
def test_neither_sweep_takes_it_meanwhile(engine: Engine, process: Callable[..., Sweep]) -> None:
    poison(engine, open_some(engine, 1))
    later = NOON + timedelta(days=2)
    sweep(engine, now=later)

    with statements_of(engine) as sent:
        process(engine, now=later + FIRST_WAIT - MOMENT)

    assert not [statement for statement, _ in sent if statement.startswith("INSERT INTO set_aside")]
    assert [one.tries for one in listed(engine)] == [1]


def test_once_it_can_be_ended_it_is_ended_and_forgotten(engine: Engine) -> None:
    (conv_id,) = open_some(engine, 1)
    poison(engine, [conv_id])
    sweep(engine)
    cure(engine)

    assert sweep(engine, now=DUE + FIRST_WAIT).count == 1

    assert listed(engine) == []
    assert [event.conv_id for event in all_events(engine)] == [conv_id]


def test_when_one_has_ended_the_others_are_tried_by_the_next_sweep(engine: Engine) -> None:
    first, second = conv_ids = open_some(engine, 2)
    poison(engine, conv_ids)
    sweep(engine)
    with open_session(engine) as session:
        try_again(session, conv_ids=[first], now=DUE)
        session.commit()
    cure(engine)
    soon = DUE + SECOND

    assert sweep(engine, now=soon).count == 1
    assert active_ids(engine) == {second}
    assert sweep(engine, now=soon).count == 1
    assert listed(engine) == []


def test_so_many_of_them_and_no_more_at_once(engine: Engine) -> None:
    first, *others = open_some(engine, set_aside.MOST_AT_ONCE + 3)
    with open_session(engine) as session:
        for conv_id in (first, *others):
            set_aside.set_aside(session.connection(), conv_id, reason="no", now=DUE)
        close_conversation(session, conv_id=first, now=DUE)
        session.commit()

    sweep(engine, now=DUE + SECOND)

    assert sum(one.retry_at <= DUE + SECOND for one in listed(engine, limit=1_000)) == set_aside.MOST_AT_ONCE


@pytest.mark.parametrize("way", ["closed", "deleted"])
def test_one_that_ends_otherwise_is_forgotten(engine: Engine, way: str) -> None:
    conv_id, _ = open_some(engine, 2)
    poison(engine, [conv_id])
    sweep(engine)
    cure(engine)
    with open_session(engine) as session:
        if way == "closed":
            close_conversation(session, conv_id=conv_id, now=DUE)
        else:
            session.delete(get_conversation(session, conv_id=conv_id))
        session.commit()

    assert listed(engine) == []
    sweep(engine, now=DUE + MOMENT)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM set_aside_conversations").scalar_one() == 0


@pytest.mark.parametrize("every", [True, False])
def test_a_person_can_have_it_tried_by_the_next_sweep(engine: Engine, *, every: bool) -> None:
    one, other = conv_ids = open_some(engine, 2)
    poison(engine, conv_ids)
    sweep(engine)

    with open_session(engine) as session:
        chosen = try_again(session, conv_ids=None if every else [one, uuid.uuid4()], now=DUE + SECOND)
        session.commit()

    assert {*chosen} == ({one, other} if every else {one})
    sweep(engine, now=DUE + SECOND)
    assert {kept.conv_id: kept.tries for kept in listed(engine)} == {one: 2, other: 2 if every else 1}


# Beside others


def test_whoever_counts_is_told_of_each_that_is_set_aside(engine: Engine) -> None:
    conv_ids = open_some(engine, 10)
    poison(engine, conv_ids[3:5])
    told: list[Batch] = []

    process_idle_conversations(engine, now=DUE, batch_size=4, on_batch=told.append)

    assert sum(batch.count for batch in told) == 8
    assert sum(batch.set_aside for batch in told) == 2
    assert all(batch.lags is not None for batch in told if batch.count)


def test_a_search_that_spends_the_time_is_gone_on_with_by_the_next_sweep(engine: Engine) -> None:
    conv_ids = open_some(engine, 40)
    poison(engine, conv_ids[10:20])
    clock = iter(range(1_000))

    sweeps = 0
    while len(active_ids(engine)) > 10:
        clock = iter(range(1_000))
        process_idle_conversations(
            engine,
            now=DUE,
            batch_size=8,
            time_budget=timedelta(seconds=9),
            stopwatch=lambda: float(next(clock)),  # noqa: B023 - it is used up before the next one is made
        )
        sweeps += 1

    assert 1 < sweeps < 15
    assert {one.conv_id for one in listed(engine)} == {*conv_ids[10:20]}


def test_a_search_is_ended_as_any_sweep_is(engine: Engine) -> None:
    poison(engine, open_some(engine, 20))
    asked = iter([True, True, False])

    done = process_idle_conversations(engine, now=DUE, batch_size=8, proceed=lambda: next(asked))

    assert (done.count, done.drained) == (0, False)
    assert next(asked, None) is None


def test_what_is_set_aside_is_not_among_what_a_sweep_would_end(engine: Engine) -> None:
    first, second = open_some(engine, 2)
    poison(engine, [first])
    with open_session(engine) as session:
        set_aside.set_aside(session.connection(), first, reason="no", now=DUE)
        session.commit()
        for now, found in ((DUE, [second]), (DUE + FIRST_WAIT, [first, second])):
            assert [one.conv_id for one in find_idle_conversations(session, now=now)] == found


def test_two_sweeps_at_once_end_each_of_the_others_once(postgresql: Engine) -> None:
    conv_ids = open_some(postgresql, 60)
    bad = conv_ids[5::20]
    poison(postgresql, bad)

    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: sweep(postgresql, batch_size=16), range(2)))

    # What one holds the other leaves to the next sweep.
    rest = sweep(postgresql)
    assert sum(one.count for one in done) + rest.count == 57
    assert {one.conv_id for one in listed(postgresql)} == {*bad} == active_ids(postgresql)
    assert sum(one.set_aside for one in (*done, rest)) == 3
