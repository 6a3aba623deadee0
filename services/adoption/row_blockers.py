"""Which rows an adoption cannot go on with, each with the SQL that mends them."""

from collections.abc import Iterator

from models.conversation import ACTIVE_SQL, ConversationStatus
from services.adoption import wanted
from services.adoption.blockers import Blocker
from services.adoption.in_batches import in_batches
from services.adoption.quoting import quote_literal
from services.adoption.rows import Rows
from services.wording import counted

_OURS = {status.value for status in ConversationStatus}


def row_blockers(rows: Rows) -> list[Blocker]:
    """Return which rows are in the way."""
    return [*_of_statuses(rows), *_of_instants(rows), *_of_parts(rows)]


def _of_statuses(rows: Rows) -> Iterator[Blocker]:
    foreign = rows.foreign_statuses
    if not foreign:
        return
    counted = ", ".join(f"{status!r} ({count:,})" for status, count in foreign.items())
    advice = []
    if any(status is not None and status.lower() in _OURS for status in foreign):
        counted += "; some differ in upper case only"
        advice.append(
            "-- the writers have to write lower case from now on\n"
            + in_batches("status = lower(status)", "status <> lower(status)")
        )
    rest = [status for status in foreign if status is None or status.lower() not in _OURS]
    for status in rest:
        which = "status IS NULL" if status is None else f"status = {quote_literal(status)}"
        advice.append(
            "-- 'closed' where it means that it has ended: nothing opens it again\n"
            + in_batches("status = 'pending'", which)
        )
    yield Blocker("statuses", f"statuses that are none of Adjourn's: {counted}", "\n".join(advice))


def _of_instants(rows: Rows) -> Iterator[Blocker]:
    for name, count in rows.unreadable.items():
        yield Blocker(
            "instants",
            f"{counted(count, 'row')} with infinity, or a year that is not from 1 to 9999, in {name}",
            in_batches(f"{name} = '9999-12-29 00:00+00'", f"{name} > '9999-12-30 00:00+00'")
            + "\n"
            + in_batches(f"{name} = '0001-01-03 00:00+00'", f"{name} < '0001-01-02 00:00+00'"),
        )
    if rows.nulls["updated_at"]:
        yield Blocker(
            "no_activity",
            f"{counted(rows.nulls['updated_at'], 'row')} without updated_at: nothing tells the last activity",
            "-- or whatever else tells it\n" + in_batches("updated_at = now()", "updated_at IS NULL"),
        )
    if rows.ended_and_active:
        yield Blocker(
            "ended_and_active",
            f"{counted(rows.ended_and_active, 'active row')} with an ended_at",
            in_batches("ended_at = NULL", f"{ACTIVE_SQL} AND ended_at IS NOT NULL"),
        )


def _of_parts(rows: Rows) -> Iterator[Blocker]:
    for name in wanted.PARTS:
        if rows.nulls[name]:
            # One for each row: were they alike, strangers would share a session key.
            value = "left(md5(conv_id::text), 16)" if name == "from_number" else "'unknown'"
            yield Blocker(
                "no_session_key",
                f"{counted(rows.nulls[name], 'row')} without {name}, which a session key is made of",
                in_batches(f"{name} = {value}", f"{name} IS NULL"),
            )
