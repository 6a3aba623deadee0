"""Names that Adjourn needs and something of the platform's has."""

from collections.abc import Iterator

from services.adoption import wanted
from services.adoption.blockers import Blocker
from services.adoption.book import Added, Book
from services.adoption.facts import Facts


def name_blockers(facts: Facts, book: Book | None) -> list[Blocker]:
    """Return what has a name of ours and is not in the book."""
    return [
        Blocker(
            "name_taken",
            f"the {kind} {name} is there already, and Adjourn did not make it",
            rename.format(name=name, new=f"platform_{name}"),
        )
        for added, kind, name, rename in _named_like_ours(facts)
        if book is None or not book.has(added, name)
    ]


def _named_like_ours(facts: Facts) -> Iterator[tuple[Added, str, str, str]]:
    """Yield the kind for the book, the kind for a person, the name, and how it is given another one."""
    for table in wanted.TABLES:
        # An adoption that was undone leaves the record, for the next one to go on with.
        has_our_columns = facts.other_columns.get(table.name) == frozenset(column.name for column in table.columns)
        if table.name in facts.relations and not has_our_columns:
            yield Added.TABLES, "table", table.name, "ALTER TABLE {name} RENAME TO {new};"
    on_table = "ALTER TABLE conversations RENAME CONSTRAINT {name} TO {new};"
    for added, kind, ours, there, rename in (
        (Added.INDEXES, "index", wanted.indexes(), facts.relations, "ALTER INDEX {name} RENAME TO {new};"),
        (Added.CONSTRAINTS, "constraint", wanted.checks(), facts.constraints, on_table),
        (
            Added.TRIGGERS,
            "trigger",
            wanted.triggers(),
            facts.triggers,
            "ALTER TRIGGER {name} ON conversations RENAME TO {new};",
        ),
        (
            Added.FUNCTIONS,
            "function",
            wanted.trigger_functions(),
            facts.functions,
            "ALTER FUNCTION {name} RENAME TO {new};",
        ),
    ):
        yield from ((added, kind, name, rename) for name in ours if name in there)
