"""The rules as a machine: the state of one session key, and what each operation and each sweep makes of it.

It is written from the rules alone. What the final state tells about the conversations of the key (their order, how each
ended) is part of it, so that a step which leads elsewhere is refused at once, not at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Who ends a conversation, by its event.
_SWEEP, _ACTIVITY, _CLOSE = "sweep", "activity", "close"


class State(NamedTuple):
    """Where a key stands. Instants are in microseconds since 1970."""

    #: The place of its latest conversation among all that it ever has, -1 before the first.
    place: int = -1
    #: Whether that goes on; the rest is about it then, and empty otherwise.
    active: bool = False
    #: Whether there was activity since it opened.
    progress: bool = False
    updated_at: int = 0
    idle_at: int = 0


class Seen(NamedTuple):
    """What an operation is answered, apart from what its conversation opened with."""

    place: int
    opened: bool | None
    status: str
    updated_at: int
    idle_at: int
    ended_at: int | None


class Change(NamedTuple):
    """An event: what it saw and when it happened."""

    last_activity_at: int
    deadline: int
    occurred_at: int


@dataclass(frozen=True, slots=True)
class Life:
    """One conversation, as the final state tells it."""

    conv_id: str
    created_at: int
    expires_at: int
    updated_at: int
    idle_at: int
    status: str
    begun: Change | None
    ended: Change | None
    #: Who ended it; None while nobody did.
    cause: str | None

    @property
    def deadline(self) -> int:
        """When it was due at the last."""
        return min(self.idle_at, self.expires_at)


@dataclass(frozen=True, slots=True)
class Deed:
    """One operation, as the model takes it."""

    number: int
    #: None for what takes a message; else the place of the conversation to close.
    closes: int | None
    now: int
    idle_at: int
    expires_at: int
    #: What it was answered; None when it never was.
    answer: Seen | None


class Model:
    """The machine of one key with these conversations."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.lives = lives

    def take(self, state: State, deed: Deed) -> State | None:
        """Return the state after ``deed``; None when it would have been answered something else."""
        took = self._close(state, deed) if deed.closes is not None else self._message(state, deed)
        if took is None:
            return None
        after, seen = took
        return after if deed.answer is None or seen == deed.answer else None

    def sweep(self, state: State, clock: float) -> State | None:
        """Return the state after a sweep when the clock shows at most ``clock``; None when no sweep can have ended it.

        What another program than ours ended, it may have ended at any time.
        """
        if not state.active:
            return None
        life = self.lives[state.place]
        if life.cause is None or life.cause in {_ACTIVITY, _CLOSE}:
            return None
        if life.cause == _SWEEP and life.deadline > clock:
            return None
        return self._ended(state)

    def is_final(self, state: State) -> bool:
        """Whether the final state is this one."""
        if state.place != len(self.lives) - 1:
            return False
        if not self.lives or self.lives[-1].ended is not None:
            return not state.active
        life = self.lives[-1]
        status = "progress" if state.progress else "pending"
        return state.active and (state.updated_at, state.idle_at, status) == (
            life.updated_at,
            life.idle_at,
            life.status,
        )

    def _message(self, state: State, deed: Deed) -> tuple[State, Seen] | None:
        if not state.active:
            return self._open(state, deed)
        life = self.lives[state.place]
        if deed.now < min(state.idle_at, life.expires_at):
            return self._resume(state, deed)
        ended = self._ended(state) if self._ends(life, _ACTIVITY, deed.now) else None
        return None if ended is None else self._open(ended, deed)

    def _open(self, state: State, deed: Deed) -> tuple[State, Seen] | None:
        place = state.place + 1
        if place == len(self.lives):
            return None
        life = self.lives[place]
        if (life.created_at, life.expires_at) != (deed.now, deed.expires_at):
            return None
        after = State(place, True, False, deed.now, deed.idle_at)
        return after, Seen(place, True, "pending", deed.now, deed.idle_at, None)

    def _resume(self, state: State, deed: Deed) -> tuple[State, Seen] | None:
        life = self.lives[state.place]
        if not state.progress:
            begun = Change(state.updated_at, min(state.idle_at, life.expires_at), deed.now)
            if life.begun != begun:
                return None
        moves = deed.now >= state.updated_at
        updated_at, idle_at = (deed.now, deed.idle_at) if moves else (state.updated_at, state.idle_at)
        if updated_at > life.updated_at:
            return None
        after = State(state.place, True, True, updated_at, idle_at)
        return after, Seen(state.place, False, "progress", updated_at, idle_at, None)

    def _close(self, state: State, deed: Deed) -> tuple[State, Seen] | None:
        place = -1 if deed.closes is None else deed.closes
        life = self.lives[place]
        if place > state.place:
            return None
        if state.active and place == state.place:
            ended = self._ended(state) if self._ends(life, _CLOSE, deed.now) else None
            if ended is None:
                return None
            state = ended
        elif life.ended is None:
            return None
        moment = None if life.ended is None else life.ended.occurred_at
        return state, Seen(place, None, life.status, life.updated_at, life.idle_at, moment)

    def _ends(self, life: Life, cause: str, moment: int) -> bool:
        return life.ended is not None and life.cause == cause and life.ended.occurred_at == moment

    def _ended(self, state: State) -> State | None:
        """Return the state after the end of the active conversation, None when it did not end as it now stands."""
        life = self.lives[state.place]
        known = (state.updated_at, state.idle_at)
        if known != (life.updated_at, life.idle_at) or state.progress != (life.begun is not None):
            return None
        return State(state.place)
