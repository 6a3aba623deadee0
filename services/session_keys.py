"""The session key: what makes two messages belong to one conversation."""

import re

from models.errors import shown
from services.errors import InvalidValueError

#: Characters that people put into a number to make it readable.
_NUMBER_PUNCTUATION = re.compile(r"[\s().\-\u2010-\u2015]+")
_NUMBER = re.compile(r"\+?\d+", re.ASCII)


def canonical_session_key(*, owner_id: str, channel: str, from_number: str, to_number: str) -> str:
    """Return ``owner:channel:number:number``, the same in both directions of the pair.

    Numbers lose the spaces, dots, dashes and brackets of their written form; anything else that identifies a
    party (a web visitor's id, a handle) stays as it is. The channel is folded to lower case. A colon in a part is
    percent-encoded, so that two pairs never share a key.

    Raises InvalidValueError when a part is empty.
    """
    parts = {"owner_id": owner_id, "channel": channel, "from_number": from_number, "to_number": to_number}
    for name, part in parts.items():
        if not isinstance(part, str) or not part.strip():
            raise InvalidValueError(
                f"{name}: {shown(part)} cannot be part of a session key; give a text that is not empty"
            )
    first, second = sorted((_canonical_number(from_number), _canonical_number(to_number)))
    return ":".join(_escaped(part) for part in (owner_id.strip(), channel.strip().lower(), first, second))


def _escaped(part: str) -> str:
    return part.replace("%", "%25").replace(":", "%3A")


def _canonical_number(number: str) -> str:
    digits = _NUMBER_PUNCTUATION.sub("", number)
    return digits if _NUMBER.fullmatch(digits) else number.strip()
