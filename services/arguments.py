"""What the services take: texts and JSON that both databases store, and sizes. The rest is refused by name."""

import math
from collections.abc import Mapping
from typing import Any

from services.errors import InvalidValueError

#: Longest text in a column, in characters.
LONGEST_TEXT = 255
#: In bytes of UTF-8: a row of PostgreSQL's index takes 2,704 (BTMaxItemSize).
LONGEST_SESSION_KEY = 2_048
#: Most rows that a list returns at once.
LONGEST_PAGE = 10_000
#: How much of a refused value an error shows, in characters.
_SHOWN = 60


def require_text(name: str, value: object, *, most_bytes: int | None = None) -> str:
    """Return ``value`` if it is a text of 1 to 255 characters, or to ``most_bytes`` of UTF-8 instead.

    Raises InvalidValueError, which names ``name``.
    """
    if not isinstance(value, str) or not value:
        raise InvalidValueError(f"{name}: {_shown(value)} is not valid; give a text that is not empty")
    if not _is_storable(value):
        raise InvalidValueError(f"{name}: {_shown(value)} has a character that is never stored (NUL or a surrogate)")
    if most_bytes is None and len(value) > LONGEST_TEXT:
        raise InvalidValueError(f"{name}: {_shown(value)} is too long; give at most {LONGEST_TEXT} characters")
    if most_bytes is not None and len(value.encode()) > most_bytes:
        raise InvalidValueError(f"{name}: {_shown(value)} is too long; give at most {most_bytes:,} bytes of UTF-8")
    return value


def require_session_key(value: object) -> str:
    """Return ``value`` if it can be a session key.

    Raises InvalidValueError.
    """
    return require_text("session_key", value, most_bytes=LONGEST_SESSION_KEY)


def require_size(name: str, value: int, most: int) -> int:
    """Return ``value`` if it is from 1 to ``most``.

    Raises InvalidValueError, which names ``name``.
    """
    if not 1 <= value <= most:
        raise InvalidValueError(f"{name}: {value!r} is out of range; it must be from 1 to {most:,}")
    return value


def require_json_object(name: str, value: object) -> dict[str, Any]:
    """Return ``value`` if it is a mapping of names to what JSON can say, and both databases can hold.

    Raises InvalidValueError, which names ``name`` and the place.
    """
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}: {_shown(value)} is not a mapping; give names and JSON values")
    plain = dict(value)
    try:
        _require_json(name, plain)
    except RecursionError:
        raise InvalidValueError(
            f"{name}: it is nested too deeply, or contains itself; give plain JSON values"
        ) from None
    return plain


def _require_json(place: str, value: object) -> None:
    match value:
        case None | bool() | int():
            return
        case float() if math.isfinite(value):
            return
        case str() if _is_storable(value):
            return
        case list() | tuple():
            for position, item in enumerate(value):
                _require_json(f"{place}[{position}]", item)
        case dict() if all(isinstance(key, str) and _is_storable(key) for key in value):
            for key, item in value.items():
                _require_json(f"{place}.{key}", item)
        case _:
            raise InvalidValueError(
                f"{place}: {_shown(value)} cannot be stored as JSON; give texts (without NUL), finite numbers, true, "
                "false, null, lists, and mappings with texts for names"
            )


def _is_storable(text: str) -> bool:
    """Return whether both databases take ``text``: PostgreSQL has no NUL, and UTF-8 no surrogates."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(shown)} characters)"
