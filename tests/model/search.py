"""A search through every state that a small model can reach, for one in which something is wrong."""

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

S = TypeVar("S")


class Step(NamedTuple, Generic[S]):
    """What may happen next."""

    #: In words: a template and what to put in.
    words: tuple[str | int, ...]
    state: S
    #: What must never happen and does, in words.
    broken: str = ""

    def __str__(self) -> str:
        template, *given = self.words
        return str(template).format(*given)


class Model(Protocol[S]):
    """States, what may happen in each, and what is wrong with one."""

    def start(self) -> S:
        """Return the first state."""

    def steps(self, state: S) -> Iterable[Step[S]]:
        """Return all that may happen in ``state``."""

    def canonical(self, state: S) -> S:
        """Return the one state that stands for all that differ from ``state`` by names only."""

    def hopeless(self, state: S) -> str:
        """Return why nothing good can come of ``state`` any more, in words; '' when it can."""


@dataclass(frozen=True)
class Found:
    """What a search has found."""

    states: int
    steps: int
    #: The most steps that the nearest way to a state has.
    depth: int
    #: What is wrong, and the shortest way there; empty when nothing is.
    broken: str = ""
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        size = f"{self.states:,} states, {self.steps:,} steps, up to {self.depth} deep"
        if not self.broken:
            return f"nothing wrong in {size}"
        way = "\n".join(f"{number:3}. {words}" for number, words in enumerate(self.trace, 1))
        return f"{self.broken} (after {size})\n{way}"


def search(model: Model[S], *, condoned: Collection[str] = ()) -> Found:
    """Visit every state breadth first, up to the first that is wrong in a way that is not ``condoned``."""
    start = model.canonical(model.start())
    before: dict[S, S | None] = {start: None}
    depths = {start: 0}
    waiting = deque([start])
    seen = {start}  # by their own names, which spares finding out what they stand for
    steps = 0

    def found(state: S, broken: str) -> Found:
        return Found(len(before), steps, depths[state], broken, _trace(model, before, state, broken))

    while waiting:
        state = waiting.popleft()
        for step in model.steps(state):
            steps += 1
            if step.broken and step.broken not in condoned:
                return found(state, step.broken)
            if step.state in seen:
                continue
            seen.add(step.state)
            then = model.canonical(step.state)
            if then not in before:
                before[then] = state
                depths[then] = depths[state] + 1
                waiting.append(then)
                if broken := model.hopeless(then):
                    return found(then, broken)
    return Found(len(before), steps, max(depths.values()))


def _trace(model: Model[S], before: dict[S, S | None], last: S, broken: str) -> tuple[str, ...]:
    """Return the way to ``last`` and into what is broken, with the same names from beginning to end."""
    way: list[S] = []
    state: S | None = last
    while state is not None:
        way.append(state)
        state = before[state]
    now, words = model.start(), []
    for then in reversed(way[:-1]):
        step = next(step for step in model.steps(now) if model.canonical(step.state) == then)
        now = step.state
        words.append(str(step))
    words.extend([str(step) for step in model.steps(now) if step.broken == broken][:1])
    return tuple(words)
