"""What the checker may find."""

from dataclasses import dataclass
from enum import StrEnum


class FindingKind(StrEnum):
    """What is wrong."""

    #: Acknowledged activity is not in its conversation, or that is not there.
    LOST_ACTIVITY = "lost_activity"
    #: A conversation was ended before its deadline.
    ENDED_EARLY = "ended_early"
    #: A conversation has more than one end.
    ENDED_TWICE = "ended_twice"
    #: Two conversations were active on a key at once.
    TWO_ACTIVE = "two_active"
    #: A status is not the one that the deadline names.
    WRONG_STATUS = "wrong_status"
    #: A deadline does not follow from the activity.
    WRONG_DEADLINE = "wrong_deadline"
    #: A conversation is not as its last event, or an answer after it, left it.
    CHANGED_AFTER_END = "changed_after_end"
    #: A change of status has no event, or an event no conversation.
    UNRECORDED = "unrecorded"
    #: A deadline was reached for longer than is allowed, and nobody ended the conversation.
    LEFT_DUE = "left_due"
    #: No order of a key's operations, and of sweeps between them, explains the answers and the final state.
    UNEXPLAINED = "unexplained"
    #: There were too many orders to try.
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: FindingKind
    #: The session key; empty where it is about all of them.
    key: str
    text: str
    #: The numbers of the operations that show it.
    operations: tuple[int, ...] = ()

    def __str__(self) -> str:
        about = f" {self.key}:" if self.key else ""
        shown = f" (operations {', '.join(map(str, self.operations))})" if self.operations else ""
        return f"{self.kind}:{about} {self.text}{shown}"
