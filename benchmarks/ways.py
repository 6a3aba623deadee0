"""Section ``ways``: other ways to end what is due than the one that was chosen, in plain SQL on one connection.

Each ends all of it in batches and leaves what the sweep leaves, but for what its name says.
"""

import io
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from benchmarks.bench import Bench
from benchmarks.measures import Measurement
from benchmarks.postgresql import connect
from benchmarks.rows import Shape
from benchmarks.tables import loaded_postgresql
from benchmarks.yardsticks import require_ended, time_bare_update
from services.tasks import DEFAULT_BATCH_SIZE

_NAME = "ways"
_BARE = "bare UPDATE"
_START = datetime(1, 1, 2, tzinfo=UTC)

_PICK = """
SELECT conv_id, ctid AS place, status AS previous_status, idle_at AS position FROM conversations
WHERE status IN ('pending', 'progress') AND idle_at <= %(now)s AND idle_at >= %(position)s
ORDER BY idle_at LIMIT {size} FOR NO KEY UPDATE SKIP LOCKED
"""
_STATUS = "CASE WHEN c.expires_at <= c.idle_at THEN 'expired' ELSE 'idle_timeout' END"
_RETURNED = "c.conv_id, due.previous_status, c.status, least(c.idle_at, c.expires_at) AS deadline, c.updated_at"
_UPDATE = "UPDATE conversations c SET status = " + _STATUS + ", ended_at = %(now)s"
_EVENTS = (
    "conversation_events (conv_id, previous_status, status, deadline, last_activity_at, cause, sweep_id, occurred_at)"
)
_RECORD = "INSERT INTO " + _EVENTS + " SELECT *, 'sweep', %(sweep_id)s::uuid, %(now)s FROM ended"
_LAST = "SELECT count(*), max(position) FROM due"


def _one_statement(join: str, *, due: str = "due", has_events: bool = True) -> str:
    recorded = f", recorded AS ({_RECORD})" if has_events else ""
    ended = f"{_UPDATE} FROM {due} due WHERE {join} RETURNING {_RETURNED}"
    return f"WITH due AS ({_PICK}), ended AS ({ended}){recorded} {_LAST}"


_BY_KEY = _one_statement("c.conv_id = due.conv_id")
_BY_PLACE = _one_statement("c.ctid = due.place")
_PICK_ONLY = f"WITH due AS ({_PICK}) {_LAST}"
_IDS = f"SELECT array_agg(conv_id), max(position) FROM ({_PICK}) AS due"
_BY_IDS = f"""
WITH due AS (SELECT conv_id, status AS previous_status FROM conversations WHERE conv_id = ANY(%(ids)s)),
    ended AS ({_UPDATE} FROM due WHERE c.conv_id = due.conv_id RETURNING {_RETURNED}),
    recorded AS ({_RECORD})
SELECT count(*) FROM ended
"""
_RETURNING = f"""
WITH due AS ({_PICK}), ended AS ({_UPDATE} FROM due WHERE c.ctid = due.place RETURNING {_RETURNED}, due.position)
SELECT * FROM ended
"""

Connection = psycopg.Connection[tuple[Any, ...]]
#: Ends a batch: given the connection, its parameters and its size, returns how many it ended and the last position.
Batch = Callable[[Connection, dict[str, Any], int], tuple[int, datetime]]


@dataclass(frozen=True, slots=True)
class Way:
    """How to end what is due."""

    batch: Batch
    #: Changes the schema first; the time for it does not count.
    schema: str = ""
    #: For the transaction of each batch.
    settings: str = "; ".join(f"SET LOCAL enable_{what} = off" for what in ("sort", "seqscan", "hashjoin", "mergejoin"))
    #: Whether a batch goes on from where the one before ended.
    goes_on: bool = True
    #: Whether it ends conversations and writes their events.
    ends: bool = True
    records: bool = True


def _in_one(statement: str) -> Batch:
    def batch(connection: Connection, parameters: dict[str, Any], size: int) -> tuple[int, datetime]:
        row = connection.execute(statement.format(size=size).encode(), parameters, prepare=True).fetchone()
        return row or (0, _START)

    return batch


def _by_ids(connection: Connection, parameters: dict[str, Any], size: int) -> tuple[int, datetime]:
    row = connection.execute(_IDS.format(size=size).encode(), parameters, prepare=True).fetchone()
    if not row or not row[0]:
        return 0, _START
    connection.execute(_BY_IDS.encode(), parameters | {"ids": row[0]}, prepare=True)
    return len(row[0]), row[1]


def _by_copy(connection: Connection, parameters: dict[str, Any], size: int) -> tuple[int, datetime]:
    ended = connection.execute(_RETURNING.format(size=size).encode(), parameters, prepare=True).fetchall()
    written = io.StringIO()
    for conv_id, previous, status, deadline, updated_at, _ in ended:
        event = (conv_id, previous, status, deadline, updated_at, "sweep", parameters["sweep_id"], parameters["now"])
        written.write("\t".join(map(str, event)) + "\n")
    with connection.cursor() as cursor, cursor.copy(f"COPY {_EVENTS} FROM STDIN".encode()) as copy:
        copy.write(written.getvalue())
    return len(ended), max((row[5] for row in ended), default=_START)


_CHOSEN = Way(_in_one(_BY_PLACE))
_WAYS = {
    "by place (ctid): chosen": _CHOSEN,
    "by key": Way(_in_one(_BY_KEY)),
    "by place, in the table's order": Way(
        _in_one(_one_statement("c.ctid = due.place", due="(SELECT * FROM due ORDER BY place)")), settings="SELECT"
    ),
    "ids first, then by ids": Way(_by_ids),
    "events by COPY": Way(_by_copy),
    "each batch from the first deadline": Way(_in_one(_BY_PLACE), goes_on=False),
    "synchronous_commit off": Way(
        _in_one(_BY_PLACE), settings=f"{_CHOSEN.settings}; SET LOCAL synchronous_commit = off"
    ),
    "no hint to the planner": Way(_in_one(_BY_PLACE), settings="SELECT"),
    "an index on (session_key, created_at)": Way(
        _in_one(_BY_PLACE), schema="CREATE INDEX ON conversations (session_key, created_at)"
    ),
    "fill factor 80": Way(
        _in_one(_BY_PLACE), schema="ALTER TABLE conversations SET (fillfactor = 80); VACUUM FULL conversations"
    ),
    "primary key packed": Way(
        _in_one(_BY_PLACE),
        schema="ALTER INDEX conversations_pkey RESET (fillfactor); REINDEX INDEX conversations_pkey",
    ),
    "no trigger": Way(_in_one(_BY_PLACE), schema="DROP TRIGGER conversations_stay_ended ON conversations"),
    "no index on event_id": Way(
        _in_one(_BY_PLACE), schema="ALTER TABLE conversation_events DROP CONSTRAINT conversation_events_pkey"
    ),
    "no events": Way(_in_one(_one_statement("c.ctid = due.place", has_events=False)), records=False),
    "pick and lock only": Way(_in_one(_PICK_ONLY), ends=False, records=False),
}


def run(bench: Bench) -> None:
    """Measure each way in turn, beside the bare UPDATE."""
    due = bench.options.size // 5
    shape = Shape(rows=bench.options.size, due=due, waiting=2 * due, layout=bench.options.layout)

    def bare() -> float:
        with loaded_postgresql(bench, shape) as url:
            return time_bare_update(url, due=due)

    def timed(way: Way) -> Callable[[], float]:
        def take() -> float:
            with loaded_postgresql(bench, shape) as url, connect(url) as connection:
                for statement in filter(None, way.schema.split(";")):
                    connection.execute(statement.encode())
                connection.execute("CHECKPOINT")
                took = _time(connection, way)
                if way.ends:
                    require_ended(url, due=due, events=due if way.records else 0)
                return took

        return take

    figures = bench.measure(_NAME, {_BARE: bare, **{name: timed(way) for name, way in _WAYS.items()}})
    note = f"{due:,} of {shape.rows:,} rows, {shape.layout}; one connection"
    bench.keep(*(Measurement(_NAME, way, "s", tuple(runs), _BARE, note) for way, runs in figures.items()))


def _time(connection: Connection, way: Way) -> float:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    parameters = {"now": row[0] if row else _START, "position": _START, "sweep_id": uuid.uuid4()}
    began = time.perf_counter()
    while True:
        with connection.transaction():
            connection.execute(way.settings.encode())
            count, last = way.batch(connection, parameters, DEFAULT_BATCH_SIZE)
        if count < DEFAULT_BATCH_SIZE:
            return time.perf_counter() - began
        if way.goes_on:
            parameters["position"] = last
