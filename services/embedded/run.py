"""The two ways of ``adjourn run``: until it is stopped, and one cycle."""

import signal
import sys
from collections.abc import Mapping
from types import FrameType

from sqlalchemy.exc import DBAPIError

from services.cycle import run_task
from services.database import create_database_engine
from services.embedded.stack import Stack, prepare_database
from services.errors import AdjournError, first_line
from services.logs import configure_logging
from services.settings import load_settings
from services.tasks import Task


def run_until_stopped(overrides: Mapping[str, str]) -> None:
    """Run scheduler and worker until SIGINT or SIGTERM; ``overrides`` go before the environment.

    Raises AdjournError when one of them cannot start or ends by itself.
    """
    settings = load_settings(**overrides)
    configure_logging(level=settings.log_level, style=settings.log_format)
    stack = Stack(settings, overrides=overrides)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if not stack.is_up:
            sys.exit("adjourn: stopped while starting")
        stack.wake()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with stack:
        failure = stack.wait()
    if failure is not None:
        raise AdjournError(failure)


def run_once(overrides: Mapping[str, str]) -> None:
    """Run each enabled task once, in this process, and print what it did.

    One that fails keeps no other from being run. Raises AdjournError, which says which of them failed, and why.
    """
    settings = load_settings(**overrides)
    configure_logging(level=settings.log_level, style=settings.log_format)
    prepare_database(settings)
    engine = create_database_engine(settings.database)
    failures = []
    for task in Task:
        if not settings.is_enabled(task):
            sys.stdout.write(f"{task}: disabled\n")
            continue
        try:
            sweep = run_task(task, engine, settings)
        except (AdjournError, DBAPIError) as error:
            failures.append(f"{task} failed: {first_line(error)}")
            continue
        left = "" if sweep.drained else "; the time budget is spent, more is due"
        batches = "1 batch" if sweep.batches == 1 else f"{sweep.batches} batches"
        aside = f"; {sweep.set_aside} set aside, see adjourn set-aside list" if sweep.set_aside else ""
        sys.stdout.write(f"{task}: ended {sweep.count} in {batches}, {sweep.duration:.3f} s{left}{aside}\n")
    engine.dispose()
    if failures:
        raise AdjournError("; ".join(failures))
