"""``adjourn adopt``: a look, the adoption, or the way back."""

# ruff: noqa: T201 - what was asked for

import itertools
import json
from typing import Literal

from services.adoption.adopt import adopt, connected
from services.adoption.look import Look, look
from services.adoption.report import look_lines, look_object, step_line, verdict_lines
from services.adoption.step import Choices, Step
from services.adoption.undo import undo
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
    """Adopt the table and print each step when it is through. Raises AdjournError."""
    numbers = itertools.count(1)

    def print_look(seen: Look) -> None:
        if seen.blockers:
            print("\n".join(verdict_lines(seen)), flush=True)

    def print_step(step: Step, done: str | None, seconds: float) -> None:
        print(step_line(next(numbers), step, done, seconds), flush=True)

    settings = load_settings()
    choices = Choices(settings.timeouts, foreign_writers, overdue, close_duplicates)
    with connected(settings.database) as connection:
        adopt(connection, choices, on_look=print_look, on_step=print_step)
    print("adopted")


def print_undo() -> None:
    """Take the adoption back and print what is removed. Raises AdjournError."""
    settings = load_settings()
    with connected(settings.database) as connection:
        undo(connection, Choices(settings.timeouts), on_done=lambda what: print(f"removed {what}", flush=True))
    print("undone; the columns that were added stay, and so does conversation_events, the record")
