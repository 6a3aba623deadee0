"""How much is tried: little and always the same in `make test`, as much as FUZZ_EXAMPLES says in `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

_ASKED = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def tried(few: int, *, share: float = 1.0) -> settings:
    """Return the settings of a test that tries ``few`` examples, or its ``share`` of what is asked for, new ones."""
    return settings(
        max_examples=max(int(_ASKED * share), 1) if _ASKED else few,
        derandomize=not _ASKED,
        # A database, a file and a Redis are emptied by the test itself, between two examples.
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
