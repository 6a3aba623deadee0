"""Triggers of the platform's own, which Adjourn's changes fire as anybody's do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.adoption import wanted
from services.adoption.quoting import quote_ident

#: What the fill sets, which is what a trigger ``UPDATE OF`` goes by.
_FILLED = {"session_key", "metadata", "created_at", "idle_at", "expires_at", "ended_at"}
#: The triggers for other writers begin so.
_FOR_WRITERS = "zz_adjourn_"


@dataclass(frozen=True, slots=True)
class _Trigger:
    name: str
    is_before: bool
    for_each_row: bool
    #: By name; none: whatever an UPDATE sets.
    of_columns: frozenset[str]
    on_update: bool

    @property
    def is_fired_by_fill(self) -> bool:
        """Whether the fill fires it, as far as its WHEN lets it."""
        return self.on_update and (not self.of_columns or bool(self.of_columns & _FILLED))


def note_triggers(connection: Connection, *, fills: bool) -> Iterator[str]:
    """Yield the notes on enabled triggers; ``fills``: whether there are rows to be filled."""
    found = _read(connection)
    of_fill = [one for one in found if fills and one.is_fired_by_fill]
    before = [one.name for one in of_fill if one.is_before and one.for_each_row]
    after = [one.name for one in of_fill if one.name not in before]
    if before:
        yield (
            f"triggers BEFORE UPDATE: {', '.join(before)}. The fill fires them for every row that it fills, as do the "
            "UPDATEs of advice. One that sets updated_at would make all of history look as if its last message were of "
            f"today: the fill stops at the first such row, which stays as it was. {_how_to_pass(before)}"
        )
    if after:
        yield (
            f"other triggers at an UPDATE: {', '.join(after)}. The fill fires them for every row of history, with what "
            f"they do: a line in an audit table, a notification. {_how_to_pass(after)}"
        )
    if others := [one.name for one in found if one.name not in {*before, *after}]:
        yield f"triggers that are there, and fire for Adjourn's changes as well: {', '.join(others)}"


def _how_to_pass(names: Sequence[str]) -> str:
    """Return what keeps triggers from firing during the fill."""
    disable, enable = (
        ", ".join(f"{verb} TRIGGER {quote_ident(name)}" for name in names) for verb in ("DISABLE", "ENABLE")
    )
    return (
        "To have them leave Adjourn's changes alone, those of sweeps too, make them anew with WHEN "
        "(current_setting('application_name') <> 'adjourn'). To have them fire for nobody meanwhile: ALTER TABLE "
        f"conversations {disable}; after the step fill: ALTER TABLE conversations {enable}"
    )


def _read(connection: Connection) -> list[_Trigger]:
    ours = wanted.triggers()
    return [
        _Trigger(name, is_before, for_each_row, frozenset(of_columns), on_update)
        for name, is_before, for_each_row, of_columns, on_update in connection.execute(_TRIGGERS)
        if name not in ours and not name.startswith(_FOR_WRITERS)
    ]


#: Those that fire in an ordinary session. The bits of ``tgtype``: 1 for each row, 2 before, 16 at an UPDATE.
_TRIGGERS = text("""
SELECT tgname::text, tgtype & 2 <> 0, tgtype & 1 <> 0, of_columns, tgtype & 16 <> 0
FROM pg_trigger, LATERAL (
    SELECT coalesce(array_agg(attname::text), '{}') AS of_columns
    FROM pg_attribute WHERE attrelid = tgrelid AND attnum = ANY (tgattr::int2[])
) AS named
WHERE tgrelid = to_regclass('conversations') AND NOT tgisinternal AND tgenabled IN ('O', 'A') ORDER BY tgname
""")
