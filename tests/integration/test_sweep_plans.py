"""By which way the sweeps find what is due on PostgreSQL, with a backlog and without."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from benchmarks.statements import statements_of
from services.database import create_database_engine, open_session
from services.sweeps import process_expired_conversations, process_idle_conversations
from services.tasks import DEFAULT_BATCH_SIZE
from tests.plans import crowd, plan_of
from tests.support import NOON

BACKLOG = NOON + timedelta(days=2)
NOTHING_DUE = NOON - timedelta(days=2)
#: As many pages as a sweep that finds nothing may look at.
PAGES = 10

by_either = pytest.mark.parametrize(
    ("process", "index"),
    [
        (process_idle_conversations, "conversations_active_idle_at"),
        (process_expired_conversations, "conversations_active_expires_at"),
    ],
)
in_either_mode = pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])


@pytest.fixture
def crowded(postgresql_url: str) -> Iterator[Engine]:
    engine = create_database_engine(postgresql_url)
    crowd(engine)
    yield engine
    engine.dispose()


def plan_of_a_batch(engine: Engine, process: Any, now: datetime, mode: str) -> list[dict[str, Any]]:
    """Return the nodes of the plan of a batch at ``now``, carried out, under the settings that the sweep makes.

    Without those of what is set aside: a small table, which is read once.
    """
    with statements_of(engine) as sent:
        process(engine, now=NOTHING_DUE)
    (settings, given), (batch, parameters), *_forget = sent
    with open_session(engine) as session:
        session.connection().exec_driver_sql(settings, given)
        nodes = plan_of(session, (batch, parameters | {"now": now, "moment": now}), mode, analyze=True)
    return [node for node in nodes if node.get("Relation Name") != "set_aside_conversations"]


@in_either_mode
@by_either
def test_a_batch_of_a_backlog_walks_its_index_and_neither_sorts_nor_reads_the_table(
    crowded: Engine, process: Any, index: str, mode: str
) -> None:
    nodes = plan_of_a_batch(crowded, process, BACKLOG, mode)

    (walked,) = (node for node in nodes if "Index Scan" in node["Node Type"])
    assert walked["Node Type"] == "Index Scan"
    assert walked["Index Name"] == index
    assert walked["Actual Rows"] == DEFAULT_BATCH_SIZE
    assert not {"Seq Scan", "Sort", "Bitmap Heap Scan", "Hash Join", "Merge Join"} & {
        node["Node Type"] for node in nodes
    }


@in_either_mode
@by_either
def test_a_sweep_with_nothing_due_is_one_probe_of_an_index(
    crowded: Engine, process: Any, index: str, mode: str
) -> None:
    whole, *below = plan_of_a_batch(crowded, process, NOTHING_DUE, mode)

    assert [node["Index Name"] for node in below if "Index Name" in node] == [index]
    assert whole["Shared Hit Blocks"] + whole["Shared Read Blocks"] <= PAGES


def test_a_batch_is_one_statement_between_the_beginning_and_the_end_of_its_transaction(crowded: Engine) -> None:
    with statements_of(crowded) as sent:
        sweep = process_idle_conversations(crowded, now=BACKLOG, batch_size=1_000)

    assert sweep.count == 5_000
    # Each batch, and the one that finds nothing more, after its settings; then, after its own, a look at what is aside.
    assert len(sent) == 2 * 6 + 2
    assert len({statement for statement, _ in sent}) == 2 + 2
