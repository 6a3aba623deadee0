"""How many there are of something, with its noun."""


def counted(count: int, noun: str) -> str:
    """Return the number and the noun: ``1 row``, ``1,204 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
