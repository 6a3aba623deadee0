"""The worker process's own engine: made when first asked for, so it never crosses a fork."""

from functools import cache

from sqlalchemy import Engine

from actors.settings import settings
from services.database import create_database_engine


@cache
def get_engine() -> Engine:
    """Return this process's engine for ``DATABASE_URL``."""
    return create_database_engine(settings.database)


@cache
def get_probe_engine() -> Engine:
    """Return one of a single connection: whether the database answers is asked beside runs that may hold all others."""
    return create_database_engine(settings.database, pool_size=1, max_overflow=0)
