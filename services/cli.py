"""The command of a person: ``adjourn``. Each command imports what it needs when it runs, so that help is instant."""

# ruff: noqa: PLC0415 - see above

import os
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
    foreign_writers: Annotated[
        bool | None,
        typer.Option(
            help="Install triggers for programs that write plain SQL and know updated_at, expires_at and status only, "
            "or remove them. PostgreSQL only; left as they are unless given."
        ),
    ] = None,
) -> None:
    """Make or update the tables in DATABASE_URL.

    The triggers give a conversation that comes without deadlines those of BACKGROUND_TASK_IDLE_TIMEOUT and
    BACKGROUND_TASK_EXPIRE_AFTER: run it again with --foreign-writers when these change. What they do:
    docs/conversations.md.
    """
    from services import foreign_writers as triggers
    from services import migrations
    from services.database import check_reachable, create_database_engine, reading
    from services.database_url import shown_url
    from services.embedded.data_directory import prepare_data_directory
    from services.errors import InvalidValueError
    from services.settings import load_settings
    from services.timeouts import format_duration

    if foreign_writers is not None and (down or revision != "head"):
        raise typer.BadParameter("--foreign-writers and --no-foreign-writers are for the newest revision only")
    settings = load_settings()
    engine = create_database_engine(settings.database)
    if foreign_writers is not None:
        triggers.require_postgresql(engine.dialect)
    if settings.database_url is None:
        prepare_data_directory(settings.data_dir)
    check_reachable(engine)
    if revision == "base" and not down:
        raise InvalidValueError("revision 'base': it is below any other; give --down as well to remove all tables")
    (migrations.downgrade if down else migrations.upgrade)(engine, revision)
    with reading(engine) as connection:
        installed = migrations.installed_revision(connection) or "base"
    typer.echo(f"{shown_url(engine.url)} is at revision {installed}")
    if foreign_writers is not None:
        with engine.begin() as connection:
            if foreign_writers:
                triggers.install(connection, timeouts=settings.timeouts)
            else:
                triggers.remove(connection)
        idle, expiry = format_duration(settings.idle_timeout), format_duration(settings.expire_after)
        state = f"in place; idle timeout {idle}, expire after {expiry}" if foreign_writers else "removed"
        typer.echo(f"triggers for other writers: {state}")
    engine.dispose()


@app.command()
def adopt(
    *,
    check: Annotated[bool, typer.Option("--check", help="Look, say what would be done, and change nothing.")] = False,
    overdue: Annotated[
        Literal["end", "leave"] | None,
        typer.Option(help="What becomes of conversations that are overdue: end them now, or leave them to the sweeps."),
    ] = None,
    foreign_writers: Annotated[
        bool,
        typer.Option(
            "--foreign-writers/--no-foreign-writers",
            help="Triggers keep what writers leave out, or the application gives it.",
        ),
    ] = True,
    close_duplicates: Annotated[
        bool, typer.Option("--close-duplicates", help="Of several active ones of a session key keep the latest only.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Remove what an adoption has added.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: one object, for programs.")] = False,
) -> None:
    """Make a platform's own table conversations Adjourn's, in PostgreSQL, while its writers go on.

    It goes in steps. Each finds out whether it is done, so whatever cut it short, run the same again. Rows without
    deadlines get those of BACKGROUND_TASK_IDLE_TIMEOUT and BACKGROUND_TASK_EXPIRE_AFTER. With a transaction pooler in
    between, let DATABASE_URL name the database itself for this. All of it: docs/adopting.md.

    The exit code of --check is 0 when nothing is in the way, 1 when something is. With --json it is one object:

    \b
    can_adopt    whether nothing is in the way
    now          by the database's clock
    table        schema, owner, table_bytes, indexes_bytes, rows, statuses (status, rows)
    began_at, adopted_at
                 of the adoption; null: not yet
    blockers     kind, text, advice (SQL)
    notes        sentences
    steps        name, is_done, to_do, lock
    timeouts     idle_seconds, expiry_seconds: of rows without deadlines
    would_end    count, statuses, overdue_for (how many for how long), lively (with activity
                 within the idle timeout); null: unknown
    duplicates   session_keys, first (conv_ids, latest activity first); null: unknown
    """  # noqa: D301 - the backspace, for Click
    from services.adoption.command import print_adoption, print_check, print_undo

    if as_json and not check:
        raise typer.BadParameter("--json is for --check")
    if undo and (check or overdue or close_duplicates or not foreign_writers):
        raise typer.BadParameter("--undo goes alone")
    if undo:
        print_undo()
    elif not check:
        print_adoption(foreign_writers=foreign_writers, overdue=overdue, close_duplicates=close_duplicates)
    elif not print_check(
        foreign_writers=foreign_writers, overdue=overdue, close_duplicates=close_duplicates, as_json=as_json
    ):
        sys.exit(1)


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
def traffic(
    *,
    rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="New customers a second.")] = 5.0,
    seconds: Annotated[
        int | None, typer.Option(min=1, help="How long to go on; without it, until it is stopped.")
    ] = None,
) -> None:
    """Write made-up conversations into DATABASE_URL, to see something happen: not into a database that you need.

    Customers who do not exist write to companies that do not exist, a minute of theirs in a second. Their conversations
    idle out after 20 s and expire after 40 s; some are closed. Sweeps end them among all others, and they stay in the
    tables: their owners are kite-airlines, maple-bank, harbour-inn, pedal-and-co and lumen-energy.

    A database that is away is waited for.
    """
    from services.demo.stream import write_traffic

    write_traffic(rate=rate, seconds=seconds)


@app.command()
def status(
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Again every 2 s, until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One object, for programs; with --watch one a line.")] = False,
) -> None:
    """Show whether conversations end on time, what is wrong, who leads and works, and what became of each task.

    It asks the Redis of REDIS_URL and the database of DATABASE_URL, from any machine, and shows what one of them tells
    when the other does not answer. Without REDIS_URL: the private Redis of an `adjourn run` in ADJOURN_DATA_DIR if
    there is one, else redis://127.0.0.1:6379/0. Without DATABASE_URL: the SQLite of ADJOURN_DATA_DIR. Times are in UTC,
    by Redis's clock.

    With --json it is one object, whose keys are always there (null: unknown, or none):

    \b
    punctuality  on_time, at_risk (none is overdue, but something is wrong that may make
                 them so, or some are set aside), late or unknown
    problems     worst first: kind, task, scheduler, worker, text; kind is redis_down, redis_full,
                 database_down, no_leader, no_worker, overdue_conversations, no_success,
                 loop_stuck, overdue, not_run, paused, run_failed, worker_gone,
                 set_aside, dead_letters or trigger_waits
    now, clock   the instant of all this; by whose clock: redis, database or machine
    redis, database
                 url, state (answers, down, absent: no embedded database yet), error
    leader       id, host, pid, term, since, lease_ends_at
    last_term    the last term that was given
    schedulers   id, state (leading, standing_by, gone), host, pid, started_at (by its own
                 clock), heard_at, loop (running, stuck)
    workers      one a process: id, alive, host, pid, started_at (by its own clock),
                 heard_at, threads, busy
    backlog      source (database, or worker: measured before), measured_at, active,
                 active_is_estimate, set_aside
    tasks        task, actor, due, due_is_capped (there are more), oldest_due_seconds,
                 schedule, interval_seconds, next_slot, overdue, last_success_at,
                 runs, failures, ended (conversations): since Redis has its data,
                 dropped (ticks that workers dropped),
                 awaited_since (the first message that waits for a worker),
                 last_slot: slot, outcome (enqueued, caught_up, paused), enqueued_at,
                 late_seconds, term, message_id
                 last_run: slot, started_at, ended_at, seconds, outcome (running, done,
                 failed), error
                 paused: at, by
                 waiting_trigger, last_trigger: id, at, by, message_id
    queues       name, waiting (messages), dead (letters)

    The exit code is 0 when both could be asked, 1 when Redis or the database could not; by health: adjourn health.

    A scheduler is gone, and a slot is overdue, when nothing was heard of it for a lease and five seconds; a worker is
    gone after 15 seconds. Conversations are overdue when one is due for more than three intervals of its task, or for
    three minutes where nobody knows those.
    """  # noqa: D301 - the backspace, for Click, which folds no lines after one
    if watch:
        from services.operations.watch import watch_status

        watch_status(as_json=as_json)
        return

    from services.operations.status_report import print_status

    if not print_status(as_json=as_json):
        sys.exit(1)


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


@app.command()
def health(
    role: Annotated[Literal["worker", "scheduler"] | None, typer.Argument(help="Which one; both unless given.")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="The whole report, for programs.")] = False,
    url: Annotated[
        str | None, typer.Option(help="Where it answers, such as http://10.0.0.7:9191; this machine when left out.")
    ] = None,
) -> None:
    """Ask the worker and the scheduler of this machine how they are.

    The exit code is 0 when healthy, 1 when degraded, 2 when stopped, which is also what does not answer within 3
    seconds; of both, the worse. What is judged, and how soon it shows: docs/health.md.

    It asks where dramatiq_prom_port (9191) and BACKGROUND_TASK_SCHEDULER_METRICS_PORT (9192) say, or where an adjourn
    run in ADJOURN_DATA_DIR has written that it is.
    """
    from services.health import Role
    from services.operations.health_report import print_health

    if url is not None and role is None:
        raise typer.BadParameter("--url is where one of them answers: name worker or scheduler")
    code = print_health([Role(role)] if role else list(Role), url=url, as_json=as_json)
    sys.stdout.flush()
    # At once: a thread that still waits for an answer, or imports something, must not meet Python taking itself apart.
    os._exit(code)


dead_letters = typer.Typer(
    help="Look at messages that failed for good; requeue or drop them. Which Redis is asked: adjourn status --help.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(dead_letters, name="dead-letters")

_QUEUE = typer.Option("--queue", help="Those of this queue only.")
_ID = typer.Argument(metavar="ID", help="Its id, or as much of it as names one letter.")


@dead_letters.command("list")
def list_dead_letters(
    *,
    queue: Annotated[str | None, _QUEUE] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One object, for programs.")] = False,
) -> None:
    """List the newest, and why each failed.

    Their arguments are not shown; adjourn dead-letters show does.
    """
    from services.operations.dead_letters_report import print_letters

    print_letters(queue=queue, limit=limit, as_json=as_json)


@dead_letters.command("show")
def show_dead_letter(
    wanted: Annotated[str, _ID],
    *,
    queue: Annotated[str | None, _QUEUE] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object, for programs.")] = False,
) -> None:
    """Show all about one, its arguments too."""
    from services.operations.dead_letters_report import print_letter

    print_letter(wanted, queue=queue, as_json=as_json)


@dead_letters.command("requeue")
def requeue_dead_letters(
    wanted: Annotated[list[str] | None, _ID] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
    queue: Annotated[str | None, _QUEUE] = None,
) -> None:
    """Have them run again, as if they were sent now.

    A tick runs, too, whatever has run since its slot. The exit code is 1 when one was not found or no worker could
    read it.
    """
    from services.operations.dead_letters_report import print_requeue

    _check_choice(wanted, every=every)
    if not print_requeue(wanted or [], queue=queue):
        sys.exit(1)


@dead_letters.command("drop")
def drop_dead_letters(
    wanted: Annotated[list[str] | None, _ID] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that there are; asks first.")] = False,
    queue: Annotated[str | None, _QUEUE] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove them for good.

    The exit code is 1 when one was not found.
    """
    from services.operations.dead_letters_report import count_letters, print_drop

    _check_choice(wanted, every=every)
    if every and not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("--all where nobody can be asked takes --yes as well")
        count = count_letters(queue)
        if count:
            typer.confirm(f"drop {count:,} dead letters for good?", abort=True)
    if not print_drop(wanted or [], queue=queue):
        sys.exit(1)


def _check_choice(wanted: list[str] | None, *, every: bool) -> None:
    if bool(wanted) == every:
        raise typer.BadParameter("give ids, or --all")


set_aside = typer.Typer(
    help="Look at conversations whose end the database refuses; have them tried again. Asks DATABASE_URL.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(set_aside, name="set-aside")


@set_aside.command("list")
def list_set_aside(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One object, for programs.")] = False,
) -> None:
    """List those that have been set aside for longest, and what the database says of each.

    With --json: total, and conversations with conv_id, reason, tries, set_aside_at, tried_at and retry_at.
    """
    from services.operations.set_aside_report import print_set_aside

    print_set_aside(limit=limit, as_json=as_json)


@set_aside.command("retry")
def retry_set_aside(
    conv_ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="The conversation's id.")] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All that there are.")] = False,
) -> None:
    """Have the next sweep try them, instead of in a minute to an hour.

    The exit code is 1 when one is not set aside.
    """
    from services.operations.set_aside_report import print_retry

    _check_choice(conv_ids, every=every)
    if not print_retry(conv_ids or None):
        sys.exit(1)


def main() -> None:
    """Run ``adjourn``; what goes wrong is one line on standard error and exit code 1."""
    try:
        app()
    except Exception as error:
        from services.errors import AdjournError, first_line

        if isinstance(error, AdjournError):
            sys.exit(f"adjourn: {error}")

        from sqlalchemy.exc import DBAPIError

        if isinstance(error, DBAPIError):
            sys.exit(f"adjourn: the database failed: {first_line(error)}")
        raise
