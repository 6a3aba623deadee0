"""Names as they have to be written in SQL."""

import re

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def quote_ident(name: str) -> str:
    """Return a name for a statement: in quotes where it must be, as PostgreSQL's function of that name does it."""
    if _PLAIN.fullmatch(name) and name not in RESERVED_WORDS:
        return name
    return '"' + name.replace('"', '""') + '"'


def quote_literal(value: str) -> str:
    """Return a text for a statement, in quotes."""
    return "'" + value.replace("'", "''") + "'"
