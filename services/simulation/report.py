"""A simulation as people and programs read it: a table, one JSON object, or a line of JSON a conversation."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from services.errors import InvalidValueError
from services.settings import load_settings
from services.simulation import history
from services.simulation.history import STANDARD_INPUT, replayable
from services.simulation.outcomes import Distribution, EndedConversation, Outcome
from services.simulation.replay import compare, replayed
from services.timeouts import Timeouts, format_duration, parse_duration

#: A table for people, a column for each idle timeout; one object with a list of results; or an object a conversation.
OutputFormat = Literal["table", "json", "jsonl"]

#: From this size on, in bytes, a history is replayed by several processes, and by how many at most.
LARGE_HISTORY = 300_000
MOST_PROCESSES = 8

#: Wide enough that no row is folded where there is no terminal to fit.
_WIDTH_OF_A_FILE = 1_000
_PERCENTILES = ("p50", "p90", "p99", "max")


def print_simulation(
    path: Path,
    *,
    idle_timeouts: Sequence[str],
    expire_after: str,
    output: OutputFormat = "table",
    database: str | None = None,
) -> None:
    """Replay the history at ``path`` once for each idle timeout and print what came of it on standard output.

    Raises HistoryError, and InvalidValueError which names the option and says what would be right.
    """
    choices = _choices(idle_timeouts, expire_after)
    if database is not None:
        database = load_settings().reach(database).render_as_string(hide_password=False)
    if output == "jsonl" and len(choices) > 1:
        raise InvalidValueError(
            f"--format jsonl prints the conversations of one idle timeout, not of {len(choices)}; "
            "give one --idle-timeout, or --format json"
        )
    with replayable(path) as file:
        if output == "jsonl":
            _print_conversations(file, choices[0], database)
            return
        outcomes = compare(file, choices=choices, database=database, progress=progress_bar, processes=_processes(file))
    name = "standard input" if path == STANDARD_INPUT else path.name
    if output == "json":
        print(json_text(outcomes, history_name=name))  # noqa: T201 - what was asked for
    else:
        print_table(outcomes, history_name=name)


def print_table(outcomes: Sequence[Outcome], *, history_name: str, stream: TextIO | None = None) -> None:
    """Print the outcomes of one history side by side, on standard output unless told otherwise."""
    stream = stream or sys.stdout
    first = outcomes[0]
    table = Table(
        title=Text(
            f"{history_name}: {first.messages:,} messages, expiry after {format_duration(first.timeouts.expiry)}"
        ),
        title_justify="left",
    )
    table.add_column("idle timeout")
    for outcome in outcomes:
        table.add_column(format_duration(outcome.timeouts.idle), justify="right")
    for name, *values in zip(_row_names(first), *(_row_values(outcome) for outcome in outcomes), strict=True):
        # A name without values is the heading of a section.
        if not any(values):
            table.add_section()
        table.add_row(name, *values)
    Console(file=stream, width=None if stream.isatty() else _WIDTH_OF_A_FILE, highlight=False).print(table)


def json_text(outcomes: Sequence[Outcome], *, history_name: str) -> str:
    """Return the outcomes of one history as one JSON object; durations are in seconds."""
    report = {
        "history": history_name,
        "messages": outcomes[0].messages,
        "results": [_result(outcome) for outcome in outcomes],
    }
    return json.dumps(report, ensure_ascii=False, indent=2)


def json_lines(conversations: Iterable[EndedConversation]) -> Iterator[str]:
    """Yield each conversation as a JSON object on one line; instants are in whole seconds, cut off."""
    for conversation in conversations:
        line = {
            "session_key": conversation.session_key,
            "opened_at": _instant(conversation.opened_at),
            "last_activity_at": _instant(conversation.last_activity_at),
            "deadline": _instant(conversation.deadline),
            "status": conversation.status.value,
            "messages": conversation.messages,
        }
        yield json.dumps(line, ensure_ascii=False)


@contextmanager
def progress_bar(timeouts: Timeouts) -> Iterator[history.Progress]:
    """Show a bar on standard error, if that is a terminal, until the replay has read its history."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("replaying with idle timeout {task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(format_duration(timeouts.idle), total=1.0)

        def tell(fraction: float) -> None:
            bar.update(task, completed=fraction)
            if fraction >= 1:
                # What is printed next may go to the same terminal.
                bar.stop()

        yield tell


def _choices(idle_timeouts: Sequence[str], expire_after: str) -> list[Timeouts]:
    """Return the timeouts that the options say, each pair once."""
    expiry = _duration("--expire-after", expire_after)
    idles = dict.fromkeys(_duration("--idle-timeout", value) for value in idle_timeouts)
    return [Timeouts(idle=idle, expiry=expiry) for idle in idles]


def _duration(option: str, value: str) -> timedelta:
    try:
        return parse_duration(value)
    except InvalidValueError as error:
        raise InvalidValueError(f"{option}: {error}") from None


def _processes(file: Path) -> int:
    """Return how many processes pay: a history that is soon read is done before others have started."""
    if not file.is_file() or file.stat().st_size < LARGE_HISTORY:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_PROCESSES)


def _print_conversations(file: Path, timeouts: Timeouts, database: str | None) -> None:
    with (
        progress_bar(timeouts) as tell,
        replayed(file, timeouts=timeouts, database=database, progress=tell, processes=_processes(file)) as replay,
    ):
        for line in json_lines(replay.conversations()):
            print(line)  # noqa: T201 - what was asked for


def _row_names(outcome: Outcome) -> list[str]:
    return [
        "conversations",
        "ended idle",
        "ended expired",
        "duration, opening to last activity",
        *(f"  {name}" for name in _PERCENTILES),
        "messages a conversation",
        *(f"  {name}" for name in _PERCENTILES),
        "cut short: the customer wrote again within",
        *(f"  {_minutes(cut.within)} min" for cut in outcome.cut_short),
    ]


def _row_values(outcome: Outcome) -> list[str]:
    return [
        f"{outcome.conversations:,}",
        _share(outcome.ended_idle, outcome),
        _share(outcome.ended_expired, outcome),
        "",
        *(format_duration(timedelta(seconds=seconds)) for seconds in _values(outcome.duration)),
        "",
        *(f"{count:,}" for count in _values(outcome.messages_a_conversation)),
        "",
        *(_share(cut.count, outcome) for cut in outcome.cut_short),
    ]


def _result(outcome: Outcome) -> dict[str, object]:
    return {
        "idle_timeout_seconds": outcome.timeouts.idle.total_seconds(),
        "expire_after_seconds": outcome.timeouts.expiry.total_seconds(),
        "conversations": outcome.conversations,
        "ended": {"idle_timeout": outcome.ended_idle, "expired": outcome.ended_expired},
        "duration_seconds": asdict(outcome.duration),
        "messages_a_conversation": asdict(outcome.messages_a_conversation),
        "cut_short": {f"within_{_minutes(cut.within)}m": cut.count for cut in outcome.cut_short},
    }


def _values(distribution: Distribution) -> list[float]:
    return [getattr(distribution, name) for name in _PERCENTILES]


def _share(count: int, outcome: Outcome) -> str:
    return f"{count:,} ({count / outcome.conversations:.1%})"


def _minutes(within: timedelta) -> int:
    return within // timedelta(minutes=1)


def _instant(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
