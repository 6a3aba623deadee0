"""What ``adjourn dead-letters`` prints, and whether all was done that was asked for."""

# ruff: noqa: T201 - what was asked for

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import redis

from services.arguments import require_text
from services.errors import InvalidValueError
from services.operations.asking import asking
from services.operations.dead_letters import (
    Address,
    find_letters,
    newest_letters,
    queues_with_letters,
    read_letter,
)
from services.operations.dead_letters_control import Act, Outcome, act_on, act_on_all, drop, requeue
from services.operations.dead_letters_shown import letter_lines, letter_object, letters_object, table_lines
from services.settings import load_settings
from services.values import text_of

#: How many of the letters that an id may mean are named.
_MOST_NAMED = 5


def print_letters(*, queue: str | None, limit: int, as_json: bool) -> None:
    """Print the newest dead letters, ``limit`` at most, of one queue or of all. Raises AdjournError."""
    with _asking(queue) as (client, queues):
        found = newest_letters(client=client, queues=queues, limit=limit)
    if as_json:
        print(json.dumps(letters_object(found), indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(table_lines(found, width=width)) if found.letters else _none_in(queue))


def print_letter(wanted: str, *, queue: str | None, as_json: bool) -> None:
    """Print all about the dead letter that ``wanted`` names. Raises AdjournError, also unless it names exactly one."""
    _check_ids([wanted])
    with _asking(queue) as (client, queues):
        named = find_letters(client=client, queues=queues, wanted=[wanted])[wanted]
        letter = read_letter(client=client, address=named[0]) if len(named) == 1 else None
        seconds, _ = client.time()
    if letter is None:
        raise InvalidValueError(_not_one(wanted, named if len(named) > 1 else []))
    if as_json:
        print(json.dumps(letter_object(letter), indent=2))
    else:
        print("\n".join(letter_lines(letter, now=datetime.fromtimestamp(seconds, UTC))))


def print_requeue(wanted: Sequence[str], *, queue: str | None) -> bool:
    """Put the dead letters that are ``wanted``, or all when none is, back into their queue; print what became of each.

    Returns whether all that was asked for is done. Raises AdjournError.
    """
    return _print_act(requeue, "requeued", wanted, queue=queue)


def print_drop(wanted: Sequence[str], *, queue: str | None) -> bool:
    """Remove the dead letters that are ``wanted``, or all when none is, for good; as above."""
    return _print_act(drop, "dropped", wanted, queue=queue)


def count_letters(queue: str | None) -> int:
    """Return how many dead letters there are. Raises AdjournError."""
    with _asking(queue) as (client, queues):
        return newest_letters(client=client, queues=queues, limit=1).total


def _print_act(act: Act, word: str, wanted: Sequence[str], *, queue: str | None) -> bool:
    done = failed = 0
    for is_done, line in _act(act, word, wanted, queue=queue):
        if is_done:
            done += 1
            print(line)
        else:
            failed += 1
            print(f"adjourn: {line}", file=sys.stderr)
    print(f"{done:,} {word}" if done or failed else _none_in(queue))
    return not failed


def _act(act: Act, word: str, wanted: Sequence[str], *, queue: str | None) -> Iterator[tuple[bool, str]]:
    """Do it, and yield of each letter whether it is done, and a line that says so or why not."""
    _check_ids(wanted)
    with _asking(queue) as (client, queues):
        if wanted:
            named = find_letters(client=client, queues=queues, wanted=wanted)
            yield from ((False, _not_one(one, letters)) for one, letters in named.items() if len(letters) != 1)
            # A set: once, by however many beginnings it was named.
            addresses = {letters[0] for letters in named.values() if len(letters) == 1}
            outcomes = act_on(act, client=client, addresses=addresses)
        else:
            outcomes = act_on_all(act, client=client, queues=queues)
        for address, outcome in outcomes:
            if outcome is Outcome.DONE:
                yield True, f"{word} {address.id} of {address.queue}"
            # Of all that there were, one that somebody else saw to needs no word.
            elif wanted or outcome is not Outcome.GONE:
                yield False, _not_done(address, outcome)


@contextmanager
def _asking(queue: str | None) -> Iterator[tuple[redis.Redis, Sequence[str]]]:
    if queue is not None:
        require_text("--queue", queue)
    with asking(load_settings()) as client:
        yield client, queues_with_letters(client) if queue is None else [queue]


def _check_ids(wanted: Iterable[str]) -> None:
    # The beginning of every id: a variable of a script that was not set.
    if "" in wanted:
        raise InvalidValueError("an empty id names no dead letter; see: adjourn dead-letters list")


def _not_one(wanted: str, letters: Sequence[Address]) -> str:
    """Say why an id does not name one letter."""
    if not letters:
        return f"no dead letter has the id {text_of(wanted)}, or one that begins so"
    named = ", ".join(f"{one.id} of {one.queue}" for one in letters[:_MOST_NAMED])
    more = f" and {len(letters) - _MOST_NAMED:,} more" if len(letters) > _MOST_NAMED else ""
    return f"{text_of(wanted)} may be any of {len(letters):,} dead letters: {named}{more}"


def _not_done(address: Address, outcome: Outcome) -> str:
    if outcome is Outcome.GONE:
        return f"{address.id} is gone: somebody else has requeued or dropped it"
    return f"{address.id} is not requeued: no worker could read it; to drop it: adjourn dead-letters drop {address.id}"


def _none_in(queue: str | None) -> str:
    return "there are no dead letters" if queue is None else f"there are no dead letters of the queue {text_of(queue)}"
