"""What the services raise at their edges, each class saying when; the root is ``models.errors.AdjournError``."""

import re
from typing import Self

from models.errors import AdjournError, InvalidValueError, NaiveDatetimeError

__all__ = [
    "AdjournError",
    "ConversationNotFoundError",
    "DataDirectoryError",
    "DatabaseNotMigratedError",
    "DatabaseUnavailableError",
    "HistoryError",
    "InvalidValueError",
    "NaiveDatetimeError",
    "RedisUnavailableError",
    "SettingsError",
]


def without_password(url: str) -> str:
    """Return ``url`` fit to be shown: its scheme, hosts and path. A password may hold any character, even an @."""
    scheme, separator, rest = url.strip().partition("://")
    if "@" in rest.partition("?")[2]:
        # The end of a password with a ? in it, or a query with an @ in it: nobody can tell.
        return f"{scheme}{separator}***"
    place = re.split(r"[?#]", rest.rpartition("@")[2])[0]
    return f"{scheme}{separator}{'***@' if '@' in rest else ''}{place}"


#: What Redis 6, in front, and Redis 7, behind, add to an error in a script.
_OF_SCRIPT = re.compile(
    r"^Error running script \(call to \w+\): (@user_script: ?\d+: )+-?|,? script: \w+, on @user_script:\d+\."
)

#: How Redis says that a user may not do something: Redis 6 of a command in a script, all else.
_NO_RIGHT = re.compile(r"user executing the script can't|no permissions", re.IGNORECASE)


def first_line(error: BaseException) -> str:
    """Return what went wrong, in one line: in the words of the database or Redis, without those around them."""
    said = str(getattr(error, "orig", None) or error).strip().splitlines()
    return _OF_SCRIPT.sub("", said[0]) if said else type(error).__name__


class ConversationNotFoundError(AdjournError, LookupError):
    """No conversation has the id or the session key that was given."""


class SettingsError(AdjournError):
    """A setting makes no sense; the text names the variable, the value and what would be right."""


class DatabaseUnavailableError(AdjournError):
    """The database cannot be reached or does not let us in."""


class DatabaseNotMigratedError(AdjournError):
    """The database's tables are missing or of another version; ``adjourn migrate`` makes them."""


class RedisUnavailableError(AdjournError):
    """Redis cannot be reached, or no redis-server could be started."""

    @classmethod
    def at(cls, url: str, error: object) -> Self:
        """Return the error of not reaching ``url``, whose password is not shown; ``error`` says why."""
        said = first_line(error) if isinstance(error, BaseException) else str(error)
        # A script does not always say what its user may not do.
        hint = "; ACL LOG says what it was, deploy/redis/users.acl what is needed" if _NO_RIGHT.search(said) else ""
        return cls(f"cannot use Redis at {without_password(url)}: {said}{hint}")


class DataDirectoryError(AdjournError):
    """The data directory cannot be used: not writable, or another run holds it."""


class HistoryError(AdjournError):
    """A message history cannot be read; the text names the line, the column and the value."""
