"""The steps that find duplicates of a session key and make the indexes."""

import time

from sqlalchemy.exc import IntegrityError

from services.adoption import wanted
from services.adoption.book import Added, enter
from services.adoption.duplicates import Duplicate, close_all_but_the_latest, find_duplicates
from services.adoption.facts import Facts
from services.adoption.quoting import quote_ident
from services.adoption.step import Found, Step, Work
from services.adoption.stopped import AdoptionStoppedError
from services.wording import counted

#: The index that has room for one active conversation of a session key.
UNIQUE = next(iter(wanted.indexes()))
#: How many duplicates are named.
MOST_NAMED = 10
#: Duplicates closed in one transaction.
_CLOSED_AT_ONCE = 100
#: How often the unique index is tried while duplicates are closed: a writer may make one in between.
_TRIES = 3


def missing_indexes(facts: Facts) -> list[str]:
    """Return the indexes that are not there, or were left unfinished."""
    return [name for name in wanted.indexes() if name not in facts.indexes or not facts.indexes[name].valid]


def _duplicates_to_do(found: Found) -> str | None:
    if found.duplicates is None:
        return "unknown before what blocks is mended"
    if not found.duplicates:
        return None
    verb = "close all but the one with the latest activity" if found.choices.close_duplicates else "stop here"
    return f"{verb}: {counted(len(found.duplicates), 'session key')} with more than one active conversation"


def _see_to_duplicates(work: Work) -> str | None:
    facts = work.facts()
    if UNIQUE not in missing_indexes(facts):
        return None
    duplicates = work.patiently(lambda connection: find_duplicates(connection, facts))
    if not duplicates:
        return None
    if not work.choices.close_duplicates:
        raise AdoptionStoppedError(_told(duplicates))
    count = 0
    for start in range(0, len(duplicates), _CLOSED_AT_ONCE):
        some = duplicates[start : start + _CLOSED_AT_ONCE]
        count += work.briefly(lambda connection, some=some: close_all_but_the_latest(connection, some))  # type: ignore[misc]
    return f"closed {counted(count, 'duplicate')} of {counted(len(duplicates), 'session key')}"


def _told(duplicates: list[Duplicate]) -> str:
    named = "".join(
        f"\n  {' '.join(str(conv_id) for conv_id in duplicate.conv_ids)}" for duplicate in duplicates[:MOST_NAMED]
    )
    which = "the first ten, " if len(duplicates) > MOST_NAMED else ""
    return (
        f"{counted(len(duplicates), 'session key')} with more than one active conversation ({which}the one with the "
        f"latest activity first):{named}\nclose all but one of each, or have it done with --close-duplicates, and run "
        "the same again: it goes on from here"
    )


def _indexes_to_do(found: Found) -> str | None:
    missing = missing_indexes(found.facts)
    return f"make {', '.join(missing)}" if missing else None


def _make_indexes(work: Work) -> str | None:
    missing = missing_indexes(work.facts())
    if not missing:
        return None
    work.patiently(lambda connection: enter(connection, Added.INDEXES, missing))
    for name in missing:
        _make_index(work, name)
    return f"made {', '.join(missing)}"


def _make_index(work: Work, name: str) -> None:
    # With its schema: another one in the search path may have an index of that name.
    drop = f"DROP INDEX CONCURRENTLY IF EXISTS {quote_ident(work.facts().schema)}.{name}"
    for tries_left in reversed(range(_TRIES)):
        with work.outside_transactions() as connection:
            # One that was not finished takes room and time at each write, and is of no use.
            connection.exec_driver_sql(drop)
            try:
                connection.exec_driver_sql(wanted.indexes()[name])
            except IntegrityError:
                # Even unfinished it would refuse what writers do.
                connection.rollback()
                connection.exec_driver_sql(drop)
            else:
                return
        # It stops here, unless duplicates are to be closed.
        _see_to_duplicates(work)
        time.sleep(work.pause if tries_left else 0)
    raise AdoptionStoppedError(
        f"{name} cannot be made: writers open conversations on session keys that have an active one, again and again"
    )


DUPLICATES = Step(
    "duplicates", "none, or those of the single rows that are closed", _duplicates_to_do, _see_to_duplicates
)
INDEXES = Step(
    "indexes",
    "SHARE UPDATE EXCLUSIVE (made CONCURRENTLY): readers and writers go on; it waits for transactions that are older",
    _indexes_to_do,
    _make_indexes,
)
