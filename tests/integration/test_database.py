"""Engines and their limits."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from services.database import create_database_engine, current_time, set_locally
from services.database_url import parse_database_url
from services.errors import InvalidValueError


def test_a_statement_that_waits_too_long_is_ended_and_the_next_transaction_is_not_limited(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    with engine.begin() as holder, engine.connect() as waiting:
        holder.execute(text("LOCK TABLE conversations"))
        set_locally(waiting, statement_timeout="50")
        with pytest.raises(DBAPIError, match="statement timeout"):
            waiting.execute(text("SELECT count(*) FROM conversations"))
    with engine.begin() as connection:
        assert connection.execute(text("SHOW statement_timeout")).scalar_one() == "0"
    engine.dispose()


def test_an_error_does_not_quote_the_parameters_of_its_statement(engine: Engine) -> None:
    with pytest.raises(DBAPIError) as failed, engine.begin() as connection:
        connection.execute(text("SELECT :number FROM nowhere"), {"number": "+33612345678"})

    assert "+33612345678" not in str(failed.value)


def test_the_database_tells_the_time_in_utc(engine: Engine) -> None:
    with engine.begin() as connection:
        told = current_time(connection)

    assert told.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "postgresql://u:a@b@host/x"])
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_database_url(url)
