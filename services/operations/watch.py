"""``adjourn status --watch``: the screen, or a line of JSON, anew every two seconds until it is told to end."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from queue import Empty, SimpleQueue
from types import FrameType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from services.errors import InvalidValueError
from services.operations.lookout import Lookout
from services.operations.overview import Overview
from services.operations.status_json import json_text
from services.operations.status_screen import draw_screen
from services.settings import load_settings

#: From the beginning of one look to that of the next, in seconds.
REFRESH_INTERVAL = 2.0


class _Event(Enum):
    ANSWERED = auto()
    RESIZED = auto()
    TOLD_TO_END = auto()


#: Its put is reentrant, so a signal handler may call it; that of other queues and events is not.
_Events = SimpleQueue[_Event]
_Show = Callable[[Overview], None]


def watch_status(*, as_json: bool) -> None:
    """Show the state, anew every two seconds, until SIGINT or SIGTERM.

    Raises SettingsError, and InvalidValueError where there is no terminal to draw on: frame upon frame in a file is
    nothing that anybody reads, and programs have JSON.
    """
    settings = load_settings()
    # A shell may have exported the size that its window once had.
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    console = Console(highlight=False, _environ=environment)
    if not as_json and (not sys.stdout.isatty() or console.is_dumb_terminal):
        raise InvalidValueError("--watch draws on a terminal, and this is none; for programs: --watch --json")
    events: _Events = SimpleQueue()
    with (
        _signals(events, has_window=not as_json),
        Lookout(settings, on_answer=lambda: events.put(_Event.ANSWERED)) as lookout,
        _lines() if as_json else _screen(console) as show,
    ):
        _watch(lookout, events, show)


def _watch(lookout: Lookout, events: _Events, show: _Show) -> None:
    shown: Overview | None = None

    def wait(remaining: Callable[[], float]) -> bool:
        """Return True when nothing remains, False as soon as it is told to end."""
        while (seconds := remaining()) > 0:
            try:
                event = events.get(timeout=seconds)
            except Empty:
                continue
            if event is _Event.TOLD_TO_END:
                return False
            if event is _Event.RESIZED and shown is not None:
                show(shown)
        return True

    while True:
        next_look = time.monotonic() + REFRESH_INTERVAL
        lookout.begin()
        if not wait(lambda: lookout.patience):
            return
        shown = lookout.overview()
        show(shown)
        if not wait(lambda: next_look - time.monotonic()):  # noqa: B023 - it is called at once
            return


@contextmanager
def _screen(console: Console) -> Iterator[_Show]:
    """Yield what draws on a screen of its own, which is gone afterwards."""
    with Live(Text("asking Redis and the database …", "dim"), console=console, screen=True, auto_refresh=False) as live:
        live.refresh()
        yield lambda overview: live.update(_fitted(console, overview), refresh=True)


def _fitted(console: Console, overview: Overview) -> RenderableType:
    """Return what fits on the screen; what does not is said, and is what matters least."""
    screen = draw_screen(overview, width=console.width)
    lines = console.render_lines(screen, pad=False)
    missing = len(lines) - console.height
    if missing <= 0:
        return screen
    rest = Text(f"… {missing + 1} more lines, for a higher window", "dim")
    kept = [Text.assemble(*((part.text, part.style or "") for part in line)) for line in lines[: console.height - 1]]
    return Group(*kept, rest)


@contextmanager
def _lines() -> Iterator[_Show]:
    """Yield what prints one object a line; nobody who reads them any more is no failure."""
    try:
        yield lambda overview: print(json_text(overview, indent=None), flush=True)  # noqa: T201 - what was asked for
    except BrokenPipeError:
        # What is left in the buffer goes nowhere, instead of failing once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _signals(events: _Events, *, has_window: bool) -> Iterator[None]:
    """Have signals come as events: an exception in the middle of drawing would leave the terminal as it is."""

    def put(number: int, _frame: FrameType | None) -> None:
        events.put(_Event.RESIZED if number == signal.SIGWINCH else _Event.TOLD_TO_END)

    heard = [signal.SIGINT, signal.SIGTERM, *([signal.SIGWINCH] if has_window else [])]
    before = {number: signal.signal(number, put) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
