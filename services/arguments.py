"""What the services take: texts and JSON that both databases store, ids, sizes. The rest is refused by name."""

import json
import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from models.errors import shown
from services.errors import InvalidValueError

#: Longest text in a column, in characters.
LONGEST_TEXT = 255
#: In bytes of UTF-8: a row of PostgreSQL's index takes 2,704 (BTMaxItemSize).
LONGEST_SESSION_KEY = 2_048
#: Most rows that a list returns at once.
LONGEST_PAGE = 10_000
#: In characters of JSON. PostgreSQL takes sixteen times as much at most.
LONGEST_JSON = 16 * 2**20
#: How many mappings and lists may lie in each other: far less than any program that reads them gives up at.
DEEPEST_JSON = 100
#: In bits: a larger number is none that a double, and so most readers of JSON, can hold.
_LARGEST_NUMBER = 1_024
#: How much of the way to it an error shows, in characters.
_LONGEST_PLACE = 120
#: In bytes, as Linux and macOS take them: NAME_MAX, and PATH_MAX with room for the directory where the process is.
_LONGEST_NAME = 255
_LONGEST_PATH = 3_000
#: What ends a line, or belongs to a terminal, and what is left of bytes that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def require_text(name: str, value: object, *, most_bytes: int | None = None) -> str:
    """Return ``value`` if it is a text of 1 to 255 characters, or to ``most_bytes`` of UTF-8 instead.

    Raises InvalidValueError, which names ``name``.
    """
    if not isinstance(value, str) or not value:
        raise InvalidValueError(f"{name}: {shown(value)} is not valid; give a text that is not empty")
    if not _is_storable(value):
        raise InvalidValueError(f"{name}: {shown(value)} has a character that is never stored (NUL or a surrogate)")
    if most_bytes is None and len(value) > LONGEST_TEXT:
        raise InvalidValueError(f"{name}: {shown(value)} is too long; give at most {LONGEST_TEXT} characters")
    if most_bytes is not None and len(value.encode()) > most_bytes:
        raise InvalidValueError(f"{name}: {shown(value)} is too long; give at most {most_bytes:,} bytes of UTF-8")
    return value


def require_session_key(value: object) -> str:
    """Return ``value`` if it can be a session key.

    Raises InvalidValueError.
    """
    return require_text("session_key", value, most_bytes=LONGEST_SESSION_KEY)


def require_identifier(name: str, value: object) -> uuid.UUID:
    """Return ``value``, a UUID or the usual 36 characters of one, as a UUID.

    Raises InvalidValueError, which names ``name``.
    """
    if isinstance(value, uuid.UUID):
        return value
    if isinstance(value, str) and _UUID.fullmatch(value):
        return uuid.UUID(value)
    raise InvalidValueError(f"{name}: {shown(value)} is not a UUID; give one, such as the conv_id of a conversation")


def require_path(text: str) -> str:
    """Return ``text`` if a file can have it for its path, absolute or from where the process is.

    Raises InvalidValueError.
    """
    if _UNPRINTABLE.search(text):
        raise InvalidValueError("it has a control character, or is not UTF-8; give the path of a file")
    parts = [len(part.encode()) for part in text.split("/")]
    if max(parts) > _LONGEST_NAME or sum(parts) + len(parts) > _LONGEST_PATH:
        raise InvalidValueError(
            f"it is too long for the path of a file; give at most {_LONGEST_PATH:,} bytes, and {_LONGEST_NAME} between "
            "two slashes"
        )
    return text


def require_size(name: str, value: int, most: int) -> int:
    """Return ``value`` if it is a whole number from 1 to ``most``.

    Raises InvalidValueError, which names ``name``.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidValueError(f"{name}: {shown(value)} is out of range; it must be a whole number from 1 to {most:,}")
    return value


def require_json_object(name: str, value: object) -> dict[str, Any]:
    """Return ``value`` if it is a mapping of names to what JSON can say, and both databases can hold.

    Raises InvalidValueError, which names ``name`` and the place.
    """
    if not isinstance(value, Mapping):
        raise InvalidValueError(f"{name}: {shown(value)} is not a mapping; give names and JSON values")
    plain = dict(value)
    _require_json(name, plain, room=DEEPEST_JSON)
    if plain and (length := len(json.dumps(plain))) > LONGEST_JSON:
        raise InvalidValueError(
            f"{name}: it is too long: {length:,} characters of JSON; give at most {LONGEST_JSON:,}, and keep the rest "
            "elsewhere"
        )
    return plain


def _require_json(place: str, value: object, *, room: int) -> None:
    """Return if ``value`` is JSON in which at most ``room`` mappings and lists lie in each other."""
    if not room and isinstance(value, dict | list | tuple):
        raise InvalidValueError(
            f"{re.split(r'[.[]', place)[0]}: it is nested more than {DEEPEST_JSON} deep, or contains itself; give "
            "plain JSON values"
        )
    match value:
        case None | bool():
            return
        case int() if value.bit_length() <= _LARGEST_NUMBER:
            return
        case float() if math.isfinite(value):
            return
        case str() if _is_storable(value):
            return
        case list() | tuple():
            for position, item in enumerate(value):
                _require_json(f"{place}[{position}]", item, room=room - 1)
        case dict() if all(isinstance(key, str) and _is_storable(key) for key in value):
            for key, item in value.items():
                _require_json(f"{place}.{key}", item, room=room - 1)
        case _:
            raise InvalidValueError(
                f"{_printable(place)}: {shown(value)} cannot be stored as JSON; give texts (without NUL), numbers up "
                "to 1.8e308, true, false, null, lists, and mappings with texts for names"
            )


def _is_storable(text: str) -> bool:
    """Return whether both databases take ``text``: PostgreSQL has no NUL, and UTF-8 no surrogates."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))


def _printable(place: str) -> str:
    """Return a place in JSON, whose names may be anything, fit for one line."""
    written = place if place.isprintable() else repr(place)[1:-1]
    return written if len(written) <= _LONGEST_PLACE else f"{written[:_LONGEST_PLACE]}..."
