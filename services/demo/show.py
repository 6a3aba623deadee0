"""The demo: made-up customers on a running stack for a minute, on the screen, with a summary that is checked."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from random import Random
from threading import Event

from rich.console import Console
from sqlalchemy import Engine, func, select

from models.conversation import conversations
from services.database import reading
from services.demo.checks import read_checks
from services.demo.feed import Fed, feed_conversations
from services.demo.figures import read_figures
from services.demo.screen import Moment, Plan, count_endings_shown, open_screen
from services.demo.summary import show_summary
from services.errors import InvalidValueError
from services.timeouts import Timeouts

#: Seconds of the customers' time that pass in one second.
SCALE = 60.0
#: Five minutes and a quarter of an hour of the customers' time: endings of both kinds in the first half minute.
TIMEOUTS = Timeouts(idle=timedelta(seconds=5), expiry=timedelta(seconds=15))
#: How often the screen is brought up to date, in seconds.
REFRESH_INTERVAL = 0.25


def run_demo(
    *,
    engine: Engine,
    timeouts: Timeouts,
    duration: timedelta,
    seed: int,
    console: Console,
    stack_alive: Callable[[], str | None],
) -> bool:
    """Feed and show a running stack for ``duration``; return whether it lived and all checks of the summary hold.

    ``engine`` is of the stack's database, which must be migrated and have no conversations. ``stack_alive`` is asked
    several times a second: None while all is well, else what died, which ends the demo. So does Ctrl-C, early but well.
    The same ``seed`` brings the same customers.

    Raises InvalidValueError when the database is in use, and what the database raises.
    """
    _require_no_conversations(engine)
    plan = Plan(timeouts=timeouts, duration=duration, scale=SCALE)
    fed, stop = Fed(), Event()
    died = cut_short = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="demo-feed") as pool:
        rng = Random(seed)  # noqa: S311 - traffic, not secrets
        feeding = pool.submit(feed_conversations, engine, timeouts=timeouts, rng=rng, scale=SCALE, fed=fed, stop=stop)
        try:
            died = cut_short = _watch(engine, console, plan, feeding, stack_alive)
        except KeyboardInterrupt:
            cut_short = "interrupted"
        finally:
            stop.set()
        feeding.result()
    figures = read_figures(engine)
    checks = read_checks(engine, opened=fed.opened)
    show_summary(console, figures=figures, fed=fed, checks=checks, cut_short=cut_short)
    return died is None and all(check.holds for check in checks)


def _watch(
    engine: Engine, console: Console, plan: Plan, feeding: Future[None], stack_alive: Callable[[], str | None]
) -> str | None:
    """Show how things stand until the time is up; return what died before that, if anything did."""
    started = time.monotonic()
    with open_screen(console, plan) as show:
        while True:
            # Asked first: a frame says that all are up.
            if died := stack_alive():
                return died
            elapsed = timedelta(seconds=time.monotonic() - started)
            show(Moment(read_figures(engine, endings=count_endings_shown(console)), elapsed))
            if elapsed >= plan.duration:
                return None
            if wait([feeding], timeout=REFRESH_INTERVAL).done:
                return None


def _require_no_conversations(engine: Engine) -> None:
    """Keep made-up customers out of a database that real ones may use."""
    with reading(engine) as connection:
        found = connection.execute(select(func.count()).select_from(conversations)).scalar_one()
    if found:
        raise InvalidValueError(
            f"the database has {found:,} conversations; give the demo one of its own, migrated, empty"
        )
