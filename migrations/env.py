"""Run the revisions on the connection that ``services.migrations`` hands over."""

from alembic import context
from sqlmodel import SQLModel

import models.event
import models.latest
import models.set_aside  # noqa: F401 - they fill the metadata that autogenerate compares with

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    version_table=context.config.attributes["version_table"],
    transaction_per_migration=False,
)
context.run_migrations()
