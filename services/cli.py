"""The command of a person: ``adjourn``. Each command imports what it needs when it runs, so that help is instant."""

# ruff: noqa: PLC0415 - see above

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="Ends idle and expired conversations on time: once each, with a record of why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - as typer calls it
    if wanted:
        from importlib.metadata import version

        typer.echo(f"adjourn {version('adjourn')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take what stands before the command."""
    del version


@app.command()
def run(
    *,
    once: Annotated[bool, typer.Option("--once", help="One cycle in this process, without Redis.")] = False,
    batch_size: Annotated[str | None, typer.Option(help="Conversations ended in one transaction.")] = None,
    interval: Annotated[str | None, typer.Option(help="From one sweep to the next: 10, 90s, 5m.")] = None,
) -> None:
    """Run scheduler and worker on this machine; SQLite and a private Redis unless the environment names others."""
    from services.embedded.run import run_once, run_until_stopped

    given = {"BACKGROUND_TASK_BATCH_SIZE": batch_size, "BACKGROUND_TASK_INTERVAL": interval}
    overrides = {variable: value for variable, value in given.items() if value is not None}
    if once and interval is not None:
        raise typer.BadParameter("--once is one cycle: it has no --interval")
    if once:
        run_once(overrides)
    else:
        run_until_stopped(overrides)


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="Where to go; 'base' removes all tables.")] = "head",
    *,
    down: Annotated[bool, typer.Option("--down", help="Go down to the revision instead of up.")] = False,
) -> None:
    """Make or update the tables in DATABASE_URL."""
    from services import migrations
    from services.database import check_reachable, create_database_engine, reading
    from services.database_url import shown_url
    from services.embedded.data_directory import prepare_data_directory
    from services.errors import InvalidValueError
    from services.settings import load_settings

    settings = load_settings()
    if settings.database_url is None:
        prepare_data_directory(settings.data_dir)
    engine = create_database_engine(settings.database)
    check_reachable(engine)
    if revision == "base" and not down:
        raise InvalidValueError("revision 'base': it is below any other; give --down as well to remove all tables")
    (migrations.downgrade if down else migrations.upgrade)(engine, revision)
    with reading(engine) as connection:
        installed = migrations.installed_revision(connection) or "base"
    typer.echo(f"{shown_url(engine.url)} is at revision {installed}")


@app.command()
def simulate(
    history: Annotated[
        Path, typer.Argument(help="CSV, plain or .gz, with the columns at and session_key; - is standard input.")
    ],
    *,
    idle_timeout: Annotated[
        list[str], typer.Option(help="End when nobody wrote for so long; give several to compare them.")
    ] = ["30m"],  # noqa: B006 - typer's own, and never changed
    expire_after: Annotated[str, typer.Option(help="End so long after the opening.")] = "24h",
    output: Annotated[Literal["table", "json", "jsonl"], typer.Option("--format", help="How to print.")] = "table",
    database: Annotated[
        str | None, typer.Option(help="Replay in a schema or SQLite file of its own there, not in a temporary file.")
    ] = None,
) -> None:
    """Replay a message history on a simulated clock, to see what timeouts would have done to it."""
    import signal

    from services.simulation.report import print_simulation

    # Stopped by a supervisor, it still takes away its schema and its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print_simulation(history, idle_timeouts=idle_timeout, expire_after=expire_after, output=output, database=database)


@app.command()
def demo(
    *,
    seconds: Annotated[int, typer.Option(min=10, max=3600, help="How long to go on.")] = 60,
    seed: Annotated[int, typer.Option(help="The same seed brings the same customers.")] = 1,
) -> None:
    """Watch real actors close and expire made-up conversations, on a stack that is gone afterwards."""
    from services.demo.command import run_demo_on_a_stack

    if not run_demo_on_a_stack(seconds=seconds, seed=seed):
        sys.exit(1)


@app.command()
def status(
    *,
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print.")] = "table",
) -> None:
    """Show who leads, who stands by, and what became of each task's slots and runs.

    It asks the Redis of REDIS_URL, from any machine. When that is not set: the private Redis of an `adjourn run` in
    ADJOURN_DATA_DIR if there is one, else redis://127.0.0.1:6379/0. What is wrong comes first. Times are in UTC, by
    Redis's clock.

    With --format json it is one object, whose keys are always there (null: unknown, or none):

    \b
    problems    worst first: kind, task, scheduler, text; kind is no_leader, loop_stuck,
                overdue, not_run, paused, run_failed or trigger_waits
    now         the instant of all this
    redis       which Redis was asked
    leader      id, host, pid, term, since, lease_ends_at
    last_term   the last term that was given
    schedulers  id, state (leading, standing_by, gone), host, pid, started_at (by its own
                clock), heard_at, loop (running, stuck)
    tasks       task, actor, schedule, next_slot, overdue, dropped (ticks that workers dropped),
                awaited_since (the first message that waits for a worker),
                last_slot: slot, outcome (enqueued, caught_up, paused), enqueued_at,
                late_seconds, term, message_id
                last_run: slot, started_at, ended_at, seconds, outcome (running, done, failed)
                paused: at, by
                waiting_trigger, last_trigger: id, at, by, message_id

    The exit code is 0 whenever it could be told, and 1 when Redis does not answer: a program looks at problems.

    A scheduler is gone, and a slot is overdue, when nothing was heard of it for a lease and five seconds.
    """  # noqa: D301 - the backspace, for Click, which folds no lines after one
    from services.operations.report import print_status

    print_status(output=output)


_TASK = typer.Argument(help="idle or expired.")


@app.command()
def pause(task: Annotated[str, _TASK]) -> None:
    """Pause a task, from any machine; its slots pass without a run.

    What is enqueued already still runs, and adjourn trigger still works. It stays paused until adjourn resume, whatever
    is restarted, but not when Redis loses its data. Which Redis is asked: adjourn status --help.
    """
    from services.operations.report import print_pause

    print_pause(task)


@app.command()
def resume(task: Annotated[str, _TASK]) -> None:
    """Let a paused task go on, with its next slot.

    Which Redis is asked: adjourn status --help.
    """
    from services.operations.report import print_resume

    print_resume(task)


@app.command()
def trigger(
    task: Annotated[str, _TASK],
    *,
    wait: Annotated[
        int, typer.Option(min=0, max=3600, metavar="SECONDS", help="How long to wait for it to be sent; 0: not.")
    ] = 5,
) -> None:
    """Have a task run once now, out of turn; the leader sends it to the workers.

    It works for a task that is paused or not scheduled, too. Without a leader it waits in Redis for the next one, and
    the exit code is 0 all the same. Which Redis is asked: adjourn status --help.
    """
    from services.operations.report import print_trigger

    print_trigger(task, seconds=wait)


def main() -> None:
    """Run ``adjourn``; what goes wrong is one line on standard error and exit code 1."""
    try:
        app()
    except Exception as error:
        from services.errors import AdjournError

        if isinstance(error, AdjournError):
            sys.exit(f"adjourn: {error}")

        from sqlalchemy.exc import DBAPIError

        from services.database import first_line

        if isinstance(error, DBAPIError):
            sys.exit(f"adjourn: the database failed: {first_line(error)}")
        raise
