"""The step that adds the constraints, NOT NULLs and the trigger by which the table refuses what is not true."""

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from services.adoption import locks, wanted
from services.adoption.book import Added, enter
from services.adoption.facts import Facts
from services.adoption.fill import count_incomplete
from services.adoption.reopened import take_back_ends
from services.adoption.row_blockers import row_blockers
from services.adoption.rows import read_rows
from services.adoption.step import Found, Step, Work
from services.adoption.stopped import AdoptionStoppedError
from services.adoption.triggers import make_trigger
from services.errors import first_line
from services.wording import counted

#: How the CHECKs are called that stand in for a NOT NULL while the rows are read.
_STAND_IN = "adjourn_not_null_"


def _nullable(facts: Facts) -> list[str]:
    """Return the columns that lack their NOT NULL."""
    return [name for name in wanted.not_null_columns() if name in facts.columns and not facts.columns[name].not_null]


def _missing_checks(facts: Facts) -> list[str]:
    return [name for name in wanted.checks() if name not in facts.constraints]


def _to_do(found: Found) -> str | None:
    facts = found.facts
    unsure = [name for name in wanted.checks() if not facts.constraints.get(name, False)]
    nullable = [
        name for name in wanted.not_null_columns() if name not in facts.columns or not facts.columns[name].not_null
    ]
    parts = [f"add {', '.join(unsure)}"] if unsure else []
    parts += [f"NOT NULL of {', '.join(nullable)}"] if nullable else []
    parts += [f"the trigger {wanted.STAY_ENDED}"] if wanted.STAY_ENDED not in facts.triggers else []
    return "; ".join(parts) or None


def _constrain(work: Work) -> str | None:
    facts = work.facts()
    nullable = _nullable(facts)
    valid = [name for name in wanted.checks() if facts.constraints.get(name, False)]
    if not nullable and len(valid) == len(wanted.checks()) and wanted.STAY_ENDED in facts.triggers:
        return take_back_ends(work)
    _require_good_rows(work, facts)
    work.briefly(lambda connection: _add_unproved(connection, facts, nullable), mode=locks.ACCESS_EXCLUSIVE)
    work.patiently(lambda connection: _prove(connection, nullable))
    work.briefly(lambda connection: _settle(connection, facts, nullable), mode=locks.ACCESS_EXCLUSIVE)
    done = f"{len(wanted.checks())} constraints, NOT NULL of {counted(len(nullable), 'column')}, {wanted.STAY_ENDED}"
    # Now that nothing can be opened again.
    return "; ".join(filter(None, (done, take_back_ends(work))))


def _require_good_rows(work: Work, facts: Facts) -> None:
    """Look before the constraints are there, because from then on a row that breaks one can hardly be changed."""
    found = row_blockers(work.patiently(lambda connection: read_rows(connection, facts)))
    if found:
        raise AdoptionStoppedError(
            f"since the first look writers have made what Adjourn cannot go on with: "
            f"{'; '.join(one.text for one in found)}; see: adjourn adopt --check"
        )
    if incomplete := work.patiently(count_incomplete):
        raise AdoptionStoppedError(
            f"{counted(incomplete, 'row')} written since the fill without session_key, idle_at, expires_at or "
            "ended_at: the application has to give them, or leave out --no-foreign-writers"
        )


def _add_unproved(connection: Connection, facts: Facts, nullable: list[str]) -> None:
    """Add them for what is written from now on: no row is read."""
    missing = _missing_checks(facts)
    enter(connection, Added.CONSTRAINTS, missing)
    clauses = [wanted.checks()[name] for name in missing]
    clauses += [
        f"ADD CONSTRAINT {_STAND_IN}{name} CHECK ({name} IS NOT NULL) NOT VALID"
        for name in nullable
        if f"{_STAND_IN}{name}" not in facts.constraints
    ]
    if clauses:
        connection.exec_driver_sql(f"ALTER TABLE conversations {', '.join(clauses)}")


def _prove(connection: Connection, nullable: list[str]) -> None:
    """Read every row once, while writers go on."""
    names = [*wanted.checks(), *(f"{_STAND_IN}{name}" for name in nullable)]
    try:
        connection.exec_driver_sql(
            f"ALTER TABLE conversations {', '.join(f'VALIDATE CONSTRAINT {name}' for name in names)}"
        )
    except IntegrityError as error:
        raise AdoptionStoppedError(
            f"a row that was written since the last look breaks a constraint: {first_line(error)}; "
            "see: adjourn adopt --check"
        ) from None


def _settle(connection: Connection, facts: Facts, nullable: list[str]) -> None:
    """Take the proof for NOT NULL instead of reading the rows under this lock, and drop what stood in for it."""
    if nullable:
        enter(connection, Added.NOT_NULLS, nullable)
        not_nulls = ", ".join(f"ALTER COLUMN {name} SET NOT NULL" for name in nullable)
        connection.exec_driver_sql(f"ALTER TABLE conversations {not_nulls}")
        drops = ", ".join(f"DROP CONSTRAINT {_STAND_IN}{name}" for name in nullable)
        connection.exec_driver_sql(f"ALTER TABLE conversations {drops}")
    if wanted.STAY_ENDED not in facts.triggers:
        make_trigger(connection, wanted.STAY_ENDED)


def stand_ins(facts: Facts) -> list[str]:
    """Return the constraints that stand in for a NOT NULL, left behind by an adoption that was cut short."""
    return [name for name in facts.constraints if name.startswith(_STAND_IN)]


CONSTRAINTS = Step(
    "constraints",
    "ACCESS EXCLUSIVE twice, for milliseconds: no row is read under it. In between SHARE UPDATE EXCLUSIVE, while every "
    "row is read and writers go on",
    _to_do,
    _constrain,
)
