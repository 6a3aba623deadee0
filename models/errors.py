"""The root of what Adjourn raises, and what the models refuse by themselves."""


class AdjournError(Exception):
    """Anything that Adjourn refuses or cannot do. Its text is one line that says what to do."""


class InvalidValueError(AdjournError, ValueError):
    """A value that makes no sense was given; the text names the thing, the value and what would be right."""


class NaiveDatetimeError(InvalidValueError):
    """A datetime without a time zone was given where an instant is needed."""
