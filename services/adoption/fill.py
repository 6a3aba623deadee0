"""The step that fills what is NULL, from what the platform has."""

import time
import uuid
from typing import Any

from sqlalchemy import Connection, text

from models.conversation import ENDED_SQL
from services.adoption import wanted
from services.adoption.batches import Batch, walk
from services.adoption.duplicates import session_key_of
from services.adoption.rows import filled, timeout_parameters
from services.adoption.stamping import stamping
from services.adoption.step import Found, Step, Work
from services.adoption.stopped import AdoptionStoppedError
from services.wording import counted, how_many

#: How often rows that others hold are come back to.
ROUNDS = 30

_INSTANTS = ("created_at", "idle_at", "expires_at", "ended_at")
#: A row that lacks something.
INCOMPLETE = " OR ".join(
    [f"{name} IS NULL" for name in ("session_key", "metadata", "created_at", "idle_at", "expires_at")]
    + [f"(ended_at IS NULL AND {ENDED_SQL})"]
)
#: The next of these, locked: those that others hold are come back to, so a batch waits for nobody. Activity as text: it
#: is to be compared, whatever it is.
_PICK = text(f"""
SELECT conv_id, updated_at::text AS active_at, session_key, {", ".join(wanted.PARTS)} FROM conversations
WHERE conv_id >= :start AND ({INCOMPLETE}) ORDER BY conv_id LIMIT :size FOR NO KEY UPDATE SKIP LOCKED
""")  # noqa: S608 - fixed names
#: And whether the activity has stayed what it was.
_FILL = text(f"""
WITH filled AS (
UPDATE conversations SET session_key = picked.session_key, metadata = coalesce(metadata, '{{}}'),
    {", ".join(f"{name} = {filled(name, frozenset(wanted.INSTANTS))}" for name in _INSTANTS)}
FROM unnest(CAST(:conv_ids AS uuid[]), CAST(:active_at AS text[]), CAST(:session_keys AS text[]))
    AS picked (key, active_at, session_key)
WHERE conv_id = picked.key
RETURNING updated_at::text IS NOT DISTINCT FROM picked.active_at AS is_kept
) SELECT count(*), coalesce(bool_and(is_kept), true) FROM filled
""")  # noqa: S608 - fixed names
_REMAINING = text(f"SELECT count(*) FROM conversations WHERE {INCOMPLETE}")  # noqa: S608 - fixed names


def _to_do(found: Found) -> str | None:
    if found.rows is None:
        return "unknown before what blocks is mended"
    columns = [f"{name} in {how_many(count)}" for name, count in found.rows.to_fill.items()]
    return f"fill {', '.join(columns)} of {how_many(found.rows.count)} rows" if columns else None


def count_incomplete(connection: Connection) -> int:
    """Return how many rows lack something."""
    return int(connection.execute(_REMAINING).scalar_one())


def _fill(work: Work) -> str | None:
    count = 0
    for number in range(ROUNDS):
        remaining = work.patiently(count_incomplete)
        if not remaining:
            break
        if number:
            time.sleep(work.pause)
        count += walk(work, lambda connection, start, size: _fill_batch(connection, work, start, size))
    else:
        raise AdoptionStoppedError(
            f"{counted(remaining, 'row')} without all that is to be filled: others hold them, or write them so; where "
            "the application keeps idle_at itself it has to do so by now. Run the same again: it goes on from here"
        )
    if not count:
        return None
    with work.outside_transactions() as connection:
        # It would come by itself, in the way of the steps that follow: an autovacuum has to be made to give way. It
        # holds up nobody who writes, and tells the planner of the new columns.
        connection.exec_driver_sql("VACUUM (ANALYZE) conversations")
    return f"filled {how_many(count)} rows"


def _fill_batch(connection: Connection, work: Work, start: uuid.UUID, size: int) -> Batch:
    rows = connection.execute(_PICK, {"start": start, "size": size}).all()
    if not rows:
        return Batch(0, None)
    parameters: dict[str, Any] = {
        "conv_ids": [row.conv_id for row in rows],
        "active_at": [row.active_at for row in rows],
        "session_keys": [session_key_of(conv_id, own, parts) for conv_id, _, own, *parts in rows],
        **timeout_parameters(work.choices.timeouts),
    }
    count, is_kept = connection.execute(_FILL, parameters).one()
    if not is_kept:
        raise AdoptionStoppedError(stamping(connection))
    return Batch(count, rows[-1].conv_id)


FILL = Step(
    "fill",
    "locks of single rows, for a tenth of a second: a batch waits for no row that somebody holds, but comes back to it",
    _to_do,
    _fill,
)
