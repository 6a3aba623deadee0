"""What ends an adoption before its end."""

from services.errors import AdjournError


class AdoptionStoppedError(AdjournError):
    """The adoption cannot go on by itself; the text says why and what to do. What is done stays done."""
