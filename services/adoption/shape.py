"""The steps that change the table's definition before its rows: missing columns, our other tables, the triggers."""

from sqlalchemy import Connection

from services import foreign_writers
from services.adoption import locks, wanted
from services.adoption.book import Added, enter, open_book
from services.adoption.facts import Facts
from services.adoption.reopened import take_back_ends
from services.adoption.step import Found, Step, Work

_LEFT_OUT = "left out: the application keeps session_key, idle_at, expires_at and ended_at itself"


def _book_to_do(found: Found) -> str | None:
    return None if found.book else "make the table adjourn_adoption, the record of what is added"


def _make_book(work: Work) -> str | None:
    def make(connection: Connection) -> None:
        open_book(connection)

    is_there = "adjourn_adoption" in work.facts().relations
    work.patiently(make)
    return None if is_there else "adjourn_adoption made"


def _missing_columns(facts: Facts) -> list[str]:
    return [name for name in wanted.columns() if name not in facts.columns]


def _missing_defaults(facts: Facts) -> list[str]:
    """Return columns of the platform's that lack the default with which rows may leave them out."""
    there = [name for name in wanted.columns() if wanted.default_clause(name) and name in facts.columns]
    return [name for name in there if not facts.columns[name].may_be_left_out]


def _columns_to_do(found: Found) -> str | None:
    missing, defaults = _missing_columns(found.facts), _missing_defaults(found.facts)
    parts = [f"add {', '.join(missing)}"] if missing else []
    parts += [f"give {', '.join(defaults)} a default"] if defaults else []
    return "; ".join(parts) or None


def _add_columns(work: Work) -> str | None:
    """Add what is missing. Without NOT NULL, and with constants for defaults: no row is written for it."""
    facts = work.facts()
    missing, defaults = _missing_columns(facts), _missing_defaults(facts)
    if not missing and not defaults:
        return None

    def add(connection: Connection) -> None:
        enter(connection, Added.COLUMNS, missing)
        enter(connection, Added.DEFAULTS, defaults)
        clauses = [f"ADD COLUMN {wanted.column_clause(name)}" for name in missing]
        clauses += [f"ALTER COLUMN {name} SET{wanted.default_clause(name)}" for name in defaults]
        connection.exec_driver_sql(f"ALTER TABLE conversations {', '.join(clauses)}")

    work.briefly(add, mode=locks.ACCESS_EXCLUSIVE)
    return "; ".join(
        [
            *([f"added {', '.join(missing)}"] if missing else []),
            *([f"gave {', '.join(defaults)} a default"] if defaults else []),
        ]
    )


def _missing_tables(facts: Facts) -> list[str]:
    return [table.name for table in wanted.TABLES if table.name not in facts.relations]


def _tables_to_do(found: Found) -> str | None:
    missing = _missing_tables(found.facts)
    return f"make {' and '.join(missing)}" if missing else None


def _make_tables(work: Work) -> str | None:
    """Make our other tables, which nobody writes to yet."""
    missing = _missing_tables(work.facts())

    def make(connection: Connection) -> None:
        enter(connection, Added.TABLES, missing)
        for table in wanted.TABLES:
            if table.name in missing:
                for statement in wanted.table_statements(table):
                    connection.exec_driver_sql(statement)

    if missing:
        work.patiently(make)
    return f"made {' and '.join(missing)}" if missing else None


def _writers_to_do(found: Found) -> str | None:
    if not found.choices.foreign_writers or found.has_writers_triggers:
        return None
    return "put the triggers on it that fill what other writers leave out, and record what they do"


def _install_for_writers(work: Work) -> str | None:
    """Install them; with each run, so that changed timeouts get in. Where no trigger is missing, nothing is locked."""
    done = _install(work) if work.choices.foreign_writers else _LEFT_OUT
    # What was opened again before; from now on the triggers see to it.
    return "; ".join(filter(None, (done, take_back_ends(work)))) or None


def _install(work: Work) -> str | None:
    def install(connection: Connection) -> None:
        foreign_writers.install(connection, timeouts=work.choices.timeouts)

    is_there = work.patiently(foreign_writers.is_installed)
    # From the strongest of its locks on, so that none grows.
    work.briefly(install, mode=None if is_there else locks.ACCESS_EXCLUSIVE)
    return None if is_there else "triggers installed"


BOOK = Step("book", "none on your tables", _book_to_do, _make_book)
COLUMNS = Step(
    "columns",
    "ACCESS EXCLUSIVE, for milliseconds: only the catalogs change, no row is read or written",
    _columns_to_do,
    _add_columns,
)
TABLES = Step("tables", "none on your tables", _tables_to_do, _make_tables)
WRITERS = Step(
    "foreign writers",
    "ACCESS EXCLUSIVE, for milliseconds: only the catalogs change",
    _writers_to_do,
    _install_for_writers,
)
