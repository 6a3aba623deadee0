"""``adjourn adopt``: a look, the adoption, or the way back."""

# ruff: noqa: T201 - what was asked for

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from services.adoption.adopt import adopt
from services.adoption.look import Look, look
from services.adoption.report import (
    begin_line,
    done_line,
    look_lines,
    look_object,
    timeouts_line,
    verdict_lines,
    waiting_line,
)
from services.adoption.session import connected
from services.adoption.step import Choices
from services.adoption.undo import undo
from services.adoption.waiting import telling_waits
from services.settings import load_settings


def print_check(
    *, foreign_writers: bool, overdue: Literal["end", "leave"] | None, close_duplicates: bool, as_json: bool
) -> bool:
    """Print what is there and what adopting it would do; return whether nothing is in the way. Raises AdjournError."""
    settings = load_settings()
    with connected(settings.database) as connection:
        seen = look(connection, Choices(settings.timeouts, foreign_writers, overdue, close_duplicates))
    print(json.dumps(look_object(seen), indent=2) if as_json else "\n".join(look_lines(seen)))
    return not seen.blockers


def print_adoption(*, foreign_writers: bool, overdue: Literal["end", "leave"] | None, close_duplicates: bool) -> None:
    """Adopt the table and print each step, when it begins and when it is through. Raises AdjournError."""

    def print_look(seen: Look) -> None:
        _say("\n".join(verdict_lines(seen)) if seen.blockers else timeouts_line(choices.timeouts))

    settings = load_settings()
    choices = Choices(settings.timeouts, foreign_writers, overdue, close_duplicates)
    with (
        _going_on_later(),
        connected(settings.database) as connection,
        telling_waits(settings.database, connection, lambda blockers: _say(waiting_line(blockers))),
    ):
        adopt(
            connection,
            choices,
            on_look=print_look,
            on_begin=lambda step: _say(begin_line(step)),
            on_step=lambda _, done, seconds: _say(done_line(done, seconds)),
        )
    print("adopted")


def print_undo() -> None:
    """Take the adoption back and print what is removed. Raises AdjournError."""
    settings = load_settings()
    with _going_on_later(), connected(settings.database) as connection:
        undo(connection, Choices(settings.timeouts), on_done=lambda what: _say(f"removed {what}"))
    print("undone; conversation_events stays, the record")


@contextmanager
def _going_on_later() -> Iterator[None]:
    """Say to whoever interrupts it how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; what is done stays done: run the same again, and it goes on from here", file=sys.stderr)
        raise


def _say(line: str) -> None:
    # In one piece: whom a step waits for is told by another thread.
    print(f"{line}\n", end="", flush=True)
