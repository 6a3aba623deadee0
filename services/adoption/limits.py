"""The time limits that a role or a database sets for its sessions, taken off for what takes as long as the table is."""

from sqlalchemy import Connection, text

#: Limits that are meant for the short statements of a program. ``transaction_timeout`` is of PostgreSQL 17 and later.
_LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)
#: Those of them that the server has.
_LIFT = text("SELECT count(set_config(name, '0', :locally)) FROM pg_settings WHERE name = ANY (:names)")


def lift_time_limits(connection: Connection, *, locally: bool) -> None:
    """Take every time limit off, in the caller's transaction: until its end (``locally``), or for the session."""
    connection.execute(_LIFT, {"locally": locally, "names": list(_LIMITS)})
