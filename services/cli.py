"""The command of a person: ``adjourn``. Each command imports what it needs when it runs, so that help is instant."""

# ruff: noqa: PLC0415 - see above

import sys
from typing import Annotated

import typer

app = typer.Typer(
    help="Ends idle and expired conversations on time: once each, with a record of why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _commands() -> None:
    """Keep ``adjourn`` a group, however few its commands are."""


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to go; 'base' removes all tables.")] = "head",
    *,
    down: Annotated[bool, typer.Option("--down", help="Go down to the revision instead of up.")] = False,
) -> None:
    """Make or update the tables in DATABASE_URL."""
    from services import migrations
    from services.database import create_database_engine
    from services.settings import load_settings

    database = load_settings().database
    migrate_to = migrations.downgrade if down else migrations.upgrade
    migrate_to(create_database_engine(database), revision)
    typer.echo(f"{database.render_as_string(hide_password=True)} is at {revision}")


def main() -> None:
    """Run ``adjourn``; what goes wrong is one line on standard error and exit code 1."""
    try:
        app()
    except Exception as error:
        from sqlalchemy.exc import DBAPIError

        from services.database import first_line
        from services.errors import AdjournError

        if isinstance(error, DBAPIError):
            sys.exit(f"adjourn: the database failed: {first_line(error)}")
        if isinstance(error, AdjournError):
            sys.exit(f"adjourn: {error}")
        raise
