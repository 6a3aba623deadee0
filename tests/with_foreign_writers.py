"""A plugin: tests run on databases with the triggers for other writers, which the services must not notice.

    pytest -p tests.with_foreign_writers tests/integration/test_conversations.py tests/integration/test_simulation.py

What tests/integration/test_models.py has plain SQL leave out, the triggers fill in; the rest passes as without them.
"""

import pytest
from sqlalchemy import Engine

from services import migrations
from services.foreign_writers import install
from tests.support import TIMEOUTS


def pytest_configure(config: pytest.Config) -> None:
    """Have each database that is migrated get the triggers, those of simulations too."""
    upgrade = migrations.upgrade

    def upgrade_and_install(engine: Engine, revision: str = "head") -> None:
        upgrade(engine, revision)
        if engine.dialect.name == "postgresql" and revision == "head":
            with engine.begin() as connection:
                install(connection, timeouts=TIMEOUTS)

    patch = pytest.MonkeyPatch()
    patch.setattr(migrations, "upgrade", upgrade_and_install)
    config.add_cleanup(patch.undo)
