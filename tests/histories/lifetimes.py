"""At most one conversation of a key is active: at the end, and at any time that events or answers tell of."""

from collections.abc import Iterator
from itertools import pairwise

from tests.histories.book import ACTIVE, Chapter, Page
from tests.histories.findings import Finding, FindingKind
from tests.histories.record import Operation


def check_lifetimes(chapter: Chapter) -> list[Finding]:
    """Return the conversations of a key that were active together."""
    return [
        Finding(FindingKind.TWO_ACTIVE, chapter.key, text, tuple(one.number for one in shown))
        for text, shown in (*_at_the_end(chapter), *_before(chapter))
    ]


def _at_the_end(chapter: Chapter) -> Iterator[tuple[str, list[Operation]]]:
    active = [page.row.conv_id for page in chapter.pages if page.row.status in ACTIVE]
    if len(active) > 1:
        yield f"{' and '.join(active)} are active", []


def _before(chapter: Chapter) -> Iterator[tuple[str, list[Operation]]]:
    """Compare each conversation with the one that ended next.

    Their instants say nothing: a message may be stamped long before it gets through. Events are numbered in the order
    in which they were written, and what was answered before something was asked came before it.
    """
    if any(page.row.status not in ACTIVE and not page.endings for page in chapter.pages):
        return  # Nobody knows their order.
    for earlier, later in pairwise(chapter.pages):
        first, second = earlier.row.conv_id, later.row.conv_id
        if earlier.endings and later.events and later.events[0].event_id < earlier.endings[0].event_id:
            written = f"event {later.events[0].event_id}, before {first} ended in event"
            yield f"{second} changed in {written} {earlier.endings[0].event_id}", []
            continue
        known = min(later.answered, key=_returned, default=None)
        after = max(_while_active(earlier), key=lambda one: one.invoked, default=None)
        if known is not None and after is not None and _returned(known) < after.invoked:
            yield f"{second} was there before a message was taken into {first}", [known, after]


def _while_active(page: Page) -> list[Operation]:
    return [one for one in page.activities if one.answer is not None and one.answer.status in ACTIVE]


def _returned(one: Operation) -> float:
    return float("inf") if one.returned is None else one.returned
