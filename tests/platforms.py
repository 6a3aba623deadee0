"""Tables ``conversations`` as platforms have them before they know of Adjourn, made by plain SQL."""

from typing import Any

from tests.plain_sql import connect

#: The least that can be adopted.
MINIMAL = """
CREATE TABLE conversations (
    conv_id uuid PRIMARY KEY,
    owner_id text NOT NULL,
    channel text NOT NULL,
    from_number text NOT NULL,
    to_number text NOT NULL,
    status text NOT NULL,
    updated_at timestamptz NOT NULL
)
"""
#: A table that has grown over the years, with indexes, columns and a migration tool of its own.
GROWN = """
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('f00dfeed');
CREATE TABLE inboxes (inbox_id integer PRIMARY KEY, idle_timeout interval NOT NULL);
INSERT INTO inboxes VALUES (1, '30 minutes'), (2, '10 minutes'), (3, '2 hours');
CREATE TABLE conversations (
    conv_id uuid CONSTRAINT conversations_key PRIMARY KEY DEFAULT gen_random_uuid(),
    owner_id text NOT NULL,
    inbox_id integer NOT NULL DEFAULT 1 REFERENCES inboxes,
    channel text NOT NULL,
    from_number text NOT NULL,
    to_number text NOT NULL,
    subject text,
    tags text[] NOT NULL DEFAULT '{}',
    status varchar(20) NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.1);
CREATE INDEX conversations_by_activity ON conversations (updated_at);
CREATE INDEX conversations_by_owner ON conversations (owner_id, updated_at);
"""
#: Of each hundred: 96 that ended in the last four years, 3 that nobody ever ended, 1 that goes on.
HISTORY = """
INSERT INTO conversations
    (owner_id, inbox_id, channel, from_number, to_number, subject, status, created_at, updated_at, expires_at)
SELECT 'owner-' || n % 500, 1 + n % 3, 'WhatsApp', '+33 6 ' || lpad(n::text, 8, '0'), '+331' || n % 40, 'No. ' || n,
    CASE WHEN n % 100 = 0 THEN 'progress' WHEN n % 100 <= 3 THEN 'pending'
         ELSE (ARRAY['closed', 'expired', 'idle_timeout'])[1 + n % 3] END,
    at - interval '5 minutes', at, CASE WHEN n % 2 = 0 THEN at + interval '1 day' END
FROM (
    SELECT n, CASE WHEN n % 100 = 0 THEN now() - random() * interval '5 minutes'
                   ELSE now() - interval '2 days' - random() * interval '4 years' END AS at
    FROM generate_series(1, %(rows)s) AS n
) AS numbered;
INSERT INTO conversations (owner_id, channel, from_number, to_number, subject, status)
SELECT 'owner-1', 'sms', '+44 ' || n, '+331', 'twice', 'progress'
FROM generate_series(1, 12) AS n, generate_series(1, 2);
"""


Catalog = dict[str, list[tuple[Any, ...]]]


def catalog(url: str) -> Catalog:
    """Return the definitions of everything in the schema, by kind, each in PostgreSQL's own words."""
    with connect(url) as connection:
        return {kind: connection.execute(query.encode()).fetchall() for kind, query in _CATALOG.items()}


def hold_that_it_is_given_back(before: Catalog, after: Catalog) -> None:
    """Hold that of two catalogs nothing differs but the record."""
    for kind, rows in after.items():
        rest = [row for row in rows if "conversation_events" not in str(row)]
        assert rest == list(before[kind]), kind


_CATALOG = {
    "columns": """
        SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default, is_identity,
               generation_expression
        FROM information_schema.columns WHERE table_schema = 'public' ORDER BY table_name, column_name""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n' ORDER BY 1, 2""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
    "triggers": """
        SELECT pg_get_triggerdef(t.oid), pg_get_functiondef(tgfoid), p.proacl::text
        FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid WHERE NOT tgisinternal ORDER BY 1""",
    "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1",
    "storage": """
        SELECT relname, reloptions FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND reloptions IS NOT NULL ORDER BY 1""",
    "tables": "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1",
}
