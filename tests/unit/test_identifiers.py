from datetime import UTC, datetime, timedelta

import pytest

from models.identifiers import new_identifier
from tests.support import MOMENT, NOON


def test_an_identifier_is_a_uuid_of_version_7_that_tells_its_millisecond() -> None:
    identifier = new_identifier(NOON + timedelta(milliseconds=123))

    assert (identifier.version, identifier.variant) == (7, "specified in RFC 4122")
    assert identifier.int >> 80 == int(NOON.timestamp() * 1000) + 123


def test_identifiers_sort_by_their_instants_to_the_microsecond() -> None:
    instants = [NOON + number * MOMENT for number in range(3_000)]

    identifiers = [new_identifier(instant) for instant in instants]

    assert sorted(identifiers) == identifiers
    assert sorted(identifiers, key=str) == identifiers


def test_identifiers_of_one_instant_differ() -> None:
    assert len({new_identifier(NOON) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize("instant", [datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)])
def test_any_instant_has_one(instant: datetime) -> None:
    assert new_identifier(instant).version == 7
