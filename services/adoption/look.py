"""A look at the table, in a transaction that can change nothing."""

from dataclasses import dataclass

from sqlalchemy import Connection

from services.adoption.blockers import Blocker, Finding, shape_blockers
from services.adoption.book import read_book
from services.adoption.duplicates import find_duplicates
from services.adoption.facts import Facts, read_facts
from services.adoption.limits import lift_time_limits
from services.adoption.notes import find_notes
from services.adoption.platform_checks import judge_checks
from services.adoption.platform_defaults import judge_defaults
from services.adoption.platform_triggers import note_triggers
from services.adoption.platform_uniques import judge_uniques
from services.adoption.reach import reach_blockers
from services.adoption.row_blockers import row_blockers
from services.adoption.rows import read_overdue, read_rows
from services.adoption.step import Choices, Found
from services.adoption.taken_names import name_blockers
from services.database import current_time
from services.errors import InvalidValueError
from services.foreign_writers import is_installed
from services.migrations import installed_revision, known_revisions


@dataclass(frozen=True, slots=True)
class Look:
    """What was found, and what it means for an adoption."""

    found: Found
    blockers: list[Blocker]
    notes: list[str]


def look(connection: Connection, choices: Choices) -> Look:
    """Return what is there, as of one instant.

    It takes no lock but the one that each SELECT has, which only a change of the table's definition waits for.

    Raises InvalidValueError where there is nothing to adopt: another database, no table, or one of Adjourn's own.
    """
    require_postgresql(connection)
    connection.rollback()
    connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    try:
        with connection.begin():
            lift_time_limits(connection, locally=True)
            return _look(connection, choices)
    finally:
        connection.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=False)


def require_postgresql(connection: Connection) -> None:
    """Raise InvalidValueError on another database."""
    if connection.dialect.name != "postgresql":
        raise InvalidValueError(
            f"adopt: {connection.dialect.name} is not supported, only PostgreSQL is; there, adjourn migrate makes the "
            "tables, into which you copy your rows"
        )


def _look(connection: Connection, choices: Choices) -> Look:
    facts = read_facts(connection)
    if facts is None:
        raise InvalidValueError("adopt: there is no table conversations to adopt; to make one: adjourn migrate")
    book, revision = read_book(connection), installed_revision(connection)
    if revision is not None and book is None:
        raise InvalidValueError("adopt: conversations is Adjourn's own already, nothing is to be adopted")
    if revision is not None and revision != known_revisions()[0]:
        raise InvalidValueError(f"adopt: it was adopted, and is at revision {revision}; run: adjourn migrate")
    now = current_time(connection)
    blockers = [
        *shape_blockers(facts),
        *reach_blockers(facts, foreign_writers=choices.foreign_writers),
        *name_blockers(facts, book),
    ]
    rows = duplicates = overdue = None
    rules: list[Finding] = []
    if not blockers:
        rows = read_rows(connection, facts)
        blockers = row_blockers(rows)
        duplicates = find_duplicates(connection, facts)
        if not blockers:
            overdue = read_overdue(connection, facts, timeouts=choices.timeouts, now=now)
        rules = _judge_rules(connection, facts)
    found = Found(now, choices, facts, book, revision, is_installed(connection), rows, duplicates, overdue)
    notes = [
        *find_notes(facts, rows),
        *note_triggers(connection, fills=rows is None or bool(rows.to_fill)),
        *(rule for rule in rules if isinstance(rule, str)),
    ]
    # A rule may refuse what mends the rows.
    return Look(found, [*(rule for rule in rules if isinstance(rule, Blocker)), *blockers], notes)


def _judge_rules(connection: Connection, facts: Facts) -> list[Finding]:
    """Return what the platform's own rules for the table mean for Adjourn."""
    return [*judge_checks(connection, facts), *judge_defaults(connection), *judge_uniques(connection, facts)]
