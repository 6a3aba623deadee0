"""What must hold of each conversation by itself: its row, its events and what clients were told of it agree."""

from collections.abc import Iterator

from tests.histories.book import ACTIVE, Chapter, Page
from tests.histories.findings import Finding, FindingKind
from tests.histories.instants import text_of
from tests.histories.record import Operation, Outcome

#: Who ends by the rules. Another writer of the table, or an adoption, may end what is not due.
_BY_THE_RULES = frozenset({"sweep", "activity", "close"})
_ENDED_BY_PERSON = "closed"


def check_conversations(chapter: Chapter) -> list[Finding]:
    """Return what is wrong with the conversations of a key."""
    found = []
    for page in chapter.pages:
        for check in (_check_record, _check_end, _check_activity, _check_opening, _check_ended_answers):
            found += [
                Finding(kind, chapter.key, f"{page.row.conv_id} {text}", tuple(one.number for one in shown))
                for kind, text, shown in check(page, chapter)
            ]
    return found


_Found = Iterator[tuple[FindingKind, str, list[Operation]]]


def _check_record(page: Page, chapter: Chapter) -> _Found:
    """Each change of status has its event, and nothing comes after the end."""
    row, endings = page.row, page.endings
    if len(endings) > 1:
        numbers = ", ".join(f"{one.event_id} ({one.status} at {text_of(one.occurred_at)})" for one in endings)
        yield FindingKind.ENDED_TWICE, f"ended in each of the events {numbers}", []
    if row.status not in ACTIVE and not endings:
        yield FindingKind.UNRECORDED, f"is {row.status}, and no event says so", []
    if endings and page.events[-1] != endings[-1]:
        last = page.events[-1]
        yield FindingKind.CHANGED_AFTER_END, f"became {last.status} in event {last.event_id}, after its end", []
    # What others put into the table may begin as anything.
    begins = "pending" if chapter.operations else [*(event.previous_status for event in page.events), row.status][0]
    statuses = [begins, *(event.status for event in page.events)]
    if len(endings) == 1 and page.events[-1] == endings[0]:
        gone_on = row.status in ACTIVE
        left = [event.previous_status for event in page.events]
        if left != statuses[:-1]:
            yield FindingKind.UNRECORDED, f"left {left}, and events say that it became {statuses[1:]}", []
        if gone_on:
            yield FindingKind.CHANGED_AFTER_END, f"is {row.status}, and its event says {statuses[-1]}", []
    elif not endings and row.status in ACTIVE and statuses[-1] != row.status:
        yield FindingKind.UNRECORDED, f"is {row.status}, and its events leave it {statuses[-1]}", []


def _check_end(page: Page, chapter: Chapter) -> _Found:
    """It ended at or after its deadline, with the status that this names, and has stayed as it was."""
    del chapter
    row = page.row
    for event in page.endings[:1]:
        if row.status in ACTIVE:
            continue
        told = {
            "status": (event.status, row.status),
            "end": (event.occurred_at, row.ended_at),
            "last activity": (event.last_activity_at, row.updated_at),
            "deadline": (event.deadline, page.deadline),
        }
        changed = [f"{what} {_plain(was)}, now {_plain(now)}" for what, (was, now) in told.items() if was != now]
        if changed:
            yield FindingKind.CHANGED_AFTER_END, f"is not as its event says: {'; '.join(changed)}", []
        if event.cause not in _BY_THE_RULES:
            continue
        due = min(event.deadline, page.deadline)
        if event.status == _ENDED_BY_PERSON:
            if event.occurred_at >= due:
                what = f"closed at {text_of(event.occurred_at)}, when its deadline {text_of(due)} was reached"
                yield FindingKind.WRONG_STATUS, f"was {what}", []
            continue
        if event.occurred_at < max(event.deadline, page.deadline):
            late = max(event.deadline, page.deadline)
            what = f"at {text_of(event.occurred_at)}, before its deadline {text_of(late)}"
            yield FindingKind.ENDED_EARLY, f"was ended {what}", []
        if event.status != page.due_status:
            deadlines = f"idle_at {text_of(row.idle_at)} and expires_at {text_of(row.expires_at)}"
            yield FindingKind.WRONG_STATUS, f"became {event.status}; {deadlines} name {page.due_status}", []


def _check_activity(page: Page, chapter: Chapter) -> _Found:
    """No acknowledged activity is lost, and the idle deadline is that of the last."""
    row = page.row
    saw = min([row.updated_at, *(event.last_activity_at for event in page.endings)])
    last = max(page.activities, key=lambda one: one.now, default=None)
    if last is not None and saw < last.now:
        what = f"knows of activity up to {text_of(saw)}; {text_of(last.now)} was acknowledged"
        yield FindingKind.LOST_ACTIVITY, what, [last]
        ended = next((one for one in page.endings if one.status != _ENDED_BY_PERSON), None)
        promised = min(last.idle_at, row.expires_at)
        if ended is not None and max(ended.deadline, page.deadline) <= ended.occurred_at < promised:
            what = f"at {text_of(ended.occurred_at)}, before the deadline {text_of(promised)} of acknowledged activity"
            yield FindingKind.ENDED_EARLY, f"was ended {what}", [last]
    for one in page.activities:
        if one.answer is not None and one.answer.updated_at < one.now:
            what = f"was answered with a last activity of {text_of(one.answer.updated_at)} to one at"
            yield FindingKind.LOST_ACTIVITY, f"{what} {text_of(one.now)}", [one]
    might = [one for one in [*page.activities, *chapter.unknown] if one.now == row.updated_at]
    if might and row.idle_at not in {one.idle_at for one in might}:
        what = f"has idle_at {text_of(row.idle_at)} after activity at {text_of(row.updated_at)}"
        right = f"{text_of(might[0].idle_at)} would be right"
        yield FindingKind.WRONG_DEADLINE, f"{what}; {right}", might


def _check_opening(page: Page, chapter: Chapter) -> _Found:
    """It has one beginning, and what was set by that has stayed."""
    del chapter
    row = page.row
    openers = [one for one in page.activities if one.answer is not None and one.answer.opened]
    if len(openers) > 1:
        yield FindingKind.UNEXPLAINED, "was opened more than once", openers
    for one in openers[:1]:
        if (row.created_at, row.expires_at) != (one.now, one.expires_at):
            has = f"was opened at {text_of(row.created_at)} and expires at {text_of(row.expires_at)}"
            right = f"{text_of(one.now)} and {text_of(one.expires_at)} would be right"
            yield FindingKind.WRONG_DEADLINE, f"{has}; {right}", [one]
    for one in page.answered:
        told = one.answer
        if told is not None and (told.created_at, told.expires_at) != (row.created_at, row.expires_at):
            was = f"{text_of(told.created_at)} and {text_of(told.expires_at)}"
            now = f"{text_of(row.created_at)} and {text_of(row.expires_at)}"
            yield FindingKind.WRONG_DEADLINE, f"was said to open and expire at {was}, and does at {now}", [one]
            return


def _check_ended_answers(page: Page, chapter: Chapter) -> _Found:
    """Whoever was answered with an ended conversation was answered what it still is."""
    del chapter
    row = page.row
    for one in page.answered:
        told = one.answer
        if told is None or one.outcome is not Outcome.OK or told.status in ACTIVE:
            continue
        was = (told.status, told.updated_at, told.idle_at, told.ended_at)
        now = (row.status, row.updated_at, row.idle_at, row.ended_at)
        if was != now:
            what = f"was answered as ended: {', '.join(map(_plain, was))}; it is {', '.join(map(_plain, now))}"
            yield FindingKind.CHANGED_AFTER_END, what, [one]
            return


def _plain(value: object) -> str:
    return str(text_of(value)) if hasattr(value, "utcoffset") else str(value)  # type: ignore[arg-type]
