"""What PostgreSQL's catalogs say of the table: its columns, indexes, constraints, triggers, owner and size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from services.adoption import wanted

TABLE = "conversations"


@dataclass(frozen=True, slots=True)
class ColumnFact:
    """A column as it is."""

    #: With its length or precision: ``character varying(16)``.
    type: str
    #: PostgreSQL's letter for the kind of type: ``b``, ``e`` (enum), ``d`` (domain)…
    kind: str
    not_null: bool
    #: It has a default, is an identity, or is generated: whoever inserts may leave it out.
    may_be_left_out: bool
    #: Computed by the database from others: nobody can write it.
    generated: bool


@dataclass(frozen=True, slots=True)
class IndexFact:
    """An index as it is."""

    valid: bool
    #: Storage parameters: ``fillfactor=50``.
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """The table, and what has a name of ours."""

    schema: str
    #: Where a new table would be made.
    current_schema: str
    owner: str
    user: str
    #: Whether ``user`` may change the table, and make others.
    may_change: bool
    #: PostgreSQL's letter: ``r`` is a table, ``v`` a view, ``p`` a partitioned table…
    kind: str
    #: As PostgreSQL estimates it; -1 when it never did.
    estimated_rows: int
    #: In bytes.
    table_size: int
    indexes_size: int
    server_version: int
    #: Of the database: ``UTF8``.
    encoding: str
    #: Whether row-level security leaves out rows for ``user``, or for the owner.
    hides_rows: bool
    hides_rows_of_owner: bool
    options: tuple[str, ...]
    columns: Mapping[str, ColumnFact]
    #: The columns of the primary key, and the name of its index.
    key: tuple[str, ...]
    key_index: str | None
    indexes: Mapping[str, IndexFact]
    #: By name, whether every row is known to satisfy it. Without NOT NULLs, which PostgreSQL 18 has here as well.
    constraints: Mapping[str, bool]
    triggers: tuple[str, ...]
    #: Tables, indexes and so on of the table's schema that have a name of ours, with PostgreSQL's letter for the kind.
    relations: Mapping[str, str]
    #: Functions of that schema that have a name of ours.
    functions: tuple[str, ...]
    #: Columns of our other tables, where something of their name is there.
    other_columns: Mapping[str, frozenset[str]]
    #: The tables that a view is made from.
    view_of: tuple[str, ...]
    #: What inherits from it, and what it inherits from or is a partition of, as they are written in SQL.
    heirs: tuple[str, ...]
    parents: tuple[str, ...]
    is_partition: bool


def read_facts(connection: Connection) -> Facts | None:
    """Return what the catalogs say; None when there is no ``conversations`` in sight."""
    table = connection.execute(_TABLE, {"name": TABLE}).mappings().one_or_none()
    if table is None:
        return None
    found: dict[str, Any] = dict(table)
    oid = found.pop("oid")
    of_table = {"oid": oid}
    key_columns, key_index = connection.execute(_KEY, of_table).one_or_none() or ((), None)
    names = [TABLE, *(one.name for one in wanted.TABLES), *wanted.indexes(), "adjourn_adoption", "adjourn_version"]
    relations = connection.execute(_RELATIONS, {"schema": found["schema"], "names": [*names, "alembic_version"]})
    functions = connection.execute(_FUNCTIONS, {"schema": found["schema"], "names": wanted.trigger_functions()})
    others = connection.execute(
        _OTHER_COLUMNS, {"schema": found["schema"], "names": [one.name for one in wanted.TABLES]}
    )
    return Facts(
        **found | {"options": tuple(found["options"] or ())},
        columns={row.name: ColumnFact(*row[1:]) for row in connection.execute(_COLUMNS, of_table)},
        key=tuple(key_columns),
        key_index=key_index,
        indexes={
            row.name: IndexFact(row.valid, tuple(row.options or ())) for row in connection.execute(_INDEXES, of_table)
        },
        constraints={row.name: row.valid for row in connection.execute(_CONSTRAINTS, of_table)},
        triggers=tuple(connection.execute(_TRIGGERS, of_table).scalars()),
        relations={row.name: row.kind for row in relations},
        functions=tuple(functions.scalars()),
        other_columns={row.name: frozenset(row.columns) for row in others},
        view_of=tuple(connection.execute(_VIEW_OF, of_table).scalars()) if found["kind"] in {"v", "m"} else (),
        heirs=tuple(connection.execute(_HEIRS, of_table).scalars()),
        parents=tuple(connection.execute(_PARENTS, of_table).scalars()),
    )


#: The table itself.
_TABLE = text("""
SELECT c.oid, n.nspname AS schema, coalesce(current_schema(), '') AS current_schema,
       pg_get_userbyid(c.relowner)::text AS owner, current_user::text AS "user",
       pg_has_role(c.relowner, 'USAGE') AND coalesce(has_schema_privilege(n.oid, 'CREATE'), false) AS may_change,
       c.relkind::text AS kind, c.reltuples::bigint AS estimated_rows,
       pg_table_size(c.oid) AS table_size, pg_indexes_size(c.oid) AS indexes_size,
       current_setting('server_version_num')::int AS server_version, current_setting('server_encoding') AS encoding,
       row_security_active(c.oid) AS hides_rows,
       c.relrowsecurity AND c.relforcerowsecurity AND NOT (o.rolsuper OR o.rolbypassrls) AS hides_rows_of_owner,
       c.reloptions AS options, c.relispartition AS is_partition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
WHERE c.oid = to_regclass(:name)
""")
#: Its columns, in order.
_COLUMNS = text("""
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, t.typtype::text AS kind, a.attnotnull,
       a.atthasdef OR a.attidentity <> '', a.attgenerated <> ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = :oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
""")
#: Its primary key, if it has one.
_KEY = text("""
SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)), c.relname
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = :oid AND i.indisprimary GROUP BY c.relname
""")
#: Its indexes.
_INDEXES = text("""
SELECT c.relname AS name, i.indisvalid AS valid, c.reloptions AS options
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = :oid
""")
#: Its constraints.
_CONSTRAINTS = text("""
SELECT conname AS name, convalidated AS valid FROM pg_constraint WHERE conrelid = :oid AND contype <> 'n'
""")
#: Its triggers, those of foreign keys left out.
_TRIGGERS = text("SELECT tgname::text FROM pg_trigger WHERE tgrelid = :oid AND NOT tgisinternal ORDER BY tgname")
#: What of its schema has one of these names.
_RELATIONS = text("""
SELECT c.relname AS name, c.relkind::text AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = :schema AND c.relname = ANY (:names)
""")
#: Which functions of its schema have one of these names.
_FUNCTIONS = text("""
SELECT p.proname::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = :schema AND p.proname = ANY (:names)
""")
#: What columns there are in tables of these names.
_OTHER_COLUMNS = text("""
SELECT c.relname AS name, array_agg(a.attname::text) AS columns
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = :schema AND c.relname = ANY (:names) GROUP BY c.relname
""")
#: What a view selects from.
_VIEW_OF = text("""
SELECT DISTINCT d.refobjid::regclass::text FROM pg_rewrite r
JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
WHERE r.ev_class = :oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> :oid
""")
#: What inherits from it.
_HEIRS = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = :oid ORDER BY 1")
#: What it inherits from.
_PARENTS = text("SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = :oid ORDER BY inhseqno")
