"""What ``adjourn adopt`` says: a look as lines and as an object, steps as lines."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from services.adoption.indexes import MOST_NAMED
from services.adoption.look import Look
from services.adoption.step import Found, Step
from services.adoption.steps import STEPS
from services.timeouts import Timeouts, format_duration
from services.wording import how_many, iso, span

_WIDTH = max(len(step.name) for step in STEPS)


def look_lines(seen: Look) -> Iterator[str]:
    """Yield what was found, for a person."""
    yield from _table_lines(seen.found)
    yield timeouts_line(seen.found.choices.timeouts)
    if seen.found.rows is not None:
        yield from _row_lines(seen.found)
    for note in seen.notes:
        yield f"note: {note}"
    yield ""
    for number, step in enumerate(STEPS, 1):
        to_do = step.to_do(seen.found)
        yield f"{number:>2}. {step.name:<{_WIDTH}}  {'done' if to_do is None else to_do}"
        if to_do is not None:
            yield f"{'':{_WIDTH + 6}}lock: {step.lock}"
    yield ""
    yield from verdict_lines(seen)


def timeouts_line(timeouts: Timeouts) -> str:
    """Return by which timeouts rows without deadlines are filled, and where they come from."""
    idle, expiry = format_duration(timeouts.idle), format_duration(timeouts.expiry)
    return (
        f"rows without deadlines: idle timeout {idle} (BACKGROUND_TASK_IDLE_TIMEOUT), expire after {expiry} "
        "(BACKGROUND_TASK_EXPIRE_AFTER)"
    )


def verdict_lines(seen: Look) -> Iterator[str]:
    """Yield what is in the way, each with its advice, and whether adoption can go on."""
    for blocker in seen.blockers:
        yield f"BLOCKED: {blocker.text}"
        yield from (f"    {line}" for line in blocker.advice.splitlines())
    if not seen.blockers:
        is_done = all(step.to_do(seen.found) is None for step in STEPS)
        yield "adopted; nothing is left to be done" if is_done else "nothing is in the way of adopting it"


def begin_line(step: Step) -> str:
    """Return that a step begins."""
    return f"{STEPS.index(step) + 1:>2}. {step.name}"


def done_line(done: str | None, seconds: float) -> str:
    """Return what a step did."""
    took = f" ({span(timedelta(seconds=seconds))})" if done is not None else ""
    return f"    {done or 'nothing to do'}{took}"


def waiting_line(blockers: Sequence[str]) -> str:
    """Return whom a step waits for."""
    return f"    waiting for {', '.join(blockers)}"


def look_object(seen: Look) -> dict[str, Any]:
    """Return what was found, for programs."""
    found = seen.found
    facts, rows, overdue, duplicates = found.facts, found.rows, found.overdue, found.duplicates
    return {
        "can_adopt": not seen.blockers,
        "now": iso(found.now),
        "table": {
            "schema": facts.schema,
            "owner": facts.owner,
            "table_bytes": facts.table_size,
            "indexes_bytes": facts.indexes_size,
            "rows": None if rows is None else rows.count,
            "statuses": None
            if rows is None
            else [{"status": status, "rows": count} for status, count in rows.statuses.items()],
        },
        "timeouts": {
            "idle_seconds": found.choices.timeouts.idle.total_seconds(),
            "expiry_seconds": found.choices.timeouts.expiry.total_seconds(),
        },
        "began_at": None if found.book is None else iso(found.book.began_at),
        "adopted_at": None if found.book is None else iso(found.book.adopted_at),
        "blockers": [{"kind": one.kind, "text": one.text, "advice": one.advice} for one in seen.blockers],
        "notes": seen.notes,
        "steps": [
            {"name": step.name, "is_done": (to_do := step.to_do(found)) is None, "to_do": to_do, "lock": step.lock}
            for step in STEPS
        ],
        "would_end": None
        if overdue is None
        else {
            "count": overdue.count,
            "statuses": dict(overdue.statuses),
            "overdue_for": dict(overdue.ages),
            "lively": overdue.lively,
        },
        "duplicates": None
        if duplicates is None
        else {
            "session_keys": len(duplicates),
            "first": [[str(conv_id) for conv_id in one.conv_ids] for one in duplicates[:MOST_NAMED]],
        },
    }


def _table_lines(found: Found) -> Iterator[str]:
    facts = found.facts
    rows = f"about {how_many(facts.estimated_rows)}" if facts.estimated_rows >= 0 else "an unknown number of"
    counted = rows if found.rows is None else how_many(found.rows.count)
    yield (
        f"{facts.schema}.conversations of {facts.owner}: {counted} rows, {_size(facts.table_size)} and "
        f"{_size(facts.indexes_size)} of indexes"
    )


def _row_lines(found: Found) -> Iterator[str]:
    if found.rows is not None:
        statuses = (f"{how_many(count)} {status or 'NULL'}" for status, count in found.rows.statuses.items())
        yield f"statuses: {', '.join(statuses) or 'none'}"
    if found.duplicates:
        yield f"session keys with more than one active conversation: {how_many(len(found.duplicates))}"
        for one in found.duplicates[:MOST_NAMED]:
            yield f"    {' '.join(str(conv_id) for conv_id in one.conv_ids)}"
    if found.overdue is not None and found.overdue.count:
        statuses = (f"{how_many(count)} as {status}" for status, count in sorted(found.overdue.statuses.items()))
        yield f"would end at once: {how_many(found.overdue.count)}, {' and '.join(statuses)}; overdue"
        for age, count in found.overdue.ages.items():
            yield f"    {age:<16} {how_many(count):>12}"
        yield f"    of these with activity within the idle timeout: {how_many(found.overdue.lively)}"
    elif found.overdue is not None:
        yield "would end at once: none"


def _size(size: int) -> str:
    return f"{size / 1024**2:,.1f} MiB"
