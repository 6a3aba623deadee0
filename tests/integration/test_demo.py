import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from random import Random
from threading import Event

import pytest
from rich.console import Console
from sqlalchemy import Connection, Engine, delete, select, text, update

from models.conversation import active, conversations
from models.event import conversation_events
from services.database import current_time, open_session, reading
from services.demo.checks import read_checks
from services.demo.feed import Fed, feed_conversations
from services.demo.figures import Figures, read_figures
from services.demo.screen import Moment, Plan, count_endings_shown, draw_frame, mask_number
from services.demo.show import run_demo
from services.errors import InvalidValueError
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.timeouts import Timeouts
from tests.support import TIMEOUTS, open_conversation, wait_for

SHORT = Timeouts(idle=timedelta(seconds=0.5), expiry=timedelta(seconds=1))
SECOND = timedelta(seconds=1)

_c = conversations.c
_e = conversation_events.c


def read_clock(engine: Engine) -> datetime:
    with reading(engine) as connection:
        return current_time(connection)


def sweep(engine: Engine) -> None:
    now = read_clock(engine)
    process_idle_conversations(engine, now=now)
    process_expired_conversations(engine, now=now)


@contextmanager
def feeding(engine: Engine) -> Iterator[Fed]:
    """Feed while the block runs, with ten times as many minutes to a second as the demo."""
    fed, stop = Fed(), Event()
    with ThreadPoolExecutor(max_workers=1) as pool:
        running = pool.submit(
            feed_conversations, engine, timeouts=SHORT, rng=Random(1), scale=600, fed=fed, stop=stop, rate=30
        )
        try:
            yield fed
        finally:
            stop.set()
        running.result()


def run(engine: Engine, stack_alive: Callable[[], str | None], *, seconds: float = 3) -> tuple[bool, str]:
    """Run the demo without a terminal, with ``stack_alive`` called several times a second."""
    out = io.StringIO()
    held = run_demo(
        engine=engine,
        timeouts=SHORT,
        duration=timedelta(seconds=seconds),
        seed=1,
        console=Console(file=out, width=80),
        stack_alive=stack_alive,
    )
    return held, out.getvalue()


def failing(engine: Engine, *, opened: int) -> set[str]:
    return {check.claim for check in read_checks(engine, opened=opened) if not check.holds}


def test_fed_conversations_end_both_ways_and_come_back_and_all_checks_hold(engine: Engine) -> None:
    def both_seen() -> Figures | None:
        sweep(engine)
        figures = read_figures(engine)
        return figures if figures.idle and figures.expired and figures.came_back else None

    with feeding(engine) as fed:
        seen = wait_for(both_seen, what="endings of both kinds")

    assert failing(engine, opened=fed.opened) == set()
    assert fed.messages >= fed.opened >= seen.total == seen.open + seen.idle + seen.expired
    assert seen.lag_p50 is not None
    assert seen.lag_p99 is not None
    assert seen.lag_max is not None
    assert 0 <= seen.lag_p50 <= seen.lag_p99 <= seen.lag_max
    assert {ending.status for ending in seen.last_endings} == {"idle_timeout", "expired"}
    assert all(ending.lag >= timedelta(0) for ending in seen.last_endings)


def test_the_demo_runs_its_time_and_says_that_all_checks_hold(engine: Engine) -> None:
    held, printed = run(engine, lambda: sweep(engine))

    assert held
    assert printed.count("✓") == 6
    assert "✗" not in printed
    assert "Stopped early" not in printed


def test_the_demo_stops_early_when_the_stack_dies(engine: Engine) -> None:
    held, printed = run(engine, lambda: "the worker ended with exit code 1", seconds=60)

    assert not held
    assert "Stopped early: the worker ended with exit code 1" in printed


def test_an_interrupted_demo_still_sums_up(engine: Engine) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    held, printed = run(engine, interrupt, seconds=60)

    assert held
    assert "Stopped early: interrupted" in printed
    assert "Checked in the database" in printed


def test_the_demo_keeps_out_of_a_database_in_use(engine: Engine) -> None:
    with open_session(engine) as session:
        open_conversation(session)
        session.commit()

    with pytest.raises(InvalidValueError, match="has 1 conversations"):
        run(engine, lambda: None)


def lose_a_conversation(connection: Connection, _now: datetime) -> None:
    connection.execute(
        delete(conversations).where(_c.conv_id == select(_c.conv_id).where(active).limit(1).scalar_subquery())
    )


def lose_an_event(connection: Connection, _now: datetime) -> None:
    connection.execute(delete(conversation_events).where(_e.event_id == select(_e.event_id).limit(1).scalar_subquery()))


def forge_an_event(connection: Connection, _now: datetime) -> None:
    """Move the end event of one conversation to another one, so that the numbers still agree."""
    still_open = select(_c.conv_id).where(active).limit(1).scalar_subquery()
    connection.execute(update(conversation_events).where(_e.event_id == 1).values(conv_id=still_open))


def end_one_early(connection: Connection, now: datetime) -> None:
    connection.execute(update(conversation_events).values(deadline=now + SECOND))


def leave_one_behind(connection: Connection, now: datetime) -> None:
    connection.execute(update(conversations).where(active).values(idle_at=now - 11 * SECOND))


def end_one_late(connection: Connection, now: datetime) -> None:
    connection.execute(update(conversation_events).values(occurred_at=now + 11 * SECOND))


def end_one_otherwise(connection: Connection, _now: datetime) -> None:
    connection.execute(update(conversations).where(~active).values(expires_at=_c.idle_at))


def open_two_at_once(connection: Connection, _now: datetime) -> None:
    connection.execute(text("DROP INDEX conversations_active_session_key"))
    connection.execute(update(conversations).where(active).values(session_key="the same"))


@pytest.mark.parametrize(
    ("tamper", "claim"),
    [
        (lose_a_conversation, "none lost"),
        (lose_an_event, "each ended once"),
        (forge_an_event, "each ended once"),
        (end_one_early, "none ended early"),
        (leave_one_behind, "none left behind"),
        (end_one_late, "none left behind"),
        (end_one_otherwise, "for the right reason"),
        (open_two_at_once, "one at a time"),
    ],
)
def test_a_check_fails_when_the_database_is_tampered_with(
    engine: Engine, tamper: Callable[[Connection, datetime], None], claim: str
) -> None:
    now = read_clock(engine)
    with open_session(engine) as session:
        for number, opened_at in enumerate((now - TIMEOUTS.idle - SECOND, now - TIMEOUTS.idle, now, now)):
            open_conversation(session, now=opened_at, number=number)
        session.commit()
    process_idle_conversations(engine, now=now)
    assert failing(engine, opened=4) == set()

    with engine.begin() as connection:
        tamper(connection, now)

    assert claim in failing(engine, opened=4)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (60, 20)])
def test_a_frame_fits_the_terminal(engine: Engine, width: int, height: int) -> None:
    now = read_clock(engine)
    with open_session(engine) as session:
        for number in range(30):
            open_conversation(session, now=now - TIMEOUTS.idle, number=number)
        session.commit()
    process_idle_conversations(engine, now=now)
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=True, no_color=True)
    figures = read_figures(engine, endings=count_endings_shown(console))
    plan = Plan(timeouts=SHORT, duration=60 * SECOND, scale=60)

    console.print(draw_frame(console, plan, Moment(figures, elapsed=30 * SECOND)))

    lines = out.getvalue().splitlines()
    assert len(lines) < height
    assert "+3360•••••" in out.getvalue()
    assert "30 s left" in out.getvalue()


def test_numbers_are_covered() -> None:
    assert mask_number("+12025550142") == "+1202•••••42"
    assert mask_number("+1202") == "•••••"
