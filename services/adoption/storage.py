"""The step that sets the storage parameters that sweeps want: vacuums in time, room in the primary key."""

from collections.abc import Mapping

from sqlalchemy import Connection

from services.adoption import wanted
from services.adoption.book import enter_storage
from services.adoption.facts import Facts
from services.adoption.quoting import quote_ident
from services.adoption.step import Found, Step, Work


def _parsed(options: tuple[str, ...]) -> dict[str, str]:
    return dict(option.split("=", 1) for option in options)


def _unset(facts: Facts) -> Mapping[str, str]:
    there = _parsed(facts.options)
    return {name: value for name, value in wanted.storage().items() if there.get(name) != value}


def _fillfactor(facts: Facts) -> str | None:
    """Return how full a page of the primary key may be, where that was ever said."""
    return None if facts.key_index is None else _parsed(facts.indexes[facts.key_index].options).get("fillfactor")


def _is_roomy(facts: Facts) -> bool:
    return _fillfactor(facts) == wanted.key_fillfactor()


def set_key_fillfactor(connection: Connection, key_index: str, percent: str | None) -> None:
    """Say how full a page of the primary key may be, in the caller's transaction; None leaves it to PostgreSQL."""
    clause = "RESET (fillfactor)" if percent is None else f"SET (fillfactor = {percent})"
    connection.exec_driver_sql(f"ALTER INDEX {quote_ident(key_index)} {clause}".replace("%", "%%"))


def _to_do(found: Found) -> str | None:
    unset = [f"{name} = {value}" for name, value in _unset(found.facts).items()]
    unset += [] if _is_roomy(found.facts) else [f"fillfactor = {wanted.key_fillfactor()} of the primary key"]
    return f"set {', '.join(unset)}" if unset else None


def _set(work: Work) -> str | None:
    facts = work.facts()
    unset, is_roomy = _unset(facts), _is_roomy(facts)
    if not unset and is_roomy:
        return None

    def change(connection: Connection) -> None:
        there = _parsed(facts.options)
        enter_storage(connection, {name: there.get(name) for name in wanted.storage()}, _fillfactor(facts))
        if unset:
            values = ", ".join(f"{name} = {value}" for name, value in unset.items())
            connection.exec_driver_sql(f"ALTER TABLE conversations SET ({values})")
        if not is_roomy and facts.key_index is not None:
            set_key_fillfactor(connection, facts.key_index, wanted.key_fillfactor())

    work.patiently(change)
    return f"set {', '.join([*unset, *([] if is_roomy else ['fillfactor of the primary key'])])}"


STORAGE = Step(
    "storage",
    "SHARE UPDATE EXCLUSIVE, for milliseconds: readers and writers go on; what is stored is not written anew",
    _to_do,
    _set,
)
