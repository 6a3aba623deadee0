"""The step that sees to what is overdue by now: years of history, perhaps."""

from datetime import datetime

from models.event import EventCause
from services.adoption.rows import Overdue, read_overdue
from services.adoption.step import Found, Step, Work
from services.adoption.stopped import AdoptionStoppedError
from services.database import current_time
from services.due import BY_EXPIRES_AT, BY_IDLE_AT, DueBatches, DueEnding
from services.wording import how_many

#: Conversations ended in one transaction: a tenth of a second's work, and no message waits longer for one of them.
BATCH_SIZE = 2_000
_ENDINGS = tuple(DueEnding(due_by, EventCause.ADOPTION) for due_by in (BY_IDLE_AT, BY_EXPIRES_AT))


def _to_do(found: Found) -> str | None:
    if found.book is not None and found.book.adopted_at is not None:
        return None
    if found.overdue is None:
        return "unknown before what blocks is mended"
    if not found.overdue.count:
        return None
    verb = {
        "end": "end them, with the cause adoption",
        "leave": "leave them to the first sweeps",
        None: "stop here for a choice",
    }[found.choices.overdue]
    return f"{verb}: {how_many(found.overdue.count)} active conversations are overdue"


def _see_to_overdue(work: Work) -> str | None:
    if work.book().adopted_at is not None:
        return None
    facts, timeouts = work.facts(), work.choices.timeouts
    now = work.patiently(current_time)
    if work.choices.overdue == "end":
        count = sum(_end(work, ending, now) for ending in _ENDINGS)
        return f"ended {how_many(count)}" if count else None
    overdue = work.patiently(lambda connection: read_overdue(connection, facts, timeouts=timeouts, now=now))
    if not overdue.count:
        return None
    if work.choices.overdue is None:
        raise AdoptionStoppedError(_told(overdue))
    return f"left {how_many(overdue.count)} to the first sweeps"


def _told(overdue: Overdue) -> str:
    ages = ", ".join(f"{age}: {how_many(count)}" for age, count in overdue.ages.items() if count)
    return (
        f"all is ready but for {how_many(overdue.count)} active conversations that are overdue ({ages}; with activity "
        f"within the idle timeout: {how_many(overdue.lively)}). Choose:\n"
        "  --overdue end    ends them now, in short transactions. Their events have the cause adoption, so that\n"
        "                   whoever reads events can leave them out; no metric and no alert sees them\n"
        "  --overdue leave  leaves them to the first sweeps. Their events have the cause sweep, and metrics and\n"
        "                   alerts show the backlog and how late it ends"
    )


def _end(work: Work, ending: DueEnding, now: datetime) -> int:
    """End what is due by one of the deadlines; return how many. What others hold is left to the sweeps.

    So is what the database refuses to end: it is set aside.
    """
    batches = DueBatches(ending, now=now, batch_size=BATCH_SIZE)
    count = 0
    while not batches.is_over:
        count += batches.end_next(work.briefly, moment=work.patiently(current_time)).count
    return count


OVERDUE = Step(
    "overdue",
    "locks of the rows that end, for a tenth of a second; those that somebody holds are left out",
    _to_do,
    _see_to_overdue,
)
