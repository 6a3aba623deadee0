"""Triggers of the platform's that set ``updated_at`` at each change: a fill would make all of history active today."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

#: What tells a change of Adjourn's from others: see ``services.database.create_database_engine``.
_NOT_ADJOURN = "current_setting('application_name') <> 'adjourn'"

#: The triggers that may change a row as it is updated, as they were made. Row, before, update are 1, 2 and 16.
_SUSPECTS = text("""
SELECT tgname::text AS name, pg_get_triggerdef(oid) AS definition FROM pg_trigger
WHERE tgrelid = 'conversations'::regclass AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 19 = 19
AND NOT starts_with(tgname, 'zz_adjourn_') ORDER BY tgname
""")


def stamping(connection: Connection) -> str:
    """Return what to say when a change has moved ``updated_at``, which it did not name, with the SQL that mends it."""
    suspects = connection.execute(_SUSPECTS).all()
    names = ", ".join(suspect.name for suspect in suspects)
    advice = "".join(f"\n  {line}" for suspect in suspects for line in _sparing(suspect.definition))
    return (
        f"a trigger of your own ({names}) sets updated_at, the last activity, in each row that is changed. To fill the "
        "rows would make all of history active today, so it was not done. Have it leave Adjourn's changes alone, those "
        f"of sweeps too, and run the same again:{advice}"
    )


def _sparing(definition: str) -> Iterator[str]:
    """Yield the SQL of a trigger that does not fire for Adjourn."""
    declared, _, executed = definition.rpartition(" EXECUTE FUNCTION ")
    declared = declared.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1)
    before, when, condition = declared.partition(" WHEN (")
    yield f"{before} WHEN ({_NOT_ADJOURN}{f' AND ({condition}' if when else ''})"
    yield f"  EXECUTE FUNCTION {executed};"
