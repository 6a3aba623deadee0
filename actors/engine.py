"""The worker process's own engine: made when first asked for, so it never crosses a fork."""

from functools import cache

from sqlalchemy import Engine

from actors.settings import settings
from services.database import create_database_engine


@cache
def get_engine() -> Engine:
    """Return this process's engine for ``DATABASE_URL``."""
    return create_database_engine(settings.database)
