"""What an adoption can go on with, but whoever runs it should know."""

from collections.abc import Iterator

from services.adoption import wanted
from services.adoption.blockers import SERVICES_ONLY, type_problem
from services.adoption.facts import Facts
from services.adoption.rows import Rows
from services.wording import counted


def find_notes(facts: Facts, rows: Rows | None) -> list[str]:
    """Return the notes, each a sentence."""
    return [*_of_facts(facts), *(_of_rows(facts, rows) if rows is not None else ())]


def missing_rights(facts: Facts) -> str | None:
    """Return what the role lacks to adopt the table; None when it lacks nothing."""
    if facts.may_change:
        return None
    return (
        f"the role {facts.user} can look but not adopt: that takes {facts.owner}, who owns the table, and CREATE on "
        f"the schema {facts.schema}"
    )


def _of_facts(facts: Facts) -> Iterator[str]:
    if (missing := missing_rights(facts)) is not None:
        yield missing
    needed = [
        name
        for name, column in facts.columns.items()
        if name not in wanted.columns() and column.not_null and not column.may_be_left_out
    ]
    if needed:
        yield (
            f"columns of the platform's own that must be given: {', '.join(needed)}. Adjourn's services cannot open "
            "conversations while they have no default; sweeps do not mind"
        )
    owned = facts.columns.get(SERVICES_ONLY)
    if owned is not None and (owned.generated or type_problem(SERVICES_ONLY, owned.type) is not None):
        yield (
            f"{SERVICES_ONLY} is {owned.type}, which is left as it is. Adjourn's services, which write text to it, "
            "cannot open conversations then; sweeps do not mind"
        )
    if "alembic_version" in facts.relations:
        yield "there is an alembic_version, which is another's and stays as it is; Adjourn's is adjourn_version"


def _of_rows(facts: Facts, rows: Rows) -> Iterator[str]:
    if "expires_at" in facts.columns and rows.nulls["expires_at"]:
        yield (
            f"{counted(rows.nulls['expires_at'], 'row')} without expires_at, which is filled; where that means never, "
            "give it a far one before"
        )
