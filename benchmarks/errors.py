"""What a benchmark ends with when it cannot go on."""


class BenchmarkError(Exception):
    """Something cannot be measured, or what was measured did the wrong thing; the text says what."""
