"""The root of what Adjourn raises, and what the models refuse by themselves."""


class AdjournError(Exception):
    """Anything that Adjourn refuses or cannot do. Its text is one line that says what to do."""


class InvalidValueError(AdjournError, ValueError):
    """A value that makes no sense was given; the text names the thing, the value and what would be right."""


class NaiveDatetimeError(InvalidValueError):
    """A datetime without a time zone was given where an instant is needed."""


#: How much of a refused value an error shows, in characters.
_SHOWN = 60


def shown(value: object) -> str:
    """Return a refused value as an error shows it: in one line, and no more than the beginning of a long one."""
    try:
        written = repr(value)
    except (ValueError, RecursionError):
        # Of a number of thousands of digits, Python writes none.
        return f"a value of the type {type(value).__name__}"
    return written if len(written) <= _SHOWN else f"{written[:_SHOWN]}... ({len(written):,} characters)"
