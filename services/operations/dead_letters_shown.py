"""Dead letters as text for people and as objects for programs."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from services.operations.dead_letters import Address, DeadLetter, DeadLetters
from services.values import text_of
from services.wording import clock, distance, instant, iso, place

#: How much of an id is shown to people. Of a UUID, that is 48 random bits: of 100,000 letters, no two are likely to
#: share them.
_SHORT_ID = 13
_UUID = 36
#: How many mappings and lists of a message lie in each other, of those that are shown.
_DEEPEST_SHOWN = 100
_UNKNOWN = "unknown"


def table_lines(found: DeadLetters, *, width: int | None = None) -> Iterator[str]:
    """Yield two lines a letter, none of them longer than ``width`` if that is given."""
    shared = Counter(_beginning(letter.address) for letter in found.letters)
    rows = [("id", "queue", "actor", "died (UTC)")]
    for letter in found.letters:
        address, died = letter.address, _UNKNOWN
        if letter.died_at is not None:
            died = f"{clock(letter.died_at, now=found.now)}, {distance(letter.died_at, now=found.now)}"
        name = _beginning(address) if shared[_beginning(address)] == 1 else address.id
        rows.append((name, address.queue, letter.actor or _UNKNOWN, died))
    first, *others = rows
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    yield _fit(_row(first, widths), width)
    for row, letter in zip(others, found.letters, strict=True):
        slot = "" if letter.slot is None else f"slot {clock(letter.slot, now=found.now)}: "
        yield _fit(_row(row, widths), width)
        yield _fit(f"    {slot}{letter.why}", width)
    if found.total > len(found.letters):
        yield f"the newest {len(found.letters):,} of {found.total:,}; --limit shows more"


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(wide) for cell, wide in zip(cells, [*widths, 0], strict=True))


def _fit(line: str, width: int | None) -> str:
    return line if width is None or len(line) <= width else f"{line[: width - 1]}…"


def _beginning(address: Address) -> str:
    """Return what is enough to name it: the beginning of a UUID, the whole of any other id."""
    return address.id[:_SHORT_ID] if len(address.id) == _UUID else address.id


def letter_lines(letter: DeadLetter, *, now: datetime) -> Iterator[str]:
    """Yield all about one letter."""
    yield f"{'id':<10} {letter.address.id}"
    yield f"{'queue':<10} {letter.address.queue}"
    yield f"{'actor':<10} {letter.actor or _UNKNOWN}"
    if letter.slot is not None:
        yield f"{'slot':<10} {instant(letter.slot, now=now)}"
    yield f"{'died':<10} {instant(letter.died_at, now=now)}"
    yield f"{'forgotten':<10} {instant(letter.forgotten_from, now=now)}, or some time later"
    yield f"{'why':<10} {letter.why}"
    failure = letter.failure
    if failure is not None:
        yield f"{'noted by':<10} {place(failure.host, failure.pid)} at {instant(failure.at, now=now)}"
    if letter.message is not None:
        yield "message"
        yield _pretty(_showable(letter.message))
    elif letter.written is not None:
        yield f"message, {len(letter.written):,} bytes that begin with"
        yield text_of(letter.written) or ""


def _showable(value: Any, *, room: int = _DEEPEST_SHOWN) -> Any:
    """Return what Python read of JSON as JSON says it: without numbers that are none, and what is nested too deeply."""
    if isinstance(value, Mapping | list) and not room:
        return "..."
    if isinstance(value, Mapping):
        return {name: _showable(one, room=room - 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_showable(one, room=room - 1) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _pretty(value: object) -> str:
    """Return JSON for people: letters as they are, and what a terminal would take for an order as JSON writes it."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def letters_object(found: DeadLetters) -> dict[str, object]:
    """Return the list of them, without their messages, for JSON."""
    letters = [_summary(letter) for letter in found.letters]
    return {"now": iso(found.now), "total": found.total, "letters": letters}


def letter_object(letter: DeadLetter) -> dict[str, object]:
    """Return all about one letter, for JSON."""
    failure, is_read = letter.failure, letter.message is not None
    return {
        **_summary(letter),
        "forgotten_from": iso(letter.forgotten_from),
        "failure": failure
        and {
            "at": iso(failure.at),
            "actor": failure.actor,
            "error": failure.error,
            "host": failure.host,
            "pid": failure.pid,
        },
        "message": _showable(letter.message),
        "unreadable": None if is_read or letter.written is None else letter.written.decode(errors="backslashreplace"),
    }


def _summary(letter: DeadLetter) -> dict[str, object]:
    return {
        "id": letter.address.id,
        "queue": letter.address.queue,
        "actor": letter.actor,
        "slot": iso(letter.slot),
        "died_at": iso(letter.died_at),
        "why": letter.why,
    }
