"""What keeps rows, or what they say, out of reach: row-level security, inheritance, the database's encoding."""

from collections.abc import Iterator

from services.adoption.blockers import Blocker
from services.adoption.facts import Facts
from services.adoption.quoting import quote_ident


def reach_blockers(facts: Facts, *, foreign_writers: bool) -> list[Blocker]:
    """Return what is in the way of reaching each row of a table. ``foreign_writers``: whether their triggers go on."""
    if facts.kind != "r":
        return []
    return [*_of_encoding(facts, foreign_writers=foreign_writers), *_of_row_security(facts), *_of_inheritance(facts)]


def _of_encoding(facts: Facts, *, foreign_writers: bool) -> Iterator[Blocker]:
    """Yield what keeps text from being read, or the triggers from being made, which name spaces of Unicode's."""
    if facts.encoding == "UTF8":
        return
    anew = (
        "-- bring it over to a database of UTF8, in a shell, while nobody writes:\n"
        "-- createdb -T template0 -E UTF8 new && pg_dump old | psql new"
    )
    if facts.encoding == "SQL_ASCII":
        yield Blocker("encoding", "the database is of SQL_ASCII, so nothing says which characters its texts have", anew)
    elif foreign_writers:
        yield Blocker(
            "encoding",
            f"the database is of {facts.encoding}, which lacks spaces that the triggers for other writers take out of "
            "numbers",
            f"{anew}\n-- or do without these triggers: adjourn adopt --no-foreign-writers",
        )


def _of_row_security(facts: Facts) -> Iterator[Blocker]:
    if facts.hides_rows_of_owner:
        yield Blocker(
            "row_security",
            f"row-level security is forced on {facts.owner} as well, who owns the table and would see some rows only",
            f"-- until it is adopted: programs that connect as {facts.owner} are held by no policy meanwhile\n"
            "ALTER TABLE conversations NO FORCE ROW LEVEL SECURITY;\n"
            "-- afterwards, when workers connect as a role that has BYPASSRLS:\n"
            "-- ALTER TABLE conversations FORCE ROW LEVEL SECURITY",
        )
    elif facts.hides_rows:
        yield Blocker(
            "row_security",
            f"row-level security shows {facts.user} some rows only",
            f"-- by a superuser; or connect as {facts.owner}, who owns the table\n"
            f"ALTER ROLE {quote_ident(facts.user)} BYPASSRLS;",
        )


def _of_inheritance(facts: Facts) -> Iterator[Blocker]:
    for heir in facts.heirs:
        yield Blocker(
            "inheritance",
            f"{heir} inherits from conversations: its rows are seen there, but neither triggers nor the unique index "
            "are passed on to it",
            f"-- its rows are not in conversations from then on; where they should be, INSERT them there first\n"
            f"ALTER TABLE {heir} NO INHERIT conversations;",
        )
    for parent in facts.parents:
        leave = (
            f"{parent} DETACH PARTITION conversations" if facts.is_partition else f"conversations NO INHERIT {parent}"
        )
        yield Blocker(
            "inheritance",
            f"conversations is a {'partition' if facts.is_partition else 'child'} of {parent}: whoever writes there "
            "may change or refuse what Adjourn relies on",
            f"-- whoever reads {parent} does not see its rows from then on\nALTER TABLE {leave};",
        )
