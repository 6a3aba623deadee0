"""The screen of the demo: one frame that is kept up to date on a terminal, a line now and then anywhere else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from models.conversation import ConversationStatus
from services.demo.figures import Ending, Figures
from services.timeouts import Timeouts

#: The frame is as wide as a plain terminal and no wider, so that it looks the same on all.
WIDTH = 80
#: Lines of the frame besides the last endings.
_FIXED_LINES = 13
_MOST_ENDINGS = 8
#: Where there is no terminal: seconds from line to line.
LINE_INTERVAL = 5.0
_MINUTE = 60
#: Columns of the line of bars that are something else.
_BESIDE_BARS = 28
#: Characters of a number that are shown, at its beginning and its end.
_SHOWN_FIRST, _SHOWN_LAST = 5, 2

# The sixteen colours that a terminal's own theme keeps readable, without yellow and blue: those fail on light and dark.
_LOOKS = {ConversationStatus.IDLE_TIMEOUT: ("idle", "cyan"), ConversationStatus.EXPIRED: ("expired", "magenta")}
_BARS = " ▁▂▃▄▅▆▇█"
_ASCII_BARS = " .:-=+*#@"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo is about to do."""

    timeouts: Timeouts
    duration: timedelta
    #: How many seconds of the customers' time one second of the demo is.
    scale: float


@dataclass(frozen=True, slots=True)
class Moment:
    """What is shown at one time."""

    figures: Figures
    #: Since the start.
    elapsed: timedelta


@contextmanager
def open_screen(console: Console, plan: Plan) -> Iterator[Callable[[Moment], None]]:
    """Yield what shows a moment on ``console``; the last frame stays when it closes."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _show_lines(console, plan)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda moment: live.update(draw_frame(console, plan, moment), refresh=True)


def count_endings_shown(console: Console) -> int:
    """Return how many of the last endings a frame on ``console`` has room for."""
    return max(0, min(_MOST_ENDINGS, console.height - _FIXED_LINES - 1))


def draw_frame(console: Console, plan: Plan, moment: Moment) -> RenderableType:
    """Return the whole frame."""
    figures = moment.figures
    plain = console.options.ascii_only
    return Panel(
        Group(
            Text("Customers write in and walk away. Each conversation is ended on time, once."),
            Text(describe_pace(plan), "dim"),
            _draw_clock(plan, moment),
            Text(),
            _draw_counts(figures),
            Text(),
            Text.assemble(("how late    ", "dim"), (describe_lag(figures), "bold")),
            _draw_pace(figures, width=min(WIDTH, console.width), plain=plain),
            Text(),
            _draw_endings(figures.last_endings, plain=plain),
        ),
        title=Text("adjourn demo", "bold"),
        subtitle=_describe_stack(figures),
        border_style="dim",
        width=min(WIDTH, console.width),
        # The same from the first frame on: what moves should be the figures.
        height=min(_FIXED_LINES + count_endings_shown(console), console.height),
    )


def describe_lag(figures: Figures) -> str:
    """Return how late the endings were, in words."""
    if figures.lag_p50 is None or figures.lag_p99 is None or figures.lag_max is None:
        return "nothing has ended yet"
    return f"p50 {figures.lag_p50:.2f} s   p99 {figures.lag_p99:.2f} s   max {figures.lag_max:.2f} s"


def describe_pace(plan: Plan) -> str:
    """Return what the clock of the demo and its timeouts are, in words."""
    idle, expiry = (f"{each.total_seconds():g} s" for each in (plan.timeouts.idle, plan.timeouts.expiry))
    pace = "1 minute" if plan.scale == _MINUTE else f"{plan.scale:g} seconds"
    return f"1 second here is {pace} of theirs: idle after {idle}, expired after {expiry}."


def _show_lines(console: Console, plan: Plan) -> Callable[[Moment], None]:
    """Return what prints a line every few seconds, and first what the demo is about."""
    console.print(f"adjourn demo: {describe_pace(plan)}", soft_wrap=True, highlight=False)
    next_at = timedelta(seconds=LINE_INTERVAL)

    def show(moment: Moment) -> None:
        nonlocal next_at
        if moment.elapsed < next_at:
            return
        next_at += timedelta(seconds=LINE_INTERVAL)
        figures = moment.figures
        counts = f"open {figures.open}, due {figures.due}, idle {figures.idle}, expired {figures.expired}"
        line = f"{moment.elapsed.total_seconds():4.0f} s  {counts}, came back {figures.came_back}"
        console.print(f"{line}; late: {describe_lag(figures)}", soft_wrap=True, highlight=False)

    return show


def _draw_clock(plan: Plan, moment: Moment) -> Table:
    total = plan.duration.total_seconds()
    done = min(total, moment.elapsed.total_seconds())
    clock = Table.grid(padding=(0, 1), expand=True)
    clock.add_column(ratio=1)
    clock.add_column(justify="right")
    clock.add_row(
        ProgressBar(total=total, completed=done, style="dim", complete_style="green", finished_style="green"),
        Text(f"{total - done:.0f} s left"),
    )
    return clock


def _draw_counts(figures: Figures) -> Table:
    counts = Table.grid(expand=True)
    columns = [
        ("open", figures.open, "bold"),
        ("due now", figures.due, "bold"),
        ("ended idle", figures.idle, "bold cyan"),
        ("ended expired", figures.expired, "bold magenta"),
        ("came back", figures.came_back, "bold green"),
    ]
    for _ in columns:
        counts.add_column(justify="center", ratio=1)
    counts.add_row(*(Text(f"{count:,}", style) for _, count, style in columns))
    counts.add_row(*(Text(name, "dim") for name, _, _ in columns))
    return counts


def _draw_pace(figures: Figures, *, width: int, plain: bool) -> Text:
    counts = figures.endings_a_second[-max(1, width - _BESIDE_BARS) :]
    most = max(counts)
    bars = _ASCII_BARS if plain else _BARS
    # Rounded up: the lowest bar is for none.
    heights = (-(-count * (len(bars) - 1) // max(most, 1)) for count in counts)
    line = "".join(bars[height] for height in heights)
    return Text.assemble(("endings/s   ", "dim"), (line, "cyan"), (f"  most {most}", "dim"))


def _draw_endings(endings: Sequence[Ending], *, plain: bool) -> Table:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    for name, width in (("at", 8), ("customer", 13), ("channel", 9), ("of", 13), ("ended", 7)):
        table.add_column(name, no_wrap=True, min_width=width)
    for name in ("quiet for", "late by"):
        table.add_column(name, no_wrap=True, justify="right", min_width=len(name))
    for ending in endings:
        name, style = _LOOKS.get(ending.status, (ending.status.value, "bold"))
        table.add_row(
            f"{ending.ended_at.astimezone():%H:%M:%S}",
            mask_number(ending.number, "*" if plain else "•"),
            ending.channel,
            ending.owner_id,
            Text(name, style),
            f"{ending.quiet.total_seconds():.1f} s",
            f"{ending.lag.total_seconds():.2f} s",
        )
    return table


def mask_number(number: str, mark: str = "•") -> str:
    """Return ``number`` with its middle covered, all of it when it is short: a screen may be filmed."""
    covered = len(number) - _SHOWN_FIRST - _SHOWN_LAST
    return number[:_SHOWN_FIRST] + mark * covered + number[-_SHOWN_LAST:] if covered > 0 else mark * len(number)


def _describe_stack(figures: Figures) -> Text:
    up = "scheduler, worker and redis are up"
    if figures.swept_at is None:
        return Text(f"{up}; nothing has ended yet", "dim")
    ago = (figures.now - figures.swept_at).total_seconds()
    return Text(f"{up}; {figures.sweeps} sweeps with endings, last {ago:.1f} s ago", "dim")
