import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, make_url, text
from sqlmodel import SQLModel

from services import foreign_writers, migrations
from services.database import check_database, create_database_engine
from services.errors import AdjournError, DatabaseNotMigratedError, DatabaseUnavailableError, InvalidValueError
from tests.support import TIMEOUTS, all_conversations, opened

TABLES = {"conversations", "conversation_events", "latest_conversations", "set_aside_conversations"}


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine on a database that was never migrated."""
    if request.param == "sqlite":
        engine = create_database_engine(f"sqlite:///{tmp_path / 'empty.db'}")
    else:
        engine = create_database_engine(request.getfixturevalue("empty_postgresql_url"))
    yield engine
    engine.dispose()


def rows(engine: Engine, query: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def postgresql_schema(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    return {
        "columns": rows(
            engine,
            "SELECT table_name, ordinal_position, column_name, data_type, character_maximum_length, is_nullable, "
            "column_default, is_identity, identity_generation, is_generated, generation_expression "
            "FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'adjourn_version' "
            "ORDER BY table_name, ordinal_position",
        ),
        "constraints": rows(
            engine,
            "SELECT conrelid::regclass::text AS relation, conname, pg_get_constraintdef(oid) AS definition "
            "FROM pg_constraint WHERE connamespace = 'public'::regnamespace "
            "AND conrelid::regclass::text <> 'adjourn_version' ORDER BY 1, 2",
        ),
        "storage": rows(engine, "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL ORDER BY 1"),
        "triggers": rows(
            engine,
            "SELECT pg_get_triggerdef(t.oid) AS trigger, pg_get_functiondef(tgfoid) AS function, "
            "has_function_privilege('public', tgfoid, 'EXECUTE') AS anybody "
            "FROM pg_trigger t WHERE NOT tgisinternal ORDER BY tgname",
        ),
        "indexes": rows(
            engine,
            "SELECT indexname, indexdef FROM pg_indexes "
            "WHERE schemaname = 'public' AND tablename <> 'adjourn_version' ORDER BY indexname",
        ),
    }


def sqlite_schema(engine: Engine) -> dict[str, Any]:
    found: dict[str, Any] = {"tables": {one["name"] for one in rows(engine, "PRAGMA table_list")}}
    found["tables"] -= {"adjourn_version"}
    found["triggers"] = rows(
        engine, "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    )
    for table in sorted(TABLES):
        (written,) = rows(engine, f"SELECT sql FROM sqlite_master WHERE type = 'table' AND name = '{table}'")
        found[f"{table} columns"] = rows(engine, f"PRAGMA table_xinfo({table})")
        # Each clause of CREATE TABLE for itself, because the order of the constraints says nothing.
        clauses = re.split(r",\s*\n", str(written["sql"]))
        found[f"{table} clauses"] = sorted(
            re.sub(r"\s+", " ", clause.split("(\n", 1)[-1]).strip(" )\n\t") for clause in clauses
        )
        for index in rows(engine, f"PRAGMA index_list({table})"):
            name = index.pop("name")
            index.pop("seq")
            (sql,) = rows(engine, f"SELECT sql FROM sqlite_master WHERE name = '{name}'")
            found[f"{table} index {name}"] = (index, rows(engine, f"PRAGMA index_xinfo({name})"), sql)
    return found


def schema(engine: Engine) -> dict[str, Any]:
    return sqlite_schema(engine) if engine.dialect.name == "sqlite" else postgresql_schema(engine)


def objects(engine: Engine) -> list[tuple[Any, ...]]:
    """Return everything that the database holds, by kind and name."""
    everything = (
        "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        if engine.dialect.name == "sqlite"
        else "SELECT relkind::text, relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND "
        "relkind <> 'i'"
        " UNION SELECT typtype::text, typname FROM pg_type WHERE typnamespace = 'public'::regnamespace"
        " AND typtype NOT IN ('b', 'c')"
    )
    return sorted(tuple(row.values()) for row in rows(engine, everything))


def test_the_tables_of_the_migrations_are_exactly_those_of_the_models(empty_engine: Engine) -> None:
    SQLModel.metadata.create_all(empty_engine)
    of_the_models = schema(empty_engine)
    SQLModel.metadata.drop_all(empty_engine)
    assert objects(empty_engine) == []

    migrations.upgrade(empty_engine)

    assert schema(empty_engine) == of_the_models


def test_the_schema_that_is_compared_holds_what_must_not_be_forgotten(empty_engine: Engine) -> None:
    migrations.upgrade(empty_engine)
    written = repr(schema(empty_engine))

    for name in (
        "conversations_status_check",
        "conversations_ended_at_check",
        "conversations_active_session_key",
        "conversations_active_idle_at",
        "conversations_active_expires_at",
        "conversation_events_conv_id_ended",
        "conversations_stay_ended",
        *(
            ["conversations_idle_at_instant", "conversations_instants_insert", "conversations_instants_update"]
            if empty_engine.dialect.name == "sqlite"
            else ["timestamp with time zone", "conversations_instants_check"]
        ),
    ):
        assert name in written
    assert len(re.findall(r"CREATE UNIQUE INDEX \w*active_session_key .{0,80}WHERE", written)) == 1


def test_alembic_itself_finds_no_difference(engine: Engine) -> None:
    with engine.connect() as connection:
        opts = {"compare_type": True, "version_table": migrations.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, SQLModel.metadata) == []


def test_down_to_base_leaves_nothing_and_up_again_makes_the_same(empty_engine: Engine) -> None:
    migrations.upgrade(empty_engine)
    first = schema(empty_engine)

    migrations.downgrade(empty_engine, "base")

    assert [name for _, name in objects(empty_engine)] == ["adjourn_version"]
    migrations.upgrade(empty_engine)
    assert schema(empty_engine) == first
    opened(empty_engine)


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(engine: Engine) -> None:
    conversation = opened(engine)
    before = schema(engine)

    migrations.upgrade(engine)

    assert schema(engine) == before
    assert [one.conv_id for one in all_conversations(engine)] == [conversation.conv_id]
    check_database(engine)


def test_every_revision_can_be_taken_back_one_by_one(engine: Engine) -> None:
    while True:
        with engine.connect() as connection:
            if migrations.installed_revision(connection) is None:
                break
        migrations.downgrade(engine, "-1")

    assert not TABLES & set(inspect(engine).get_table_names())


def test_a_migrated_database_passes_the_check(engine: Engine) -> None:
    check_database(engine)


def test_a_database_that_was_never_migrated_is_said_to_be(empty_engine: Engine) -> None:
    with pytest.raises(DatabaseNotMigratedError, match=r"has no Adjourn tables; run: adjourn migrate$") as refused:
        check_database(empty_engine)

    assert "\n" not in str(refused.value)
    assert objects(empty_engine) == []


def test_a_database_whose_tables_were_dropped_is_said_to_have_none(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE conversations"))

    with pytest.raises(DatabaseNotMigratedError, match=r"has no Adjourn tables; run: adjourn migrate"):
        check_database(engine)


def test_a_database_of_an_earlier_version_is_said_to_be(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = migrations.known_revisions()[0]
    monkeypatch.setattr(migrations, "known_revisions", lambda: ["9999", installed])

    with pytest.raises(DatabaseNotMigratedError) as refused:
        check_database(engine)

    said = str(refused.value)
    assert f"is at revision {installed}, this version needs 9999; run: adjourn migrate" in said
    assert "\n" not in said


def test_a_database_of_a_later_version_is_taken_so_that_an_upgrade_can_roll(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE adjourn_version SET version_num = '9999'"))

    check_database(engine)


def test_a_version_table_of_the_platforms_own_is_left_alone(empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))

    migrations.upgrade(empty_engine)
    check_database(empty_engine)
    migrations.downgrade(empty_engine, "base")

    assert rows(empty_engine, "SELECT * FROM alembic_version") == [{"version_num": "0001"}]


def made_by_somebody_else(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE conversations (status text)"))


def test_a_table_that_somebody_else_made_is_neither_migrated_nor_used(empty_engine: Engine) -> None:
    made_by_somebody_else(empty_engine)
    before = objects(empty_engine)
    on_sqlite = empty_engine.dialect.name == "sqlite"
    advice = "give it another one" if on_sqlite else "see what adopting it would do with: adjourn adopt --check"

    for use in (migrations.upgrade, check_database):
        with pytest.raises(
            AdjournError, match=f"a table conversations that Adjourn did not make; {advice}$"
        ) as refused:
            use(empty_engine)
        assert "\n" not in str(refused.value)

    assert objects(empty_engine) == before


def test_a_table_whose_adoption_has_not_ended_is_said_to_be(empty_postgresql_url: str) -> None:
    engine = create_database_engine(empty_postgresql_url)
    made_by_somebody_else(engine)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {migrations.ADOPTION_TABLE} (adopted_at timestamptz)"))

    for use in (migrations.upgrade, check_database):
        with pytest.raises(AdjournError, match=r"not adopted to the end; run: adjourn adopt$"):
            use(engine)

    with engine.begin() as connection:
        migrations.stamp(connection)
        assert migrations.installed_revision(connection) == migrations.known_revisions()[0]
    migrations.upgrade(engine)
    engine.dispose()


def test_what_was_adopted_is_not_dropped(postgresql_url: str) -> None:
    engine = create_database_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {migrations.ADOPTION_TABLE} (adopted_at timestamptz)"))

    for revision in ("base", "-1", "-3", "0001-1"):
        with pytest.raises(InvalidValueError, match=r"not Adjourn's to drop; give it back with: adjourn adopt --undo$"):
            migrations.downgrade(engine, revision)
    migrations.downgrade(engine, "0001")

    assert "conversations" in inspect(engine).get_table_names()
    engine.dispose()


def test_down_to_base_takes_the_triggers_for_other_writers_along(empty_postgresql_url: str) -> None:
    engine = create_database_engine(empty_postgresql_url)
    migrations.upgrade(engine)
    with engine.begin() as connection:
        foreign_writers.install(connection, timeouts=TIMEOUTS)

    migrations.downgrade(engine, "base")

    assert rows(engine, "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    engine.dispose()


def test_of_many_that_migrate_at_once_each_finds_the_tables_made(empty_postgresql_url: str) -> None:
    upgrade = "import sys; from services import migrations; from services.database import create_database_engine;"
    upgrade += "migrations.upgrade(create_database_engine(sys.argv[1]))"
    started = [
        subprocess.Popen([sys.executable, "-c", upgrade, empty_postgresql_url], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]

    assert [(process.communicate(timeout=60)[1], process.returncode) for process in started] == [("", 0)] * 3


def unreachable(url: str) -> str:
    engine = create_database_engine(url)
    with pytest.raises(DatabaseUnavailableError, match=r"^cannot use the database at ") as refused:
        check_database(engine)
    engine.dispose()
    said = str(refused.value)
    assert "\n" not in said
    return said


def test_a_file_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    assert "unable to open database file" in unreachable(f"sqlite:///{tmp_path / 'nowhere' / 'adjourn.db'}")


def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "adjourn.db"
    path.write_text("not a database at all, but long enough to be taken for the header of one " * 20)

    assert "file is not a database" in unreachable(f"sqlite:///{path}")


def test_a_server_that_does_not_answer_is_said_in_one_line_without_the_password() -> None:
    said = unreachable("postgresql://me:pa55word@127.0.0.1:1/name")

    assert "pa55word" not in said
    assert "127.0.0.1" in said


def test_a_database_that_does_not_exist_is_said_in_one_line(postgresql_url: str) -> None:
    gone = make_url(postgresql_url).set(database="adjourn_gone")

    assert "does not exist" in unreachable(gone.render_as_string(hide_password=False))
