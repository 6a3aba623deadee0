"""The history: what clients did to conversations and what they were answered, one JSON object a line.

A client writes an operation once it knows how that went, or knows that it never will. Nothing may be left out: an
operation that may have taken effect and is not in the history makes what it did unexplained.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from tests.histories.instants import instant_of, instant_or_none_of, text_of


class Kind(StrEnum):
    """What was asked."""

    #: open_or_resume_conversation
    MESSAGE = "message"
    #: record_activity, by the session key
    ACTIVITY = "activity"
    #: record_activity, by the conversation's id
    ACTIVITY_BY_ID = "activity_by_id"
    #: close_conversation
    CLOSE = "close"


class Outcome(StrEnum):
    """What the client knows of it."""

    #: Committed, and answered.
    OK = "ok"
    #: It never happened: an error before COMMIT was sent, or the database said that it rolled back.
    REFUSED = "refused"
    #: It may have happened: the answer to COMMIT never came.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The conversation as the operation left it."""

    conv_id: str
    #: Whether the message opened it; None for a close.
    opened: bool | None
    status: str
    created_at: datetime
    updated_at: datetime
    idle_at: datetime
    expires_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One operation of one client. A client does one at a time."""

    number: int
    client: int
    kind: Kind
    #: The session key that it is about, also where it names a conversation.
    key: str
    #: The conversation that it names, where it names one.
    conv_id: str | None = None
    #: The instant handed to the service: read from the database's clock after ``invoked`` and before ``returned``.
    now: datetime
    #: In seconds.
    idle_timeout: float
    #: In seconds.
    expire_after: float
    #: Seconds of the machine's monotonic clock, before anything of it was done, the reading of ``now`` included.
    invoked: float
    #: The same clock, after the answer; None when none came.
    returned: float | None
    outcome: Outcome
    #: There when the outcome is ``ok``.
    answer: Answer | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.answer is not None) != (self.outcome is Outcome.OK):
            raise ValueError(f"operation {self.number}: an answer is there exactly when the outcome is ok")
        if self.outcome is Outcome.OK and self.returned is None:
            raise ValueError(f"operation {self.number}: ok, and never returned")
        if (self.conv_id is not None) != (self.kind in {Kind.ACTIVITY_BY_ID, Kind.CLOSE}):
            raise ValueError(f"operation {self.number}: {self.kind} with conv_id {self.conv_id}")

    @property
    def idle_at(self) -> datetime:
        """The idle deadline that this activity, were it the last, sets."""
        return self.now + timedelta(seconds=self.idle_timeout)

    @property
    def expires_at(self) -> datetime:
        """The expiry of a conversation that this opens."""
        return self.now + timedelta(seconds=self.expire_after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was overdue at an instant at which, by then, nothing may have been for long: no fault, sweeps at work."""

    #: By the database's clock.
    at: datetime
    #: The longest reached deadline of those then active; None when none was reached.
    due_since: datetime | None
    #: How long a deadline may have been reached by then, in seconds: one interval and one batch.
    allowed: float
    #: After which fault, for people.
    after: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """All of a run."""

    operations: tuple[Operation, ...]
    checkpoints: tuple[Checkpoint, ...] = ()


def write(stream: TextIO, entry: Operation | Checkpoint) -> None:
    """Write one line. Who writes from several threads does so under a lock of theirs."""
    stream.write(json.dumps(_plain(entry), separators=(",", ":")) + "\n")


def write_all(path: Path, entries: Iterable[Operation | Checkpoint]) -> None:
    """Write a whole history."""
    with path.open("w") as stream:
        for entry in entries:
            write(stream, entry)


def read(path: Path) -> History:
    """Read a history.

    Raises ValueError, with the number of the line, for one that is not an operation and not a checkpoint, and for a
    number that comes twice.
    """
    operations: dict[int, Operation] = {}
    checkpoints = []
    with path.open() as stream:
        for place, line in enumerate(stream, 1):
            try:
                entry = _entry_of(json.loads(line))
                if isinstance(entry, Checkpoint):
                    checkpoints.append(entry)
                elif operations.setdefault(entry.number, entry) is not entry:
                    raise ValueError(f"operation {entry.number} comes twice")  # noqa: TRY301 - all get their line
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path.name}, line {place}: {error!r}") from error
    return History(tuple(operations.values()), tuple(checkpoints))


def _plain(entry: Operation | Checkpoint) -> dict[str, Any]:
    plain = asdict(entry)
    for known in (plain, plain.get("answer") or {}):
        known.update({name: text_of(value) for name, value in known.items() if isinstance(value, datetime)})
    return plain if isinstance(entry, Operation) else {"checkpoint": plain}


def _entry_of(plain: dict[str, Any]) -> Operation | Checkpoint:
    if "checkpoint" in plain:
        known = plain["checkpoint"]
        return Checkpoint(
            **known | {"at": instant_of(known["at"]), "due_since": instant_or_none_of(known["due_since"])}
        )
    answer = plain["answer"] and Answer(
        **plain["answer"]
        | {name: instant_of(plain["answer"][name]) for name in ("created_at", "updated_at", "idle_at", "expires_at")}
        | {"ended_at": instant_or_none_of(plain["answer"]["ended_at"])}
    )
    typed = {
        "kind": Kind(plain["kind"]),
        "outcome": Outcome(plain["outcome"]),
        "now": instant_of(plain["now"]),
        "answer": answer,
    }
    return Operation(**plain | typed)
