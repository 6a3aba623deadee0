import csv
import random
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from models import ConversationStatus, EventCause
from services.database import create_database_engine, open_session
from services.errors import HistoryError, InvalidValueError
from services.simulation.history import Message, read_history
from services.simulation.outcomes import CUT_SHORT_WITHIN, CutShort, Distribution, EndedConversation, Outcome
from services.simulation.replay import compare, replayed
from services.timeouts import Timeouts
from tests.support import MOMENT, NOON, all_conversations, all_events, open_conversation

MINUTE = timedelta(minutes=1)
TIMEOUTS = Timeouts(idle=30 * MINUTE, expiry=120 * MINUTE)
SAMPLE_HISTORIES = Path(__file__).parents[2] / "../shared/data"

Row = tuple[datetime, str, str]


def written(path: Path, rows: Iterable[Row], *, with_direction: bool = True) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["at", "session_key", "direction"][: 2 + with_direction])
        writer.writerows([at.isoformat(), key, direction][: 2 + with_direction] for at, key, direction in rows)
    return path


def random_rows(count: int, keys: Sequence[str] = ("a", "B", "é", "_", "b", "Z", "zz")) -> list[Row]:
    """Rows in bursts, so that conversations of every length and both ends come about."""
    draw = random.Random(count)
    at = NOON
    rows = []
    for _ in range(count):
        at += draw.choice([timedelta(0), MOMENT, MINUTE, 3 * MINUTE, 10 * MINUTE, 30 * MINUTE])
        rows.append((at, draw.choice(keys), draw.choice(["inbound", "inbound", "outbound"])))
    return rows


def sessionized(rows: Iterable[Row], timeouts: Timeouts) -> list[EndedConversation]:
    """What the rules say, without a database: a message at or after the deadline belongs to the next conversation."""
    ended: list[list[datetime]] = []
    keys: list[str] = []
    current: dict[str, list[datetime]] = {}

    def deadline(times: list[datetime]) -> datetime:
        return min(times[-1] + timeouts.idle, times[0] + timeouts.expiry)

    for at, key, _ in rows:
        if key not in current or at >= deadline(current[key]):
            current[key] = []
            ended.append(current[key])
            keys.append(key)
        current[key].append(at)
    return [
        EndedConversation(
            session_key=key,
            opened_at=times[0],
            last_activity_at=times[-1],
            deadline=deadline(times),
            status=ConversationStatus.EXPIRED
            if times[0] + timeouts.expiry <= times[-1] + timeouts.idle
            else ConversationStatus.IDLE_TIMEOUT,
            messages=len(times),
        )
        for key, times in sorted(zip(keys, ended, strict=True))
    ]


def cut_short(rows: Sequence[Row], conversations: Iterable[EndedConversation]) -> tuple[CutShort, ...]:
    """Look for the customer's return after each conversation, one by one."""
    ended = list(conversations)
    return tuple(
        CutShort(
            within,
            sum(
                any(
                    key == one.session_key and direction != "outbound" and one.deadline <= at <= one.deadline + within
                    for at, key, direction in rows
                )
                for one in ended
            ),
        )
        for within in CUT_SHORT_WITHIN
    )


def replay_of(
    history: Path, timeouts: Timeouts = TIMEOUTS, database: str | None = None, sweep_interval: timedelta | None = None
) -> tuple[list[EndedConversation], Outcome]:
    with replayed(history, timeouts=timeouts, database=database, sweep_interval=sweep_interval) as replay:
        return list(replay.conversations()), replay.outcome()


def schemas(url: str) -> list[str]:
    engine = create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'adjourn%'"))
        names = list(found.scalars())
    engine.dispose()
    return names


@pytest.fixture(autouse=True)
def temporary_files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the simulation's own files go, so that a test can see that they are gone."""
    directory = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.mark.parametrize("kind", ["temporary", "sqlite", "postgresql"])
@pytest.mark.parametrize(
    "timeouts",
    [
        TIMEOUTS,
        Timeouts(idle=5 * MINUTE, expiry=30 * MINUTE),
        Timeouts(idle=60 * MINUTE, expiry=60 * MINUTE),
        Timeouts(idle=60 * MINUTE, expiry=10 * MINUTE),
    ],
    ids=["longer expiry", "short", "equal", "shorter expiry"],
)
def test_a_replay_equals_a_plain_sessionizer_of_the_message_times(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, timeouts: Timeouts
) -> None:
    urls = {"temporary": None, "sqlite": f"sqlite:///{tmp_path}/simulation.db"}
    database = urls[kind] if kind in urls else request.getfixturevalue("postgresql_url")
    rows = random_rows(250)

    found, outcome = replay_of(written(tmp_path / "history.csv", rows), timeouts, database)

    expected = sessionized(rows, timeouts)
    assert found == expected
    assert outcome.messages == len(rows)
    assert outcome.conversations == len(expected)
    assert outcome.ended_idle == sum(one.status is ConversationStatus.IDLE_TIMEOUT for one in expected)
    assert outcome.ended_expired == len(expected) - outcome.ended_idle
    assert outcome.duration == Distribution.of([one.duration.total_seconds() for one in expected])
    assert outcome.messages_a_conversation == Distribution.of([one.messages for one in expected])
    assert outcome.cut_short == cut_short(rows, expected)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    gaps=st.lists(st.tuples(st.integers(0, 13), st.sampled_from("ab"), st.sampled_from(["inbound", "outbound"]))),
    idle=st.integers(1, 12),
    expiry=st.integers(1, 12),
    sweep_interval=st.none() | st.integers(1, 40).map(lambda count: count * MINUTE),
)
def test_a_replay_equals_a_plain_sessionizer_whatever_the_history(
    tmp_path: Path,
    gaps: list[tuple[int, str, str]],
    idle: int,
    expiry: int,
    sweep_interval: timedelta | None,
) -> None:
    # Whole minutes and few of them, so that messages fall on deadlines, on each other and on sweeps.
    rows = [(NOON, "a", "inbound")]
    for minutes, key, direction in gaps:
        rows.append((rows[-1][0] + minutes * MINUTE, key, direction))
    timeouts = Timeouts(idle=idle * MINUTE, expiry=expiry * MINUTE)

    found, outcome = replay_of(written(tmp_path / "history.csv", rows), timeouts, sweep_interval=sweep_interval)

    assert found == sessionized(rows, timeouts)
    assert outcome.cut_short == cut_short(rows, found)


@pytest.mark.parametrize(
    "sweep_interval", [MINUTE, 60 * MINUTE, timedelta(days=1_000)], ids=["minute", "hour", "after the end"]
)
def test_the_outcome_does_not_depend_on_when_sweeps_run(tmp_path: Path, sweep_interval: timedelta) -> None:
    rows = random_rows(60)

    found, _ = replay_of(written(tmp_path / "history.csv", rows), sweep_interval=sweep_interval)

    assert found == sessionized(rows, TIMEOUTS)


@pytest.mark.parametrize(("idle", "status"), [(30, ConversationStatus.IDLE_TIMEOUT), (200, ConversationStatus.EXPIRED)])
@pytest.mark.parametrize(("late", "conversations"), [(-MOMENT, 1), (timedelta(0), 2), (MOMENT, 2)])
def test_a_message_exactly_at_the_deadline_opens_the_next_conversation(
    tmp_path: Path, idle: int, status: ConversationStatus, late: timedelta, conversations: int
) -> None:
    timeouts = Timeouts(idle=idle * MINUTE, expiry=100 * MINUTE)
    deadline = NOON + min(timeouts.idle, timeouts.expiry)
    rows = [(NOON, "a", "inbound"), (deadline + late, "a", "inbound")]

    found, _ = replay_of(written(tmp_path / "history.csv", rows), timeouts)

    assert len(found) == conversations
    assert {one.status for one in found} == {status}


def test_sweeps_and_messages_both_end_conversations_as_in_production(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/kept.db"

    replay_of(written(tmp_path / "history.csv", random_rows(400)), database=url)

    engine = create_database_engine(url)
    events = [event for event in all_events(engine) if event.ended]
    assert {event.cause for event in events} == {EventCause.SWEEP, EventCause.ACTIVITY}
    assert all(event.occurred_at >= event.deadline for event in events)
    assert all(event.occurred_at - event.deadline <= 60 * MINUTE for event in events)
    engine.dispose()


@pytest.mark.parametrize(
    ("direction", "after", "counts"),
    [
        ("inbound", timedelta(0), [1, 1, 1]),
        ("inbound", 5 * MINUTE, [1, 1, 1]),
        ("inbound", 5 * MINUTE + MOMENT, [0, 1, 1]),
        ("inbound", 15 * MINUTE, [0, 1, 1]),
        ("inbound", 60 * MINUTE, [0, 0, 1]),
        ("inbound", 60 * MINUTE + MOMENT, [0, 0, 0]),
        ("outbound", 5 * MINUTE, [0, 0, 0]),
    ],
)
def test_cut_short_is_a_customer_who_writes_again_soon_after_the_deadline(
    tmp_path: Path, direction: str, after: timedelta, counts: list[int]
) -> None:
    rows = [(NOON, "a", "inbound"), (NOON + TIMEOUTS.idle + after, "a", direction)]

    _, outcome = replay_of(written(tmp_path / "history.csv", rows))

    assert outcome.cut_short == tuple(map(CutShort, CUT_SHORT_WITHIN, counts))


def test_the_customer_is_also_back_when_the_owner_wrote_first(tmp_path: Path) -> None:
    deadline = NOON + TIMEOUTS.idle
    rows = [(NOON, "a", "inbound"), (deadline, "a", "outbound"), (deadline + 10 * MINUTE, "a", "inbound")]

    found, outcome = replay_of(written(tmp_path / "history.csv", rows))

    assert [one.messages for one in found] == [1, 2]
    assert [cut.count for cut in outcome.cut_short] == [0, 1, 1]


def test_without_directions_every_message_is_the_customers(tmp_path: Path) -> None:
    rows = [(NOON, "a", "outbound"), (NOON + TIMEOUTS.idle, "a", "outbound")]

    _, outcome = replay_of(written(tmp_path / "history.csv", rows, with_direction=False))

    assert [cut.count for cut in outcome.cut_short] == [1, 1, 1]


def test_the_largest_timeouts_and_decades_of_silence_take_few_sweeps(tmp_path: Path) -> None:
    longest = Timeouts(idle=timedelta(days=3650), expiry=timedelta(days=3650))
    rows = [(datetime(year, 1, 2, tzinfo=UTC), "a", "inbound") for year in (1, 1970, 1975, 8999)]

    found, outcome = replay_of(written(tmp_path / "history.csv", rows), longest)

    assert [one.messages for one in found] == [1, 2, 1]
    assert outcome.ended_expired == 3


def test_several_timeouts_are_replayed_one_after_the_other(tmp_path: Path, postgresql_url: str) -> None:
    rows = random_rows(100)
    history = written(tmp_path / "history.csv", rows)
    choices = [Timeouts(idle=minutes * MINUTE, expiry=120 * MINUTE) for minutes in (5, 30)]

    for database in (None, postgresql_url):
        outcomes = compare(history, choices=choices, database=database)

        assert [outcome.timeouts for outcome in outcomes] == choices
        assert [outcome.conversations for outcome in outcomes] == [len(sessionized(rows, one)) for one in choices]


def test_one_sqlite_file_takes_one_choice_of_timeouts(tmp_path: Path) -> None:
    history = written(tmp_path / "history.csv", random_rows(10))
    choices = [Timeouts(idle=minutes * MINUTE, expiry=120 * MINUTE) for minutes in (5, 30)]

    with pytest.raises(InvalidValueError, match="one idle timeout"):
        compare(history, choices=choices, database=f"sqlite:///{tmp_path}/simulation.db")

    assert not (tmp_path / "simulation.db").exists()


def test_processes_share_the_session_keys_and_the_outcome_is_the_same(tmp_path: Path) -> None:
    rows = random_rows(100)

    with replayed(written(tmp_path / "history.csv", rows), timeouts=TIMEOUTS, processes=3) as replay:
        found, outcome = list(replay.conversations()), replay.outcome()

    assert found == sessionized(rows, TIMEOUTS)
    assert outcome.messages == len(rows)
    assert outcome.cut_short == cut_short(rows, found)


def test_a_history_that_is_broken_ends_all_processes(tmp_path: Path, temporary_files: Path) -> None:
    bad = written(tmp_path / "bad.csv", [*random_rows(20), (NOON, "a", "inbound")])

    with pytest.raises(HistoryError, match="line 22"), replayed(bad, timeouts=TIMEOUTS, processes=2):
        pass

    assert list(temporary_files.iterdir()) == []


def test_nothing_is_left_of_a_temporary_database(tmp_path: Path, temporary_files: Path) -> None:
    good = written(tmp_path / "good.csv", random_rows(50))
    bad = written(tmp_path / "bad.csv", [(NOON, "a", "inbound"), (NOON, "", "inbound")])

    replay_of(good)
    with pytest.raises(HistoryError):
        replay_of(bad)

    assert list(temporary_files.iterdir()) == []


def test_a_postgresql_database_is_as_it_was_before(tmp_path: Path, postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    with open_session(engine) as session:
        open_conversation(session, now=NOON)
        session.commit()
    before = [one.model_dump() for one in all_conversations(engine)]
    bad = written(tmp_path / "bad.csv", [*random_rows(20), (NOON, "a", "inbound")])

    replay_of(written(tmp_path / "good.csv", random_rows(20)), database=postgresql_url)
    with pytest.raises(HistoryError):
        replay_of(bad, database=postgresql_url)

    assert [one.model_dump() for one in all_conversations(engine)] == before
    assert all_events(engine) == []
    assert schemas(postgresql_url) == []
    engine.dispose()


def test_a_postgresql_database_needs_no_tables(tmp_path: Path, empty_postgresql_url: str) -> None:
    rows = random_rows(20)

    found, _ = replay_of(written(tmp_path / "history.csv", rows), database=empty_postgresql_url)

    assert found == sessionized(rows, TIMEOUTS)
    engine = create_engine(empty_postgresql_url)
    with engine.connect() as connection:
        found_tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        assert found_tables.all() == []
    engine.dispose()


def test_a_simulation_has_a_schema_of_its_own_while_it_runs(tmp_path: Path, postgresql_url: str) -> None:
    history = written(tmp_path / "history.csv", random_rows(20))

    with (
        replayed(history, timeouts=TIMEOUTS, database=postgresql_url) as one,
        replayed(history, timeouts=TIMEOUTS, database=postgresql_url) as other,
    ):
        assert len(schemas(postgresql_url)) == 2
        assert list(one.conversations()) == list(other.conversations())


def test_a_new_sqlite_file_keeps_the_result(tmp_path: Path) -> None:
    rows = random_rows(50)
    url = f"sqlite:///{tmp_path}/simulation.db"

    replay_of(written(tmp_path / "history.csv", rows), database=url)

    engine = create_database_engine(url)
    assert len(all_conversations(engine)) == len(sessionized(rows, TIMEOUTS))
    assert {one.owner_id for one in all_conversations(engine)} == {"simulation"}
    engine.dispose()


def test_a_sqlite_file_with_conversations_is_refused_and_not_touched(tmp_path: Path, sqlite_url: str) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    before = path.read_bytes()

    with pytest.raises(InvalidValueError, match="has conversations"):
        replay_of(written(tmp_path / "history.csv", random_rows(10)), database=sqlite_url)

    assert path.read_bytes() == before


def test_a_file_that_is_not_sqlite_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir, " * 100)

    with pytest.raises(InvalidValueError, match="cannot be used as a SQLite file"):
        replay_of(written(tmp_path / "history.csv", random_rows(10)), database=f"sqlite:///{path}")

    assert path.read_text() == "Dear Sir, " * 100


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidValueError, match="names no file"):
        replay_of(written(tmp_path / "history.csv", random_rows(10)), database=url)


def test_a_failed_replay_leaves_no_sqlite_file(tmp_path: Path) -> None:
    bad = written(tmp_path / "bad.csv", [*random_rows(20), (NOON, "a", "inbound")])

    with pytest.raises(HistoryError):
        replay_of(bad, database=f"sqlite:///{tmp_path}/simulation.db")

    assert list(tmp_path.iterdir()) == [bad]


def test_other_tables_of_a_sqlite_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (note)")
        connection.execute("INSERT INTO notes VALUES ('keep me')")
        connection.commit()
    rows = random_rows(20)
    bad = written(tmp_path / "bad.csv", [*rows, (NOON, "a", "inbound")])

    with pytest.raises(HistoryError):
        replay_of(bad, database=f"sqlite:///{path}")
    found, _ = replay_of(written(tmp_path / "good.csv", rows), database=f"sqlite:///{path}")

    assert found == sessionized(rows, TIMEOUTS)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT note FROM notes").fetchall() == [("keep me",)]


def test_a_percentile_is_the_nearest_rank() -> None:
    assert Distribution.of([7]) == Distribution(p50=7, p90=7, p99=7, max=7)
    assert Distribution.of([4, 1, 3, 2]) == Distribution(p50=2, p90=4, p99=4, max=4)
    assert Distribution.of(range(1, 1_001)) == Distribution(p50=500, p90=900, p99=990, max=1_000)


def rows_of(messages: Iterable[Message]) -> list[Row]:
    return [(message.at, message.session_key, message.direction or "") for message in messages]


@pytest.mark.skipif(not SAMPLE_HISTORIES.is_dir(), reason="the sample histories are not beside the project")
@pytest.mark.parametrize(("idle", "expiry", "idle_count"), [(30, 1_440, 592), (5, 30, 641)])
def test_the_small_sample_history_gives_its_known_figures(idle: int, expiry: int, idle_count: int) -> None:
    history = SAMPLE_HISTORIES / "customer_care.csv"
    timeouts = Timeouts(idle=idle * MINUTE, expiry=expiry * MINUTE)

    found, outcome = replay_of(history, timeouts)

    rows = rows_of(read_history(history))
    assert (outcome.conversations, outcome.ended_idle, outcome.ended_expired) == (idle_count, idle_count, 0)
    assert found == sessionized(rows, timeouts)
    assert outcome.cut_short == cut_short(rows, found)
