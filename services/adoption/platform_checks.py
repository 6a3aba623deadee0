"""CHECKs of the platform's own that refuse what Adjourn writes, or that rows break already."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, text

from services.adoption import wanted
from services.adoption.blockers import Blocker, Finding
from services.adoption.expressions import STATUSES, changed_rows, statuses_where, try_out
from services.adoption.facts import TABLE, Facts
from services.adoption.quoting import quote_ident, quote_literal
from services.wording import counted

#: What a change of status writes.
_CHANGING = {"status", "ended_at"}
#: What an adoption that was cut short may have left begins so, too.
_OURS = "adjourn_"


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    columns: frozenset[str]
    #: What has to be true, or NULL.
    condition: str
    definition: str
    #: Whether every row is known to satisfy it.
    valid: bool
    #: It is a NOT NULL, which PostgreSQL 18 has as a constraint.
    is_not_null: bool


def judge_checks(connection: Connection, facts: Facts) -> Iterator[Finding]:
    """Yield what is in the way of such CHECKs, and what is to be known of them."""
    doubtful = []
    for check in _read(connection):
        # What is NULL of ours is filled, or in the way by itself.
        if not check.valid and not (check.is_not_null and check.columns <= wanted.columns().keys()):
            yield _judge_broken(connection, check)
        if check.is_not_null or not check.columns & _CHANGING:
            continue
        refused = _refused(connection, facts, check)
        if refused is None:
            yield (
                f"the CHECK {check.name} could not be tried out by {facts.user}: it has to let pass "
                f"{', '.join(STATUSES)}"
            )
        elif refused:
            yield _refusing(check, refused)
        elif check.columns != {"status"}:
            doubtful.append(check.name)
    if doubtful:
        yield (
            f"CHECKs of the platform's own that may refuse an end: {', '.join(doubtful)}. All that is active now could "
            "be ended; a row that cannot keeps sweeps from ending any of its batch"
        )


def _read(connection: Connection) -> list[_Check]:
    found = connection.execute(_CHECKS)
    checks = [_Check(name, frozenset(columns), *rest) for name, columns, *rest in found]
    return [check for check in checks if check.name not in wanted.checks() and not check.name.startswith(_OURS)]


def _refused(connection: Connection, facts: Facts, check: _Check) -> tuple[str, ...] | None:
    """Return the statuses that a CHECK refuses, whatever else a row says, or to one that is there; None: unknown."""
    if check.columns == {"status"}:
        return statuses_where(connection, facts, f"NOT ({check.condition})")
    rows = changed_rows(facts)
    found = try_out(connection, f"SELECT DISTINCT became FROM {rows} WHERE NOT ({check.condition})")  # noqa: S608 - the catalogs' words
    return None if found is None else tuple(status for status in STATUSES if (status,) in found)


def _refusing(check: _Check, refused: tuple[str, ...]) -> Blocker:
    name = quote_ident(check.name)
    allowed = ", ".join(quote_literal(status) for status in refused)
    advice = (
        f"ALTER TABLE conversations DROP CONSTRAINT {name},\n"
        f"    ADD CONSTRAINT {name} CHECK (({check.condition}) OR status IN ({allowed})) NOT VALID;"
    )
    if check.valid:
        advice += f"\nALTER TABLE conversations VALIDATE CONSTRAINT {name};"
    for_rows = "" if check.columns == {"status"} else " to rows that are there, with what else they say"
    return Blocker(
        "refused_statuses",
        f"the CHECK {check.name} refuses {', '.join(refused)}{for_rows}",
        advice,
    )


def _judge_broken(connection: Connection, check: _Check) -> Finding:
    found = try_out(connection, f"SELECT count(*) FROM {TABLE} WHERE NOT ({check.condition})")  # noqa: S608 - the catalogs' words
    if not found:
        return (
            f"the constraint {check.name} is NOT VALID: whether old rows break it could not be found out; one that "
            "does stops the fill"
        )
    broken = found[0][0]
    if not broken:
        return (
            f"the constraint {check.name} is NOT VALID, but no row breaks it: ALTER TABLE … VALIDATE CONSTRAINT says so"
        )
    name = quote_ident(check.name)
    return Blocker(
        "broken_rows",
        f"the constraint {check.name} is NOT VALID, and {counted(broken, 'row')} would not satisfy it: nothing can be "
        "changed there, neither filled nor ended",
        f"-- better, mend the rows: SELECT * FROM conversations WHERE NOT ({check.condition})\n"  # noqa: S608 - to be read
        f"ALTER TABLE conversations DROP CONSTRAINT {name};\n"
        f"-- once they are mended: ALTER TABLE conversations ADD CONSTRAINT {name} {check.definition}",
    )


#: CHECKs, and NOT NULLs that are not known to hold for all.
_CHECKS = text("""
SELECT conname, columns, coalesce(pg_get_expr(conbin, conrelid), format('%I IS NOT NULL', columns[1])),
       pg_get_constraintdef(oid), convalidated, contype = 'n'
FROM pg_constraint, LATERAL (
    SELECT coalesce(array_agg(attname::text), '{}') AS columns
    FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey)
) AS named
WHERE conrelid = to_regclass('conversations') AND (contype = 'c' OR contype = 'n' AND NOT convalidated) ORDER BY conname
""")
