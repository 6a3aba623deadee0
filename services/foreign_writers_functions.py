r"""The functions of ``services.foreign_writers``, in PostgreSQL's words.

Each name in them is of ``pg_catalog`` or written in full: who calls them may have any ``search_path``.
"""

from datetime import timedelta

from models.conversation import ACTIVE_SQL, ENDED_SQL
from models.event import EventCause
from services.timeouts import Timeouts

COMPLETE_CONVERSATION = "adjourn_complete_conversation"
RECORD_CHANGE = "adjourn_record_change"
#: All of them, by their signatures.
FUNCTIONS = (
    f"{RECORD_CHANGE}()",
    f"{COMPLETE_CONVERSATION}()",
    "adjourn_session_key(text, text, text, text)",
)

#: What ``str.strip`` and ``\s`` of ``re`` take for whitespace.
WHITESPACE = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
#: As in ``services.session_keys``.
_NUMBER_PUNCTUATION = WHITESPACE + "().-\u2010\u2011\u2012\u2013\u2014\u2015"


def function_statements(schema: str, timeouts: Timeouts) -> list[str]:
    """Return the statements that make the functions in ``schema``, or replace them."""
    names = {
        "schema": schema,
        "idle": _interval(timeouts.idle),
        "expiry": _interval(timeouts.expiry),
        "active": ACTIVE_SQL,
        "ended": ENDED_SQL,
        "cause": EventCause.WRITER.value,
        "whitespace": _literal(WHITESPACE),
        "punctuation": _literal(_NUMBER_PUNCTUATION),
    }
    statements = (_SESSION_KEY, _FOR_EVERYBODY, _COMPLETE, _RECORD, *_FOR_THE_TRIGGERS)
    return [statement.format(**names).strip() for statement in statements]


def _interval(timeout: timedelta) -> str:
    # Not in days: how long one is, the session's time zone says.
    return f"interval '{timeout.total_seconds():f} seconds'"


def _literal(characters: str) -> str:
    return "E'" + "".join(f"\\u{ord(character):04x}" for character in characters) + "'"


# The same as services.session_keys.canonical_session_key; NULL where that raises. Capital letters outside ASCII, which
# may be in a channel, become small ones as the locale of the database has it.
_SESSION_KEY = """
CREATE OR REPLACE FUNCTION {schema}.adjourn_session_key(owner_id text, channel text, from_number text, to_number text)
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
WITH numbers AS (
    SELECT btrim(number, {whitespace}) AS written, translate(number, {punctuation}, '') AS bare
    FROM unnest(ARRAY[$3, $4]) AS number
), parties AS (
    SELECT (CASE WHEN bare ~ '^[+]?[0-9]+$' THEN bare ELSE written END) COLLATE "C" AS party FROM numbers
), parts AS (
    SELECT 1 AS place, btrim($1, {whitespace}) AS part
    UNION ALL SELECT 2, lower(btrim($2, {whitespace}))
    UNION ALL SELECT 3, min(party) FROM parties
    UNION ALL SELECT 4, max(party) FROM parties
)
SELECT CASE WHEN bool_and(part <> '') THEN
    string_agg(replace(replace(part, '%', '%25'), ':', '%3A'), ':' ORDER BY place)
END FROM parts
$$
"""

# Whoever writes a row calls it, and may look for a conversation with it.
_FOR_EVERYBODY = "GRANT EXECUTE ON FUNCTION {schema}.adjourn_session_key TO PUBLIC"

# Deadlines move in UTC, where each day has 24 hours. It has the rights of its owner: who writes through a view may have
# none to the schema, in which the function for the key is.
_COMPLETE = """
CREATE OR REPLACE FUNCTION {schema}.adjourn_complete_conversation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    moment CONSTANT timestamptz := clock_timestamp();
    ended_before boolean := false;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        ended_before := coalesce(OLD.{ended}, false);
        NEW.conv_id := coalesce(NEW.conv_id, OLD.conv_id);
        NEW.session_key := coalesce(NEW.session_key, OLD.session_key);
        NEW.status := coalesce(NEW.status, OLD.status);
        NEW.metadata := coalesce(NEW.metadata, OLD.metadata);
        NEW.created_at := coalesce(NEW.created_at, OLD.created_at);
        NEW.updated_at := coalesce(NEW.updated_at, OLD.updated_at);
        NEW.idle_at := coalesce(NEW.idle_at, OLD.idle_at);
        NEW.expires_at := coalesce(NEW.expires_at, OLD.expires_at);
        IF NEW.idle_at = OLD.idle_at AND NEW.{active} THEN
            -- A stamp from before the last activity moves nothing back.
            NEW.updated_at := greatest(NEW.updated_at, OLD.updated_at);
            NEW.idle_at := (NEW.updated_at AT TIME ZONE 'UTC' + CASE
                WHEN OLD.idle_at > OLD.updated_at THEN OLD.idle_at - OLD.updated_at ELSE {idle}
            END) AT TIME ZONE 'UTC';
        END IF;
        IF ended_before AND NEW.{active} THEN
            -- Opened again while the table is being adopted, by who may not know that its end has an instant.
            NEW.ended_at := NULL;
        END IF;
    END IF;

    NEW.conv_id := coalesce(NEW.conv_id, gen_random_uuid());
    NEW.status := coalesce(NEW.status, 'pending');
    NEW.metadata := coalesce(NEW.metadata, '{{}}');
    -- The opening is the first activity.
    NEW.created_at := coalesce(NEW.created_at, NEW.updated_at, moment);
    NEW.updated_at := coalesce(NEW.updated_at, NEW.created_at);
    NEW.idle_at := coalesce(NEW.idle_at, NEW.updated_at + {idle});
    NEW.expires_at := coalesce(NEW.expires_at, NEW.created_at + {expiry});
    IF NEW.ended_at IS NULL AND NEW.{ended} THEN
        NEW.ended_at := CASE WHEN ended_before THEN NEW.updated_at ELSE moment END;
    END IF;
    IF NEW.session_key IS NULL THEN
        -- Who cannot be told from others shares a key with nobody.
        NEW.session_key := coalesce({schema}.adjourn_session_key(
            NEW.owner_id::text, NEW.channel::text, NEW.from_number::text, NEW.to_number::text
        ), NEW.conv_id::text);
    END IF;
    RETURN NEW;
END $$
"""

# It has the rights of its owner, so that a writer needs none to the events. Where the services have written theirs in
# the same statement, they are found. Who opens again what had ended, as is possible while a table is being adopted,
# takes the end back: it would be in the way of the next one.
_RECORD = """
CREATE OR REPLACE FUNCTION {schema}.adjourn_record_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.{ended} AND NEW.{active} THEN
        DELETE FROM {schema}.conversation_events WHERE conv_id = NEW.conv_id AND ended;
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM {schema}.conversation_events WHERE conv_id = NEW.conv_id AND ended = (NEW.{ended})) THEN
        RETURN NULL;
    END IF;
    INSERT INTO {schema}.conversation_events
        (conv_id, previous_status, status, deadline, last_activity_at, cause, occurred_at)
    VALUES (
        NEW.conv_id, OLD.status, NEW.status,
        -- NULL while a table is being adopted.
        least(coalesce(OLD.idle_at, NEW.idle_at), coalesce(OLD.expires_at, NEW.expires_at)),
        coalesce(OLD.updated_at, NEW.updated_at), '{cause}', coalesce(NEW.ended_at, clock_timestamp())
    )
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""
# Else anybody could put them on a table of their own, and write events so.
_FOR_THE_TRIGGERS = tuple(
    f"REVOKE EXECUTE ON FUNCTION {{schema}}.{function}() FROM PUBLIC"
    for function in (COMPLETE_CONVERSATION, RECORD_CHANGE)
)
