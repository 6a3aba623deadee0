"""Whether the answers of a key's operations can be explained: the book's chapter as the search takes it, and back."""

from collections.abc import Sequence

from tests.histories.book import ACTIVE, Chapter, Page
from tests.histories.final import Event
from tests.histories.findings import Finding, FindingKind
from tests.histories.instants import instant_at, microseconds_of, text_of
from tests.histories.model import Change, Deed, Life, Model, Seen, State
from tests.histories.record import Answer, Kind, Operation
from tests.histories.search import MOST_STATES, Call, Clock, Search, Stuck, TooManyStatesError

#: As many states as a finding tells of.
_TOLD = 3


def check_order(chapter: Chapter, clock: Clock, *, most_states: int = MOST_STATES) -> list[Finding]:
    """Return what nothing explains, of a key on which nothing else is wrong.

    The first operation that has no explanation ends the search.
    """
    named = {page.row.conv_id for page in chapter.pages}
    for one in chapter.operations:
        if one.kind is Kind.CLOSE and one.answer is not None and one.conv_id not in named:
            text = f"{_told(one)}, and there is no {one.conv_id} on this key"
            return [Finding(FindingKind.UNEXPLAINED, chapter.key, text, (one.number,))]
    model, calls = as_searched(chapter)
    try:
        stuck = Search(model, calls, clock, most_states=most_states).run()
    except TooManyStatesError:
        text = f"more than {most_states} states of {len(calls)} operations were possible at one time"
        return [Finding(FindingKind.UNDECIDED, chapter.key, text)]
    return [] if stuck is None else [_finding_of(stuck, chapter, model.lives)]


def as_searched(chapter: Chapter) -> tuple[Model, list[Call]]:
    """Return a chapter as the search takes it; a close of unknown outcome that names nothing there can be nothing."""
    lives = [_life_of(page) for page in chapter.pages]
    places = {life.conv_id: place for place, life in enumerate(lives)}
    calls = [
        Call(_deed_of(one, places), one.invoked, None if one.answer is None else one.returned)
        for one in chapter.operations
        if one.kind is not Kind.CLOSE or one.conv_id in places
    ]
    return Model(lives), calls


def _life_of(page: Page) -> Life:
    row = page.row
    begun = next((event for event in page.events if event.status == "progress"), None)
    ended = next((event for event in page.events if event.status not in ACTIVE), None)
    return Life(
        conv_id=row.conv_id,
        created_at=microseconds_of(row.created_at),
        expires_at=microseconds_of(row.expires_at),
        updated_at=microseconds_of(row.updated_at),
        idle_at=microseconds_of(row.idle_at),
        status=row.status,
        begun=_change_of(begun),
        ended=_change_of(ended),
        cause=None if ended is None else ended.cause,
    )


def _change_of(event: Event | None) -> Change | None:
    if event is None:
        return None
    instants = (event.last_activity_at, event.deadline, event.occurred_at)
    return Change(*(microseconds_of(instant) for instant in instants))


def _deed_of(one: Operation, places: dict[str, int]) -> Deed:
    return Deed(
        number=one.number,
        closes=places[one.conv_id] if one.kind is Kind.CLOSE and one.conv_id is not None else None,
        now=microseconds_of(one.now),
        idle_at=microseconds_of(one.idle_at),
        expires_at=microseconds_of(one.expires_at),
        answer=None if one.answer is None else _seen_of(one.answer, places),
    )


def _seen_of(answer: Answer, places: dict[str, int]) -> Seen:
    return Seen(
        places[answer.conv_id],
        answer.opened,
        answer.status,
        microseconds_of(answer.updated_at),
        microseconds_of(answer.idle_at),
        None if answer.ended_at is None else microseconds_of(answer.ended_at),
    )


def _finding_of(stuck: Stuck, chapter: Chapter, lives: Sequence[Life]) -> Finding:
    states = [_state(state, lives) for state in stuck.states[:_TOLD]]
    more = f", or {len(stuck.states) - _TOLD} more" if len(stuck.states) > _TOLD else ""
    could = f"before, there could be {'; or '.join(states)}{more}"
    if stuck.call is None:
        text = f"nothing leads to the final state; {could}"
        return Finding(FindingKind.UNEXPLAINED, chapter.key, text)
    number = stuck.call.deed.number
    (one,) = (one for one in chapter.operations if one.number == number)
    return Finding(FindingKind.UNEXPLAINED, chapter.key, f"{_told(one)}; {could}", (number,))


def _told(one: Operation) -> str:
    named = f" of {one.conv_id}" if one.conv_id is not None else ""
    asked = f"client {one.client}'s {one.kind}{named} at {text_of(one.now)}"
    if one.answer is None:
        return f"{asked} was not answered"
    answer = one.answer
    how = {True: "opened", False: "resumed", None: "as it stands"}[answer.opened]
    ended = f", ended {text_of(answer.ended_at)}" if answer.ended_at is not None else ""
    moved = f"last activity {text_of(answer.updated_at)}, idle_at {text_of(answer.idle_at)}"
    return f"{asked} was answered {answer.conv_id} {how}, {answer.status}, {moved}{ended}"


def _state(state: State, lives: Sequence[Life]) -> str:
    if state.place < 0:
        return "no conversation yet"
    life = lives[state.place]
    if not state.active:
        return f"none active after {life.conv_id}"
    known = {"last activity": state.updated_at, "idle_at": state.idle_at, "expires_at": life.expires_at}
    instants = ", ".join(f"{what} {text_of(instant_at(value))}" for what, value in known.items())
    return f"{life.conv_id} {'progress' if state.progress else 'pending'}, {instants}"
