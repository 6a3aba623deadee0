-- Roles of least privilege, for psql. docs/security.md says how to install them.
--
--   psql --file deploy/postgresql/roles.sql postgresql://postgres@db.example.com/adjourn
--
-- Once before the first `adjourn migrate`, and again after each: rights are given table by table, so what a migration has
-- added nobody may use until then. Any number of times does no harm, whoever works meanwhile: it is one transaction.
--
--   adjourn_owner     owns the tables: `adjourn migrate`, `adjourn adopt`
--   adjourn_app       workers, `adjourn run`, `adjourn set-aside`, applications that use the services
--   adjourn_monitor   `adjourn status` and nothing else: it sees deadlines, and of nobody whose they are
--
-- They have no password yet: give each one with \password, or let them in some other way (peer, certificates).
--
-- Other names: --set owner=… --set app=… --set monitor=…; another schema than public: --set schema=…. Where the table
-- conversations was adopted, owner is whoever owns it.
--
-- Who runs it may create roles (a superuser, or CREATEROLE with the database its own). Where they are there already,
-- adjourn_owner may run it as well.

\set ON_ERROR_STOP on
\if :{?owner}
\else
    \set owner adjourn_owner
\endif
\if :{?app}
\else
    \set app adjourn_app
\endif
\if :{?monitor}
\else
    \set monitor adjourn_monitor
\endif
\if :{?schema}
\else
    \set schema public
\endif

BEGIN;
-- Nothing that others have put into a schema of everybody's is taken for PostgreSQL's own.
SET LOCAL search_path = pg_catalog, pg_temp;
-- A table changes its owner under a lock: nobody shall wait for long behind who waits for this.
SET LOCAL lock_timeout = '5s';
SELECT set_config('adjourn.owner', :'owner', true), set_config('adjourn.app', :'app', true),
    set_config('adjourn.monitor', :'monitor', true), set_config('adjourn.schema', :'schema', true) \g /dev/null

-- The roles, and the right to act as the owner: a superuser has it anyway.
SELECT format('CREATE ROLE %I LOGIN', role) FROM unnest(ARRAY[:'owner', :'app', :'monitor']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
SELECT format('GRANT %I TO %I', :'owner', current_user) WHERE NOT pg_has_role(:'owner', 'USAGE')
\gexec

-- What would make all that follows pointless.
DO $$
DECLARE
    owner CONSTANT text := current_setting('adjourn.owner');
    schema CONSTANT text := current_setting('adjourn.schema');
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY[current_setting('adjourn.app'), current_setting('adjourn.monitor')] LOOP
        IF pg_has_role(role, owner, 'MEMBER') THEN
            RAISE EXCEPTION 'role % may act as %, so it may do anything', role, owner
            USING HINT = 'Give another role, that is no superuser and no member of it.';
        END IF;
    END LOOP;
    IF to_regclass(format('%I.adjourn_adoption', schema)) IS NOT NULL AND owner <> (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass(format('%I.conversations', schema))
    ) THEN
        RAISE EXCEPTION 'the table conversations was adopted and is not %''s', owner
        USING HINT = 'Give its owner: --set owner=…';
    END IF;
    IF EXISTS (
        SELECT FROM pg_namespace, aclexplode(nspacl) AS acl
        WHERE nspname = schema AND grantee = 0 AND privilege_type = 'CREATE'
    ) THEN
        RAISE WARNING 'everybody may create tables in the schema %', schema
        USING HINT = format('Where nobody needs that: REVOKE CREATE ON SCHEMA %I FROM PUBLIC;', schema);
    END IF;
END $$;

-- The database and the schema, by name, so that it stays when PUBLIC loses its rights to them.
SELECT format('GRANT CONNECT ON DATABASE %I TO %I, %I, %I', datname, :'owner', :'app', :'monitor')
FROM pg_database WHERE datname = current_database() AND pg_has_role(datdba, 'USAGE')
\gexec
SELECT unnest(ARRAY[
    format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', nspname, :'owner'),
    format('GRANT USAGE ON SCHEMA %I TO %I, %I', nspname, :'app', :'monitor')
])
FROM pg_namespace WHERE nspname = :'schema' AND pg_has_role(nspowner, 'USAGE')
\gexec

-- Tables that were made before there was an owner; their indexes and sequences come along, and then the functions of
-- their triggers, which have the rights of whoever owns them.
SELECT format('ALTER TABLE %s OWNER TO %I', oid::regclass, :'owner') FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :'schema')
AND relname IN (
    'conversations', 'conversation_events', 'latest_conversations', 'set_aside_conversations', 'adjourn_version'
)
AND pg_get_userbyid(relowner) <> :'owner'
\gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', oid::regprocedure, :'owner') FROM pg_proc
WHERE pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = :'schema')
AND proname IN (
    'conversations_stay_ended', 'conversations_keep_latest', 'adjourn_complete_conversation', 'adjourn_record_change',
    'adjourn_session_key'
)
AND pg_get_userbyid(proowner) <> :'owner'
\gexec

-- Nothing, to begin with: whatever default privileges have given. An adopted table's other users are not ours to judge.
SELECT format('REVOKE ALL ON %s FROM %I, %I%s', oid::regclass, :'app', :'monitor', CASE
    WHEN relname <> 'conversations' OR to_regclass(format('%I.adjourn_adoption', :'schema')) IS NULL THEN ', PUBLIC'
END)
FROM pg_class
WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = :'schema') AND relkind IN ('r', 'p')
AND relname IN (
    'conversations', 'conversation_events', 'latest_conversations', 'set_aside_conversations', 'adjourn_version',
    'adjourn_adoption'
)
\gexec

-- Then what is used. An event is never changed and never taken back, and its number is the database's to give. Nobody
-- needs a right to its sequence, nor to latest_conversations and to the record of other writers, which triggers keep.
SELECT format('GRANT %s ON %I.%I TO %I', rights, :'schema', name, role)
FROM (VALUES
    (:'app', 'conversations', 'SELECT, INSERT, UPDATE (status, updated_at, idle_at, ended_at)'),
    (:'app', 'conversation_events', 'SELECT, INSERT (conv_id, previous_status, status, deadline, last_activity_at, cause, '
        'sweep_id, occurred_at)'),
    (:'app', 'latest_conversations', 'SELECT'),
    (:'app', 'set_aside_conversations', 'SELECT, INSERT, UPDATE, DELETE'),
    (:'app', 'adjourn_version', 'SELECT'),
    (:'monitor', 'conversations', 'SELECT (conv_id, status, idle_at, expires_at)'),
    (:'monitor', 'set_aside_conversations', 'SELECT (conv_id)')
) AS given (role, name, rights)
WHERE to_regclass(format('%I.%I', :'schema', name)) IS NOT NULL
\gexec
COMMIT;
