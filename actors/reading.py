"""Which messages a worker can run: anybody may have written to its queue, and dramatiq believes what it finds there.

Of what it cannot decode its consumer fails, with all that lay beside it. A queue of another name, or exceptions to
expect, end the thread that runs the message; an hour in the future occupies one for good.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import dramatiq
from dramatiq.common import q_name
from dramatiq.errors import ActorNotFound, DecodeError

from services.errors import AdjournError
from services.operations.dead_letters import message_of
from services.values import LONGEST_TEXT, text_of

#: How long a message may be, in bytes: ours have a few hundred. dramatiq writes all of one into the log when it fails.
LONGEST_MESSAGE = 16 * 2**20


class UnreadableMessageError(AdjournError):
    """A message that no worker can run; the text says why, in one line."""


def read_message(data: bytes, *, queue_name: str, broker: dramatiq.Broker) -> "dramatiq.Message[None]":
    """Return the message that was found in a queue.

    Raises UnreadableMessageError; its cause, where it has one, is what dramatiq calls it.
    """
    if len(data) > LONGEST_MESSAGE:
        raise UnreadableMessageError(
            f"it has {len(data):,} bytes, of which no worker takes more than {LONGEST_MESSAGE:,}"
        )
    if isinstance(dramatiq.get_encoder(), dramatiq.JSONEncoder) and message_of(data) is None:
        raise UnreadableMessageError("it cannot be read: it is no JSON of dramatiq's")
    try:
        message: dramatiq.Message[None] = dramatiq.Message.decode(data)
    except DecodeError as error:  # a field too many
        raise UnreadableMessageError(f"it cannot be read: {_line(error.__cause__ or error)}") from None
    try:
        actor = broker.get_actor(message.actor_name)
    except ActorNotFound as error:
        raise UnreadableMessageError(f"there is no actor {text_of(message.actor_name)}") from error
    wrong = _wrong_fields(message, queue_name) or _wrong_options(message, queue_name)
    if wrong is None and actor.options.get("max_retries") == 0:
        # Others are tried again, perhaps by a worker of the next version, which knows these arguments.
        wrong = _wrong_call(message, actor)
    if wrong is not None:
        raise UnreadableMessageError(wrong)
    return message


def _wrong_fields(message: "dramatiq.Message[None]", queue_name: str) -> str | None:
    if text_of(message.message_id) != message.message_id:
        return f"its message_id is no text of 1 to {LONGEST_TEXT} printable characters"
    if message.queue_name != queue_name:
        return f"it says that it is in the queue {text_of(message.queue_name)}"
    if not _is_finite(message.message_timestamp):
        return "its message_timestamp is no number"
    return None


def _wrong_options(message: "dramatiq.Message[None]", queue_name: str) -> str | None:
    for name, (is_right, right) in _OPTIONS.items():
        if name in message.options and not is_right(message.options[name]):
            return f"its option {name} is not {right}"
    if "redis_message_id" not in message.options:
        return "it has no redis_message_id, by which it could be said to be done"
    if message.options.get("eta") is not None and q_name(queue_name) == queue_name:
        return "it is for later, and not in the queue of such messages"
    return None


def _wrong_call(message: "dramatiq.Message[None]", actor: "dramatiq.Actor[Any, Any]") -> str | None:
    try:
        signature = inspect.signature(actor.fn)
    except ValueError:  # it is written in C, and does not say
        return None
    try:
        signature.bind(*message.args, **message.kwargs)
    except TypeError as error:
        return f"its arguments are not those of {message.actor_name}: {_line(error)}"
    return None


def _line(error: BaseException) -> str:
    return text_of(str(error)) or type(error).__name__


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return not math.isnan(value)
    except OverflowError:  # a whole number that no float holds, and nobody can reckon with
        return False


def _is_finite(value: object) -> bool:
    return _is_number(value) and value not in {math.inf, -math.inf}


def _is_number_or_none(value: object) -> bool:
    return value is None or _is_number(value)


def _is_text(value: object) -> bool:
    return text_of(value) == value


def _is_plain(value: object) -> bool:
    return _is_number_or_none(value) or _is_text(value)


#: The options that dramatiq and the middleware here read without a look: what is right for each, and its name. Those of
#: others are for whoever reads them.
_OPTIONS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "redis_message_id": (_is_text, "a text"),
    "retries": (lambda value: _is_finite(value) and value >= 0, "a number from 0 on"),
    "max_retries": (_is_number_or_none, "a number"),
    "min_backoff": (lambda value: _is_finite(value) and value >= 0, "a number of milliseconds"),
    "max_backoff": (lambda value: _is_finite(value) and value >= 0, "a number of milliseconds"),
    "time_limit": (_is_number_or_none, "a number of milliseconds"),
    "max_age": (_is_number_or_none, "a number of milliseconds"),
    "eta": (lambda value: value is None or _is_finite(value), "a number of milliseconds"),
    "throws": (lambda value: not value, "for a message to say"),
    "scheduled_at": (_is_plain, "a short text"),
    "term": (_is_plain, "a number"),
}
