"""The checker of the conversation rules: what clients were answered, against what is there in the end.

It shares nothing with the services, the models and the actors. It holds when

- every operation that may have taken effect is in the history, also those of unknown outcome, and no conversation of
  their keys was there before or has been removed;
- ``now`` of each that was not refused was read from the database's clock between ``invoked`` and ``returned``, and that
  clock did not go back.
"""

from collections.abc import Sequence
from datetime import timedelta

from tests.histories.book import Book, open_book
from tests.histories.conversations import check_conversations
from tests.histories.final import FinalState
from tests.histories.findings import Finding, FindingKind
from tests.histories.instants import microseconds_of
from tests.histories.lifetimes import check_lifetimes
from tests.histories.orders import check_order
from tests.histories.punctuality import check_checkpoints, check_rest
from tests.histories.record import Checkpoint, Operation, Outcome
from tests.histories.search import Clock


def check(
    operations: Sequence[Operation],
    final: FinalState,
    checkpoints: Sequence[Checkpoint] = (),
    *,
    allowed: timedelta | None = None,
) -> list[Finding]:
    """Return what is wrong, nothing when all holds.

    With ``allowed``, how long a deadline may have been reached when the final state was read, what is left due is
    found too. A key on which something is wrong by itself is not searched for an order of its operations: there is
    none, and what is wrong is said already.
    """
    book = open_book(operations, final)
    clock = _clock_of(operations, final)
    found = check_checkpoints(checkpoints) + _check_presence(book)
    wrong = {finding.key for finding in found}
    for chapter in book.chapters:
        of_key = check_conversations(chapter) + check_lifetimes(chapter)
        if not of_key and chapter.key not in wrong and chapter.operations:
            of_key = check_order(chapter, clock)
        found += of_key
    return found + ([] if allowed is None else check_rest(final, allowed))


def _clock_of(operations: Sequence[Operation], final: FinalState) -> Clock:
    """Return the clock as everybody read it; last of all, who read the final state."""
    read = [(one.invoked, one.now) for one in operations if one.outcome is not Outcome.REFUSED]
    return Clock([(time, microseconds_of(now)) for time, now in [*read, (float("inf"), final.read_at)]])


def _check_presence(book: Book) -> list[Finding]:
    """What was acknowledged is there, and what is recorded too."""
    found = []
    for one in book.homeless:
        conv_id = one.answer.conv_id if one.answer is not None else None
        text = f"{conv_id} was acknowledged, and is not there on this key"
        found.append(Finding(FindingKind.LOST_ACTIVITY, one.key, text, (one.number,)))
    for event in book.stray_events:
        text = f"event {event.event_id} is of {event.conv_id}, which is not there"
        found.append(Finding(FindingKind.UNRECORDED, "", text))
    return found
